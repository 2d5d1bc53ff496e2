// Tokenizers from GGUF metadata against the originals: SentencePiece, and the same vocabularies as tokenizer.json.
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

#include <QTest>

#include <filesystem>

using namespace spartan;

namespace {

Json read(const std::string& path) {
    auto json = read_json_file(path);
    if (!json) qFatal("%s", json.error().message().c_str());
    return *json;
}

// The vocabulary of a tokenizer.json as a GGUF file would hold it.
GgufTokenizerData as_gguf(const Json& tokenizer, const std::string& pre) {
    GgufTokenizerData d;
    d.model = "gpt2";
    d.pre = pre;
    for (const auto& [text, id] : tokenizer["model"]["vocab"].items()) {
        d.tokens.resize(std::max(d.tokens.size(), id.get<size_t>() + 1));
        d.tokens[id.get<size_t>()] = text;
    }
    d.token_type.assign(d.tokens.size(), 1);
    for (const Json& added : tokenizer["added_tokens"]) {
        const size_t id = added["id"];
        if (id >= d.tokens.size()) {
            d.tokens.resize(id + 1);
            d.token_type.resize(id + 1, 1);
        }
        d.tokens[id] = added["content"];
        d.token_type[id] = added["special"].get<bool>() ? 3 : 4;
    }
    for (const Json& merge : tokenizer["model"]["merges"])
        d.merges.push_back(merge.is_string() ? merge.get<std::string>()
                                             : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    return d;
}

GgufTokenizerData tiny(const std::string& model) {
    GgufTokenizerData d;
    d.model = model;
    d.tokens = {"<unk>", "a", "b", "ab"};
    d.token_type = {2, 1, 1, 1};
    d.scores = {0, -2, -3, -1};
    d.merges = {"a b"};
    d.unk = 0;
    d.add_bos = false;
    return d;
}

}  // namespace

class GgufTokenizerTest : public QObject {
    Q_OBJECT

private slots:
    void equals_sentencepiece_data() {
        QTest::addColumn<QString>("name");
        QTest::newRow("prefix") << "sentencepiece.json";
        QTest::newRow("no prefix") << "sentencepiece_no_prefix.json";
    }
    void equals_sentencepiece() {
        QFETCH(QString, name);
        const Json json = read(std::string(TESTS_DIR) + "/fixtures/gguf_tokenizers/" + name.toStdString());
        const Json& m = json["metadata"];
        GgufTokenizerData d;
        d.model = m["model"];
        d.tokens = m["tokens"].get<std::vector<std::string>>();
        d.scores = m["scores"].get<std::vector<float>>();
        d.token_type = m["token_type"].get<std::vector<int32_t>>();
        d.bos = m["bos"];
        d.eos = m["eos"];
        d.unk = m["unk"];
        d.add_space_prefix = m["add_space_prefix"].get<bool>();
        auto made = make_gguf_tokenizer(std::move(d), "m.gguf");
        QVERIFY2(made.has_value(), made ? "" : made.error().message().c_str());
        const Tokenizer& tokenizer = **made;
        for (const Json& c : json["cases"]) {
            const std::string text = c["text"];
            std::vector<Token> ids = c["ids"];
            QCOMPARE(tokenizer.encode(text, false, SpecialTokens::parse), ids);
            QCOMPARE(tokenizer.decode(ids, true), c["decoded"].get<std::string>());
            ids.insert(ids.begin(), 1);  // BOS where the file does not say otherwise
            QCOMPARE(tokenizer.encode(text, true, SpecialTokens::parse), ids);
        }
        // Control and byte tokens are never built out of text.
        QCOMPARE(tokenizer.encode("<s>", false, SpecialTokens::parse), std::vector<Token>{1});
        for (Token id : tokenizer.encode("<s></s><0x41>", false, SpecialTokens::as_text))
            QVERIFY(!tokenizer.is_special(id));
        QCOMPARE(tokenizer.decode(tokenizer.encode("x<s>y</s><0x41>", false, SpecialTokens::as_text), true),
                 std::string("x<s>y</s><0x41>"));
    }

