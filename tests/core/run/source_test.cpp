#include "core/model/model.h"
#include "core/run/prompts.h"
#include "core/run/workload.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

#include "fixture.h"

#include <QTemporaryDir>
#include <QtTest>

#include <fstream>
#include <set>

using namespace spartan;

namespace {

Model model_with(std::shared_ptr<const Tokenizer> tokenizer, const std::string& chat = "") {
    Model m;
    m.info.config.vocab_size = tokenizer ? tokenizer->vocab_size() : 100;
    m.info.config.eos = {2};
    m.info.tokenizer = std::move(tokenizer);
    m.info.chat_template = ChatTemplate::make({chat, {}});
    return m;
}

const char* kChatMl =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

Workload workload(const std::string& arrival, int64_t requests, int64_t warmup = 0) {
    Workload w;
    w.arrival.kind = arrival;
    w.arrival.rate = 10;
    w.arrival.concurrency = 3;
    w.requests = requests;
    w.warmup = warmup;
    return w;
}

}  // namespace

class SourceTest : public QObject {
    Q_OBJECT
private slots:
    void prompts_have_exactly_the_wanted_ids() {
        std::vector<Model> models;
        models.push_back(model_with(nullptr));
        models.push_back(model_with(make_byte_tokenizer()));
        models.push_back(model_with(make_byte_tokenizer(), kChatMl));
        for (const char* family : {"gpt2", "llama2", "llama3"}) {
            const auto tokenizer =
                read_tokenizer_json(std::string(TESTS_DIR "/golden/tokenizers/") + family + "/tokenizer.json");
            QVERIFY2(bool(tokenizer), tokenizer ? "" : tokenizer.error().message().c_str());
            models.push_back(model_with(*tokenizer));
        }
        for (const Model& m : models) {
            const PromptMaker maker(m);
            for (int64_t n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 31, 32, 33, 64, 100, 256, 1000, 5000})
                for (uint64_t seed = 0; seed < 20; ++seed) {
                    const auto ids = maker.make(n, seed);
                    QCOMPARE(int64_t(ids.size()), n);
                    QVERIFY(ids == maker.make(n, seed));
                    for (const Token id : ids) QVERIFY(id >= 0 && id < m.config().vocab_size);
                }
        }
    }

    void prompts_can_be_read() {
        const Model m = model_with(make_byte_tokenizer());
        const PromptMaker maker(m);
        std::set<std::string> seen;
        for (uint64_t seed = 0; seed < 50; ++seed) {
            const auto ids = maker.make(200, seed);
            const std::string text = m.info.tokenizer->decode(ids, true);
            seen.insert(text);
            QVERIFY(text.back() == '.' || text.back() == '?');
            QVERIFY2(text.find("  ") == std::string::npos, text.c_str());
        }
        QVERIFY(seen.size() > 45);
    }

    void chats_go_through_the_template() {
        const Model m = model_with(make_byte_tokenizer(), kChatMl);
        QVERIFY(!m.info.chat_template->is_plain());
        const PromptMaker maker(m);
        const std::string text = m.info.tokenizer->decode(maker.make(300, 1), false);
        QVERIFY2(contains(text, "<|im_start|>user\n"), text.c_str());
        QVERIFY2(text.size() > 22 && text.substr(text.size() - 22) == "<|im_start|>assistant\n", text.c_str());
        QVERIFY(!contains(m.info.tokenizer->decode(maker.make(30, 1), false), "im_start"));  // no room for it
    }

    // Of a vocabulary without letters nothing is left of a sentence.
    void a_tokenizer_without_letters_gives_random_ids() {
        QTemporaryDir dir;
        const std::string path = dir.filePath("tokenizer.json").toStdString();
        std::ofstream(path) << R"({"model": {"type": "BPE", "vocab": {"0": 0, "1": 1, "2": 2}, "merges": []}})";
        const auto tokenizer = read_tokenizer_json(path);
        QVERIFY2(bool(tokenizer), tokenizer ? "" : tokenizer.error().message().c_str());
        QVERIFY((*tokenizer)->encode("letters", false, SpecialTokens::as_text).empty());
        QCOMPARE(PromptMaker(model_with(*tokenizer)).make(50, 1).size(), size_t(50));
    }

    void random_ids_leave_out_the_end_of_text() {
        const Model m = model_with(nullptr);
        for (const Token id : PromptMaker(m).make(10'000, 3)) QVERIFY(id != 2);
    }

    void arrivals_come_when_they_are_due() {
        const Model m = model_with(nullptr);
        const Workload w = workload("constant", 3);
        const auto source = make_source(w, *make_plan(w, {}, 0), m, {});
        auto first = source->next(50'000, 0);
        QVERIFY(first && first->arrival_us == 50'000);  // the clock starts when the engine first asks
        QVERIFY(!source->next(149'999, 1));
        QCOMPARE(source->next_due_us().value(), 150'000);
        QVERIFY(source->next(160'000, 1)->arrival_us == 150'000);
        QVERIFY(!source->exhausted());
        QVERIFY(source->next(260'000, 1).has_value());
        QVERIFY(source->exhausted() && !source->next(999'999, 0) && !source->next_due_us());
    }

    void closed_loops_keep_their_number() {
        const Model m = model_with(nullptr);
        const Workload w = workload("closed", 5);
        const auto source = make_source(w, *make_plan(w, {}, 0), m, {});
        for (int64_t i = 0; i < 3; ++i) QCOMPARE(source->next(10 * i, i)->arrival_us, 10 * i);
        QVERIFY(!source->next(40, 3) && !source->next_due_us());
        QCOMPARE(source->next(50, 2)->arrival_us, 50);
        QVERIFY(source->next(60, 0).has_value() && source->exhausted());
    }

    void the_measured_part_waits_for_the_warmup() {
        const Model m = model_with(nullptr);
        const Workload w = workload("burst", 2, 2);
        const auto source = make_source(w, *make_plan(w, {}, 3), m, {});
        QVERIFY(source->next(0, 0)->warmup && source->next(0, 1)->warmup);
        QVERIFY(!source->next(5, 2) && !source->next(6, 1) && !source->next_due_us());
        const auto measured = source->next(1000, 0);
        QVERIFY(measured && !measured->warmup);
        QCOMPARE(measured->arrival_us, 1000);
        QCOMPARE(measured->origin.repeat, 3);
        QCOMPARE(source->next(2000, 1)->arrival_us, 1000);  // of the same burst
    }

    void labels_and_limits_of_a_trace_travel_along() {
        const TempDir dir;
        Workload w;
        w.warmup = 1;
        w.trace = dir.write("t.csv",
                            "request_id,arrival_s,adapter,prompt_tokens,output_tokens,slo_ttft_ms\n"
                            "one,0,a,3,4,9.5\ntwo,0,,5,6,\n");
        const Model m = model_with(nullptr);
        const auto source = make_source(w, *make_plan(w, {"a"}, 0), m, {AdapterId(7)});
        QVERIFY(source->next(0, 0)->origin.label.empty());
        const auto one = source->next(0, 0), two = source->next(0, 1);
        QCOMPARE(one->origin.label, std::string("one"));
        QCOMPARE(one->origin.slo_ttft_ms, 9.5f);
        QCOMPARE(int(one->adapter), 7);
        QCOMPARE(one->prompt.size(), size_t(3));
        QCOMPARE(one->sampling.max_tokens, 4);
        QCOMPARE(two->origin.label, std::string("two"));
        QVERIFY(two->adapter == AdapterId::base);
    }
};

QTEST_GUILESS_MAIN(SourceTest)
#include "source_test.moc"
