// Damaged and hostile tokenizer files and texts: refused in words, or handled in time linear in the text.
#include "core/tokenizer/tokenizer.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/tokenizer/pattern.h"
#include "core/tokenizer/unicode.h"

#include <QElapsedTimer>
#include <QTemporaryDir>
#include <QTest>

#include <ctime>
#include <functional>
#include <limits>
#include <random>

using namespace spartan;

namespace {

constexpr int64_t seconds = 1000;

#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr bool kOptimised = true;
#else
constexpr bool kOptimised = false;
#endif

constexpr const char* tiny_text = R"({"version": "1.0", "truncation": {"max_length": 4}, "padding": null,
    "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": false},
    "post_processor": null, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": false, "byte_fallback": false,
              "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]}})";

Json tiny() { return *parse_json(tiny_text, "tiny"); }

std::shared_ptr<const Tokenizer> make(const Json& json) {
    auto made = parse_tokenizer_json(json.dump(), "t.json");
    if (!made) qFatal("%s", made.error().message().c_str());
    return *made;
}

std::string refusal(const std::string& text) {
    const auto made = parse_tokenizer_json(text, "t.json");
    return made ? "accepted" : made.error().message();
}

std::string repeat(std::string_view part, size_t bytes) {
    std::string out;
    while (out.size() < bytes) out += part;
    return out;
}

const std::string root = std::string(TESTS_DIR);

}  // namespace

class TokenizerTest : public QObject {
    Q_OBJECT

private slots:
    void reads_the_tiny_one() {
        const auto t = make(tiny());
        QCOMPARE(t->encode("ab a", true, SpecialTokens::parse), (std::vector<Token>{3, 0, 1}));
        QCOMPARE(t->encode("<s>ab", true, SpecialTokens::parse), (std::vector<Token>{4, 3}));
        QCOMPARE(t->vocab_size(), int64_t{5});
        QCOMPARE(std::string(t->token_text(4)), std::string("<s>"));
        QCOMPARE(std::string(t->token_text(99)), std::string());
        QCOMPARE(t->find("ab"), 3);
        QCOMPARE(t->find("<s>"), 4);
        QCOMPARE(t->find("zz"), -1);
        QVERIFY(t->is_special(4) && !t->is_special(3) && !t->is_special(-1) && !t->is_special(5));
        QCOMPARE(t->description(), std::string("BPE, 5 tokens"));
    }