    void equals_tokenizer_json_data() {
        QTest::addColumn<QString>("folder");
        QTest::addColumn<QString>("pre");
        QTest::newRow("smollm") << "smollm"
                                << "smollm";
        QTest::newRow("llama-bpe") << "llama3"
                                   << "llama-bpe";
        QTest::newRow("tekken") << "tekken"
                                << "tekken";
        QTest::newRow("deepseek-v3") << "deepseek_v3"
                                     << "deepseek-v3";
        QTest::newRow("deepseek-coder") << "deepseek_coder"
                                        << "deepseek-coder";
    }
    void equals_tokenizer_json() {
        QFETCH(QString, folder);
        QFETCH(QString, pre);
        const std::string path = std::string(TESTS_DIR) + "/fixtures/tokenizers/" + folder.toStdString();
        GgufTokenizerData d = as_gguf(read(path + "/tokenizer.json"), pre.toStdString());
        d.bos = 0;  // <s>, put before the text by default with llama-bpe and tekken only
        auto made = make_gguf_tokenizer(std::move(d), "m.gguf");
        QVERIFY2(made.has_value(), made ? "" : made.error().message().c_str());
        for (const Json& c : read(path + "/expected.json")) {
            const std::vector<Token> ids = c["ids"];
            QCOMPARE((*made)->encode(c["text"].get<std::string>(), true, SpecialTokens::parse), ids);
            QCOMPARE((*made)->decode(ids, true), c["decoded"].get<std::string>());
        }
    }

    void splits_qwen2() {
        GgufTokenizerData d =
            as_gguf(read(std::string(TESTS_DIR) + "/fixtures/tokenizers/qwen2/tokenizer.json"), "qwen2");
        auto made = make_gguf_tokenizer(std::move(d), "m.gguf");
        QVERIFY(made.has_value());
        const Tokenizer& t = **made;
        QCOMPARE(t.encode("e\u0301", true, SpecialTokens::parse), t.encode("\u00e9", true, SpecialTokens::parse));
        for (Token id : t.encode("1234", true, SpecialTokens::parse)) QCOMPARE(t.token_text(id).size(), size_t{1});
    }

    void is_smollm2() {
        const std::string path = cache_dir() + "/SmolLM2-135M-Instruct.Q4_1.gguf";
        if (!std::filesystem::exists(path)) QSKIP("the demo model is not in the cache folder; app/run.sh fetches it");
        auto opened = open_model(path);
        QVERIFY2(opened.has_value(), opened ? "" : opened.error().message().c_str());
        QVERIFY(opened->tokenizer);
        for (const Json& c : read(std::string(TESTS_DIR) + "/fixtures/gguf_tokenizers/smollm2.json")["cases"]) {
            const std::vector<Token> ids = c["ids"];
            QCOMPARE(opened->tokenizer->encode(c["text"].get<std::string>(), true, SpecialTokens::parse), ids);
            QCOMPARE(opened->tokenizer->decode(ids, true), c["decoded"].get<std::string>());
        }
    }

    void refuses_data() {
        QTest::addColumn<GgufTokenizerData>("data");
        QTest::addColumn<QString>("message");
        const auto add = [](const char* name, const char* model, auto change, const char* message) {
            GgufTokenizerData d = tiny(model);
            change(d);
            QTest::newRow(name) << d << QString::fromUtf8(message);
        };
        add(
            "model", "bert", [](auto&) {}, R"(m.gguf: tokenizer.ggml.model: found "bert", expected gpt2)");
        add(
            "pre", "gpt2", [](auto& d) { d.pre = "falcon"; },
            R"(m.gguf: tokenizer.ggml.pre: found "falcon", expected one of default, gpt-2)");
        add(
            "no tokens", "gpt2", [](auto& d) { d.tokens.clear(), d.token_type.clear(); },
            "tokenizer.ggml.tokens: found no tokens");
        add(
            "types", "gpt2", [](auto& d) { d.token_type.pop_back(); },
            "tokenizer.ggml.token_type: found 3 entries, expected 4");
        add(
            "type", "gpt2", [](auto& d) { d.token_type[1] = 9; },
            "tokenizer.ggml.token_type[1]: found 9, expected 1 to 6");
        add(
            "scores", "llama", [](auto& d) { d.scores.clear(); }, "tokenizer.ggml.scores: found 0 entries, expected 4");
        add(
            "NaN", "llama", [](auto& d) { d.scores[2] = std::nanf(""); }, "tokenizer.ggml.scores[2]: found NaN");
        add(
            "twice", "gpt2", [](auto& d) { d.tokens[2] = "a"; },
            R"(tokenizer.ggml.tokens[2]: found "a", as tokens[1])");
        add(
            "utf8", "gpt2", [](auto& d) { d.tokens[2] = "\xff"; }, R"(tokenizer.ggml.tokens[2]: found "\xff")");
        add(
            "merge", "gpt2",
            [](auto& d) {
                d.merges = {"a b", "a q"};
            },
            R"(tokenizer.ggml.merges[1]: found "q", expected a token)");
        add(
            "one part", "gpt2", [](auto& d) { d.merges = {"ab"}; },
            R"(tokenizer.ggml.merges[0]: found "ab", expected two tokens)");
        add(
            "empty merge", "gpt2", [](auto& d) { d.merges = {""}; }, "tokenizer.ggml.merges[0]");
        add(
            "no merges", "gpt2", [](auto& d) { d.merges.clear(); }, "tokenizer.ggml.merges: found nothing");
        add(
            "bos", "llama", [](auto& d) { d.bos = 4; }, "tokenizer.ggml.bos_token_id: found 4, expected an id below 4");
        add(
            "eos", "llama", [](auto& d) { d.eos = -7; }, "tokenizer.ggml.eos_token_id: found -7");
        add(
            "no bos", "gpt2", [](auto& d) { d.add_bos = true; }, "tokenizer.ggml.bos_token_id: found nothing");
        for (const char* text : {"<0x-1>", "<0xZZ>", "<0xf>", "x"})
            add(
                text, "llama", [text](auto& d) { d.tokens[3] = text, d.token_type[3] = 6; },
                (std::string("tokenizer.ggml.tokens[3]: found \"") + text +
                 "\" as a byte token, expected <0x00> to <0xFF>")
                    .c_str());
        add(
            "no fallback", "llama", [](auto& d) { d.unk = -1; }, "no unknown_token_id");
    }
    void refuses() {
        QFETCH(GgufTokenizerData, data);
        QFETCH(QString, message);
        const auto made = make_gguf_tokenizer(data, "m.gguf");
        QVERIFY(!made.has_value());
        const QString got = QString::fromStdString(made.error().message());
        QVERIFY2(got.contains(message) && got.startsWith("m.gguf: "), qPrintable(got));
    }

    void merges_best_score_first_leftmost() {
        auto made = make_gguf_tokenizer(
            [] {
                GgufTokenizerData d;
                d.model = "llama";
                d.tokens = {"<unk>", "a", "b", "c", "ab", "bc", "aa"};
                d.token_type = {2, 1, 1, 1, 1, 1, 1};
                d.scores = {0, -9, -9, -9, -2, -1, -3};
                d.unk = 0;
                d.add_bos = d.add_space_prefix = false;
                return d;
            }(),
            "m.gguf");
        QVERIFY(made.has_value());
        const auto ids = [&](const char* text) { return (*made)->encode(text, true, SpecialTokens::parse); };
        QCOMPARE(ids("abc"), (std::vector<Token>{1, 5}));      // bc before ab
        QCOMPARE(ids("aaa"), (std::vector<Token>{6, 1}));      // leftmost of equals
        QCOMPARE(ids("axyb"), (std::vector<Token>{1, 0, 2}));  // one token for a run of unknown characters
    }
};

QTEST_GUILESS_MAIN(GgufTokenizerTest)
#include "gguf_tokenizer_test.moc"