    void refuses_data() {
        QTest::addColumn<QString>("text");
        QTest::addColumn<QString>("message");
        const auto add = [](const char* name, const char* pointer, const char* value, const char* message) {
            Json json = tiny();
            json[Json::json_pointer(pointer)] = Json::parse(value);
            QTest::newRow(name) << QString::fromStdString(json.dump()) << QString::fromUtf8(message);
        };
        // Row 36
        QTest::newRow("truncated") << QString(tiny_text).left(300) << "expected valid JSON";
        QTest::newRow("empty") << ""
                               << "t.json: ";
        QTest::newRow("array") << "[]"
                               << "t.json: found [] (array), expected an object";
        QTest::newRow("no model") << "{}"
                                  << "t.json: model: found nothing";
        add("model type", "/model/type", R"("WordPiece")", R"(t.json: model.type: found "WordPiece", expected BPE)");
        const auto unigram = [&](const char* name, const char* fields, const char* message) {
            const std::string text = std::string(R"({"type": "Unigram", )") + fields + "}";
            add(name, "/model", text.c_str(), message);
        };
        unigram("no unk_id", R"("vocab": [["a", -1]])", "t.json: model.unk_id: found nothing");
        unigram("unk_id null", R"("unk_id": null, "vocab": [["a", -1]])", "t.json: model.unk_id: found null");
        unigram("unk_id high", R"("unk_id": 7, "vocab": [["a", -1]])",
                "t.json: model.unk_id: found 7, expected an id below 1");
        unigram("unigram empty", R"("unk_id": 0, "vocab": [])", "t.json: model.vocab: found no tokens");
        unigram("unigram vocab", R"("unk_id": 0, "vocab": {"a": 1})", "t.json: model.vocab: found");
        unigram("unigram entry", R"("unk_id": 0, "vocab": [["<unk>", 0], ["a"]])", "t.json: model.vocab[1]: found");
        unigram("unigram twice", R"("unk_id": 0, "vocab": [["a", 0], ["a", 1]])",
                R"(t.json: model.vocab[1]: found "a", as model.vocab[0])");
        unigram("unigram key", R"("unk_id": 0, "vocab": [["a", 0]], "x": 1)", "t.json: model.x: found an unknown key");
        unigram("unigram bytes", R"("unk_id": 0, "byte_fallback": true, "vocab": [["<unk>", 0], ["<0xZZ>", 0]])",
                R"(t.json: model.vocab["<0xZZ>"]: found a byte token)");
        add("precompiled", "/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "AA=="})",
            R"(t.json: normalizer.type: found "Precompiled")");
        add("strip side", "/normalizer", R"({"type": "Strip", "strip_left": true})",
            "t.json: normalizer.strip_right: found nothing");
        add("version", "/version", R"("2.0")", "t.json: version: found \"2.0\"");
        add("unknown key", "/extra", "1", "t.json: extra: found an unknown key");
        add("unknown model key", "/model/extra", "1", "t.json: model.extra: found an unknown key");
        // Row 37
        add("merge of absent", "/model/merges", R"(["a q"])",
            R"(t.json: model.merges[0]: found "q", expected a token of model.vocab)");
        add("merge to absent", "/model/merges", R"(["a b", "b a"])", R"(t.json: model.merges[1]: found "ba")");
        add("merge of three", "/model/merges", R"(["a b a"])",
            "t.json: model.merges[0]: found \"a b a\" (string), expected two tokens");
        add("merge of none", "/model/merges", R"([["", "a"]])", "t.json: model.merges[0]: found an empty token");
        add("merge type", "/model/merges", "[7]", "t.json: model.merges[0]: found 7, expected two tokens");
        // Row 38
        add("id negative", "/model/vocab/a", "-1",
            R"(t.json: model.vocab["a"]: found id -1, expected an integer from 0)");
        add("id huge", "/model/vocab/a", "999999999", R"(t.json: model.vocab["a"]: found id 999999999)");
        add("id fraction", "/model/vocab/a", "1.5", R"(t.json: model.vocab["a"]: found id 1.5)");
        add("id twice", "/model/vocab/a", "2", R"(t.json: model.vocab["b"]: found id 2, which "a" has too)");
        add("added id taken", "/added_tokens/0/id", "3",
            R"(t.json: added_tokens[0].id: found 3, which model.vocab gives to "ab")");
        add("added id negative", "/added_tokens/0/id", "-4", "t.json: added_tokens[0].id: found -4");
        add("added in vocab", "/added_tokens/0/content", R"("ab")", "t.json: added_tokens[0].id: found 4, expected 3");
        add("no vocab", "/model/vocab", "{}", "t.json: model.vocab: found no tokens");
        QTest::newRow("text twice") << QString(tiny_text).replace("\"b\": 2", "\"a\": 2")
                                    << "t.json: a: found the key twice";
        add("unk absent", "/model/unk_token", R"("q")", "t.json: model.unk_token: found \"q\"");
        add("dropout", "/model/dropout", "0.1", "t.json: model.dropout: found 0.1");
        add("prefix", "/model/continuing_subword_prefix", R"("##")",
            "t.json: model.continuing_subword_prefix: found \"##\"");
        // Row 40
        const auto regex = [&](const char* name, const char* expression, const char* message) {
            add(name, "/pre_tokenizer/pattern", (Json{{"Regex", expression}}).dump().c_str(), message);
        };
        regex("bad regex", "(a", "t.json: pre_tokenizer.pattern.Regex: found missing closing parenthesis");
        regex("verb", "(*LIMIT_MATCH=1)a", "t.json: pre_tokenizer.pattern.Regex: found a (*VERB)");
        regex("intersection", "[a-z&&[^b]]", "t.json: pre_tokenizer.pattern.Regex: found a set intersection");
        regex("possessive interval", "a{1,3}+", "found }+");
        regex("no bytes", "\\C", "found \\C in \\C");
        regex("empty", "", "pre_tokenizer.pattern.Regex: found an empty expression");
        // Components
        add("normalizer", "/normalizer", R"({"type": "BertNormalizer"})",
            R"(t.json: normalizer.type: found "BertNormalizer", expected one of)");
        add("in a sequence", "/pre_tokenizer",
            R"({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "Whitespace"}]})",
            R"(t.json: pre_tokenizer.pretokenizers[1].type: found "Whitespace")");
        add("behavior", "/pre_tokenizer/behavior", R"("Sideways")",
            "t.json: pre_tokenizer.behavior: found \"Sideways\"");
        add("post", "/post_processor", R"({"type": "BertProcessing"})",
            R"(t.json: post_processor.type: found "BertProcessing")");
        add("decoder", "/decoder", R"({"type": "WordPiece"})", R"(t.json: decoder.type: found "WordPiece")");
        add("no type", "/decoder", R"({})", "t.json: decoder.type: found no type");
        add("unknown field", "/decoder", R"({"type": "Fuse", "x": 1})", "t.json: decoder.x: found an unknown key");
        add("strip", "/decoder", R"({"type": "Strip", "content": "ab", "start": 1, "stop": 0})",
            "t.json: decoder.content: found \"ab\", expected one character");
        add("template id", "/post_processor",
            R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}})",
            R"(t.json: post_processor.special_tokens: found no "q")");
        add("template ids", "/post_processor",
            R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"q": {"id": "q", "ids": [77], "tokens": ["q"]}}})",
            ".ids: found 77");
        add("template text", "/post_processor",
            R"({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}})",
            "t.json: post_processor.single: found 0 times the text");
    }
    void refuses() {
        QFETCH(QString, text);
        QFETCH(QString, message);
        const QString got = QString::fromStdString(refusal(text.toStdString()));
        QVERIFY2(got.startsWith("t.json: ") && got.contains(message), qPrintable(got));
        QVERIFY(!got.contains('\n'));
    }

    // Row 39
    void refuses_odd_byte_tokens() {
        for (const char* text : {"<0x-1>", "<0xZZ>", "<0x+1>"}) {
            Json json = tiny();
            json["model"]["byte_fallback"] = true;
            json["model"]["vocab"][text] = 5;
            const std::string got = refusal(json.dump());
            QVERIFY2(got.find(text) != std::string::npos && got.find("expected <0x00> to <0xFF>") != std::string::npos,
                     got.c_str());
        }
    }

    void refuses_deep_and_long_chains() {
        Json chain = {{"type", "Fuse"}};
        for (int i = 0; i < 100; ++i) chain = {{"type", "Sequence"}, {"decoders", {chain}}};
        Json json = tiny();
        json["decoder"] = chain;
        QVERIFY(refusal(json.dump()).find("deeper than") != std::string::npos);
        json["decoder"] = {{"type", "Sequence"}, {"decoders", Json(1000, Json{{"type", "Fuse"}})}};
        QVERIFY(refusal(json.dump()).find("1000 steps") != std::string::npos);
    }

    // Row 36: more than may be read is refused before it is.
    void refuses_a_huge_file() {
        QTemporaryDir folder;
        const std::string path = folder.path().toStdString() + "/tokenizer.json";
        QFile file(QString::fromStdString(path));
        QVERIFY(file.open(QIODevice::WriteOnly) && file.resize(int64_t{1} << 30));  // sparse
        const auto made = read_tokenizer_json(path);
        QVERIFY(!made.has_value());
        QVERIFY(made.error().message().find(path) != std::string::npos);
    }

    // Row 40: an expression without a bound on its work gives up, deterministically, and loses no text.
    void gives_up_on_exponential_expressions() {
        for (const char* expression : {"(a+)+$", "(a|a)+$", "(a|aa)+c", "(?:a*)*c"}) {
            const auto pattern = Pattern::regex(expression, "f", "x");
            QVERIFY2(pattern.has_value(), expression);
            const std::string text = repeat("a", 5000) + "!";
            QElapsedTimer timer;
            timer.start();
            std::vector<Span> first, second;
            PatternScratch a(text.size()), b(text.size());
            pattern->spans(text, a, first);
            pattern->spans(text, b, second);
            QVERIFY(timer.elapsed() < 20 * seconds);
            QCOMPARE(first.size(), second.size());
            std::string covered;
            for (const Span& s : first) covered += text.substr(s.begin, s.end - s.begin);
            QCOMPARE(covered, text);
        }
    }

    void stays_linear_data() {
        QTest::addColumn<QString>("path");
        for (const char* name :
             {"golden/tokenizers/gpt2", "golden/tokenizers/llama2", "golden/tokenizers/llama3",
              "fixtures/tokenizers/qwen2", "fixtures/tokenizers/llama2_metaspace", "fixtures/tokenizers/tekken",
              "fixtures/tokenizers/deepseek_v3", "fixtures/tokenizers/unigram", "fixtures/tokenizers/unigram_bytes"})
            QTest::newRow(name) << QString::fromUtf8(name);
    }
    // A quarter of a megabyte of each: quadratic work would take minutes.
    void stays_linear() {
        QFETCH(QString, path);
        const auto tokenizer = read_tokenizer_json(root + "/" + path.toStdString() + "/tokenizer.json");
        QVERIFY(tokenizer.has_value());
        for (const std::string part : {"Z", " ", "\n", " \n", "aab", "1", "'", "<", "<|im_start|", "a\u0301\u0323",
                                       "\u0301\u0323", "\U0001F600", "x ", "<mask>  ", "<s>"}) {
            const std::string text = repeat(part, part == "Z" ? 131'072 : 262'144);
            QElapsedTimer timer;
            timer.start();
            const auto ids = (*tokenizer)->encode(text, true, SpecialTokens::parse);
            (*tokenizer)->decode(ids, false);
            QVERIFY2(timer.elapsed() < 20 * seconds, part.c_str());
        }
    }

    // A megabyte of mixed text: in a second, and in at most twelve times the time of a quarter of it (quadratic work
    // takes sixteen times). In processor time, since other tests run beside it; the bound of three seconds leaves room
    // for a machine a third as fast as those that the promise is made for, and an unoptimised build is not held to it.
    void mixed_text_stays_linear_data() { stays_linear_data(); }
    void mixed_text_stays_linear() {
        QFETCH(QString, path);
        const auto tokenizer = read_tokenizer_json(root + "/" + path.toStdString() + "/tokenizer.json");
        QVERIFY(tokenizer.has_value());
        const std::string words =
            "The quick brown fox's 1234 jumps; naïve café, 日本語の文 and кот!\n\n    return x[i] += 1;  ";
        const auto best_of_three = [&](const std::string& text) {
            double best = std::numeric_limits<double>::max();
            for (int i = 0; i < 3; ++i) {
                const std::clock_t start = std::clock();
                (*tokenizer)->encode(text, true, SpecialTokens::parse);
                best = std::min(best, double(std::clock() - start) / CLOCKS_PER_SEC);
            }
            return best;
        };
        const double small = best_of_three(repeat(words, 262'144)), large = best_of_three(repeat(words, 1 << 20));
        qInfo("1 MB in %.3f s", large);
        QVERIFY2(large < 12 * small, (std::to_string(small) + " s, " + std::to_string(large) + " s").c_str());
        if (kOptimised) QVERIFY2(large < 3, std::to_string(large).c_str());
    }

    // Thousands of added tokens that begin alike.
    void many_added_tokens_stay_linear() {
        Json json = tiny();
        for (int i = 0; i < 5000; ++i)
            json["added_tokens"].push_back(
                {{"id", 10 + i}, {"content", "aaaaaaaab" + std::to_string(i) + "!"}, {"special", i % 2 == 0}});
        const auto t = make(json);
        QElapsedTimer timer;
        timer.start();
        for (const char* part : {"a", "aaaaaaaab", "aaaaaaaab499", "b", "aaaaaaaab4999!"})
            t->encode(repeat(part, 1 << 20), true, SpecialTokens::parse);
        QVERIFY(timer.elapsed() < 20 * seconds);
    }

    // Row 42
    void keeps_typed_special_tokens_text() {
        const auto t = make(tiny());
        for (Token id : t->encode("<s>ab<s>", true, SpecialTokens::as_text)) QVERIFY(id != 4);
        // Not even where merges or the whole piece would make it, and where the reference gives in.
        Json json = tiny();
        json["model"]["ignore_merges"] = true;
        json["added_tokens"].push_back({{"id", 3}, {"content", "ab"}, {"special", true}});
        const auto reachable = make(json);
        QCOMPARE(reachable->encode("ab", true, SpecialTokens::parse), std::vector<Token>{3});
        QCOMPARE(reachable->encode("ab", true, SpecialTokens::as_text), (std::vector<Token>{1, 2}));
        json["model"]["ignore_merges"] = false;
        QCOMPARE(make(json)->encode("ab", true, SpecialTokens::as_text), (std::vector<Token>{1, 2}));
    }

    void parses_special_tokens_only_in_their_parts() {
        const auto t = make_byte_tokenizer();
        const TextPart parts[] = {
            {"<eos>", SpecialTokens::parse}, {"<eos><e", SpecialTokens::as_text}, {"os><eos>", SpecialTokens::parse}};
        const std::vector<Token> ids = t->encode_parts(parts, false);
        QCOMPARE(ids.front(), 256);
        QCOMPARE(ids.back(), 256);
        QCOMPARE(std::count(ids.begin(), ids.end(), 256), 2);
        QCOMPARE(t->decode(ids, true), std::string("<eos><eos>"));
    }

    // Row 43
    void takes_any_bytes() {
        const auto t = make_byte_tokenizer();
        QVERIFY(t->encode("", true, SpecialTokens::parse).empty());
        QCOMPARE(t->encode(std::string_view("\0", 1), true, SpecialTokens::parse), std::vector<Token>{0});
        QCOMPARE(t->decode(t->encode("a\xff\xe2\x82z", true, SpecialTokens::parse), true),
                 std::string("a\ufffd\ufffdz"));
        std::mt19937 random(1);
        for (int round = 0; round < 200; ++round) {
            std::string bytes(size_t(round), '\0');
            for (char& c : bytes) c = static_cast<char>(random());
            QCOMPARE(t->decode(t->encode(bytes, true, SpecialTokens::as_text), true), utf8_lossy(bytes));
            for (const char* name : {"llama2", "qwen2", "splits"}) {
                const auto other = read_tokenizer_json(root + "/fixtures/tokenizers/" + name + "/tokenizer.json");
                if (round % 40 == 39) (*other)->encode(bytes, true, SpecialTokens::parse);
            }
        }
    }

    void byte_tokenizer_is_bytes() {
        const auto t = make_byte_tokenizer();
        QCOMPARE(t->vocab_size(), int64_t{257});
        QCOMPARE(t->encode("h\u00e9", true, SpecialTokens::parse), (std::vector<Token>{'h', 0xC3, 0xA9}));
        QVERIFY(t->is_special(256) && !t->is_special(255));
        QCOMPARE(t->decode(std::vector<Token>{'a', 256, 'b'}, true), std::string("ab"));
        QCOMPARE(t->decode(std::vector<Token>{'a', 256, 'b'}, false), std::string("a<eos>b"));
        QCOMPARE(t->decode(std::vector<Token>{'a', 257, -1}, true), std::string("a\ufffd\ufffd"));
    }

    void streams_whole_characters() {
        StreamingDecoder stream(make_byte_tokenizer());
        QCOMPARE(stream.push(0xE2), std::string());
        QCOMPARE(stream.push(0x82), std::string());
        QCOMPARE(stream.push(0xAC), std::string("\u20ac"));
        QCOMPARE(stream.push(0xF0), std::string());
        QCOMPARE(stream.push('x'), std::string("\ufffdx"));
        QCOMPARE(stream.push(0xC3), std::string());
        QCOMPARE(stream.finish(), std::string("\ufffd"));
    }

    void decodes_as_rust() {
        const std::pair<std::string, std::string> cases[] = {{"\xF0\x9F\x98", "\ufffd"},
                                                             {"\xF0\x80", "\ufffd\ufffd"},
                                                             {"\xED\xA0\x80", "\ufffd\ufffd\ufffd"},
                                                             {"\xC0\xAF", "\ufffd\ufffd"},
                                                             {"\xE1\x80x", "\ufffdx"},
                                                             {"\xF4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"}};
        for (const auto& [bytes, text] : cases) QCOMPARE(utf8_lossy(bytes), text);
    }

    void translates_oniguruma_data() {
        QTest::addColumn<QString>("from");
        QTest::addColumn<QString>("to");
        QTest::newRow("same") << R"( ?\p{L}+|[^\r\n]\d(?!x))"
                              << R"( ?\p{L}+|[^\r\n]\d(?!x))";
        QTest::newRow("script") << R"(\p{Han}\p{^Lu})"
                                << R"(\p{sc:Han}\p{^Lu})";
        QTest::newRow("nested") << R"([a[b.]c])"
                                << R"([ab.c])";
        QTest::newRow("hex") << R"(\h\u00e9)"
                             << R"([0-9a-fA-F]\x{00e9})";
        QTest::newRow("bracket") << R"([]a])"
                                 << R"([\]a])";
    }
    void translates_oniguruma() {
        QFETCH(QString, from);
        QFETCH(QString, to);
        const auto translated = translate_oniguruma(from.toStdString());
        QVERIFY(translated.has_value());
        QCOMPARE(QString::fromStdString(*translated), to);
    }

    void normalizes_as_unicode_says() {
        QCOMPARE(normalize("e\u0301\u1100\u1161", NormalForm::nfc), std::string("\u00e9\uac00"));
        QCOMPARE(normalize("\u00e9\ufb01", NormalForm::nfkd), std::string("e\u0301fi"));
        QCOMPARE(normalize("a\u0301\u0323", NormalForm::nfd), std::string("a\u0323\u0301"));
        QCOMPARE(normalize("\u212b", NormalForm::nfc), std::string("\u00c5"));
    }
};

QTEST_GUILESS_MAIN(TokenizerTest)
#include "tokenizer_test.moc"
