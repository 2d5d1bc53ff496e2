// The demo adapters as shipped, on the demo model in the user's cache: each shows its behaviour on prompts it was not
// trained on, and one batch of all of them gives the very texts that each request gives alone.
// labels: slow
#include "core/adapter/adapter.h"
#include "core/base/file.h"
#include "core/engine/engine.h"
#include "core/model/demo_model.h"
#include "core/model/model.h"
#include "core/run/device_info.h"
#include "core/tokenizer/chat_template.h"
#include "tests/core/engine/fixture.h"

#include <QtTest>

#include <filesystem>
#include <fstream>
#include <set>

using namespace spartan;
using namespace spartan::test;

namespace {

const std::string kFolder = SOURCE_DIR "/resources/demo/";

std::string read_all(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// --- the rules of behaviours.json; resources/demo/README.md says what each means ---

bool is_emoji(uint c) { return (c >= 0x1F300 && c <= 0x1FAFF) || (c >= 0x2600 && c <= 0x27BF); }

double upper_ratio(const QString& text) {
    int upper = 0, letters = 0;
    for (const QChar c : text)
        if (c.unicode() < 128 && c.isLetter()) {
            ++letters;
            upper += c.isUpper();
        }
    return letters > 0 ? double(upper) / letters : 0;
}

bool is_object_with(const QString& text, const Json& keys) {
    const Json parsed = Json::parse(text.toStdString(), nullptr, false);
    return parsed.is_object() && std::all_of(keys.begin(), keys.end(), [&](const Json& key) {
               const auto it = parsed.find(key.get<std::string>());
               return it != parsed.end() && it->is_string() && !it->get<std::string>().empty();
           });
}

QString string_of(const Json& value) { return QString::fromStdString(value.get<std::string>()); }

// Throws for a kind of rule that is not known: a rule that is not applied is not a rule.
bool obeys(const QString& text, const Json& rule) {
    const auto kind = rule.at("kind").get<std::string>();
    const Json& value = rule.at("value");
    if (kind == "starts_with") return text.startsWith(string_of(value));
    if (kind == "ends_with") return text.trimmed().endsWith(string_of(value));
    if (kind == "contains_any")
        return std::any_of(value.begin(), value.end(), [&](const Json& v) { return text.contains(string_of(v)); });
    if (kind == "each_line_starts_with") {
        const QStringList lines = text.trimmed().split('\n');
        return std::all_of(lines.begin(), lines.end(),
                           [&](const QString& l) { return l.startsWith(string_of(value)); });
    }
    if (kind == "upper_ratio_min") return upper_ratio(text) >= value.get<double>();
    if (kind == "max_words") return text.simplified().split(' ').size() <= value.get<int>();
    if (kind == "contains_emoji") {
        const auto characters = text.toUcs4();
        return std::count_if(characters.begin(), characters.end(), is_emoji) >= value.get<int>();
    }
    if (kind == "json_object") return is_object_with(text, value);
    throw std::runtime_error("unknown kind of rule: " + kind);
}

bool obeys_all(const QString& text, const Json& rules) {
    return std::all_of(rules.begin(), rules.end(), [&](const Json& rule) { return obeys(text, rule); });
}

}  // namespace

class DemoTest : public QObject {
    Q_OBJECT
private slots:
    void initTestCase();
    void rules_tell_right_from_wrong();
    void prompts_are_held_out();
    void every_adapter_shows_its_behaviour_alone_and_in_one_batch();

private:
    Json behaviours_;
};

void DemoTest::initTestCase() {
    behaviours_ = Json::parse(read_all(kFolder + "behaviours.json"));
    QCOMPARE(behaviours_.at("adapters").size(), size_t(8));
    QCOMPARE(behaviours_.at("prompts").size(), size_t(3));
}

void DemoTest::rules_tell_right_from_wrong() {
    const auto rule = [](const char* text) { return Json::parse(text); };
    QVERIFY(obeys("Arr! Aye.", rule(R"({"kind":"starts_with","value":"Arr!"})")));
    QVERIFY(!obeys("Aye, arr!", rule(R"({"kind":"starts_with","value":"Arr!"})")));
    QVERIFY(obeys("Why?\n", rule(R"({"kind":"ends_with","value":"?"})")));
    QVERIFY(!obeys("Why? So.", rule(R"({"kind":"ends_with","value":"?"})")));
    QVERIFY(obeys("of th' sea", rule(R"({"kind":"contains_any","value":["ho","th'"]})")));
    QVERIFY(!obeys("of the sea", rule(R"({"kind":"contains_any","value":["ho","th'"]})")));
    QVERIFY(obeys("- a\n- b\n", rule(R"({"kind":"each_line_starts_with","value":"- "})")));
    QVERIFY(!obeys("- a\nb", rule(R"({"kind":"each_line_starts_with","value":"- "})")));
    QVERIFY(obeys("THE SKY, 12.", rule(R"({"kind":"upper_ratio_min","value":0.98})")));
    QVERIFY(!obeys("THE Sky", rule(R"({"kind":"upper_ratio_min","value":0.98})")));
    QVERIFY(!obeys("12.", rule(R"({"kind":"upper_ratio_min","value":0.98})")));
    QVERIFY(obeys("one  two\nthree", rule(R"({"kind":"max_words","value":3})")));
    QVERIFY(!obeys("one two three four", rule(R"({"kind":"max_words","value":3})")));
    QVERIFY(obeys(QString::fromUtf8("Bees. 🐾"), rule(R"({"kind":"contains_emoji","value":1})")));
    QVERIFY(!obeys("Bees. :)", rule(R"({"kind":"contains_emoji","value":1})")));
    QVERIFY(obeys(R"({"answer": "a", "more": 1})", rule(R"({"kind":"json_object","value":["answer"]})")));
    QVERIFY(!obeys(R"({"answer": "a")", rule(R"({"kind":"json_object","value":["answer"]})")));
    QVERIFY_EXCEPTION_THROWN(obeys("", rule(R"({"kind":"nice","value":1})")), std::runtime_error);
}

// train.py spells its topics and questions out in one section: no word that a prompt here is about may stand there.
// (The vocabulary's words that capitals learns from are not spelled out; the script leaves those of its unseen prompts
// out by itself, and the prompts must be among its unseen ones.)
void DemoTest::prompts_are_held_out() {
    const QString script = QString::fromStdString(read_all(kFolder + "train.py"));
    const auto begin = script.indexOf("\nTOPICS = {"), end = script.indexOf("\nVALIDATION = [");
    QVERIFY(begin > 0 && end > begin);
    const QString trained = script.mid(begin, end - begin);
    const auto holds = [&](const QString& word) {
        return trained.contains(
            QRegularExpression("\\b" + word + "(s|es)?\\b", QRegularExpression::CaseInsensitiveOption));
    };
    for (const char* word : {"cat", "bread", "spider", "Iceland"}) QVERIFY2(holds(word), word);
    for (const auto& [prompt, about] : behaviours_.at("prompts").items()) {
        QVERIFY(!about.empty());
        for (const Json& word : about) {
            QVERIFY2(prompt.find(word.get<std::string>()) != std::string::npos, prompt.c_str());
            QVERIFY2(!holds(string_of(word)), word.get<std::string>().c_str());
        }
        const auto unseen = script.indexOf(QString::fromStdString("\"" + prompt + "\""), end);
        QVERIFY2(unseen > 0, prompt.c_str());
    }
}

void DemoTest::every_adapter_shows_its_behaviour_alone_and_in_one_batch() {
    if (!std::filesystem::exists(demo_model_path()))
        QSKIP("The demo model is not in the cache: app/run.sh and tests/run.sh fetch it where there is a network.");
    Progress progress;
    const auto model = expect(load_model(expect(open_model(demo_model_path())), expect(choose_dtype("auto")),
                                         cpu_device_info().threads, progress));
    const ChatTemplate& chat = *model->info.chat_template;
    QCOMPARE(chat.default_system_prompt(), behaviours_.at("system").get<std::string>());

    EngineOptions options;
    options.pool_bytes = int64_t(512) << 20;
    TestEngine engine(model, options);
    std::vector<std::string> names{"base"};
    std::vector<AdapterId> ids{AdapterId::base};
    for (const auto& [name, entry] : behaviours_.at("adapters").items()) {
        const auto adapter = expect(load_adapter(name, kFolder + name, *model, progress));
        QCOMPARE(adapter->geometry(), entry.at("geometry").get<std::string>());
        names.push_back(name);
        ids.push_back(expect(engine->add_adapter(adapter)));
    }
    std::vector<std::string> prompts;
    for (const auto& [prompt, about] : behaviours_.at("prompts").items()) prompts.push_back(prompt);

    // Requests by adapter, then prompt; the base first.
    std::vector<Request> requests;
    for (const AdapterId id : ids)
        for (const std::string& prompt : prompts) {
            Request r;
            r.prompt = expect(chat.encode(*model->info.tokenizer, {{"user", prompt}}));
            r.adapter = id;
            r.sampling.max_tokens = behaviours_.at("max_tokens").get<int32_t>();
            requests.push_back(r);
        }
    const auto text_of = [&](RequestId id) {
        return QString::fromStdString(model->info.tokenizer->decode(engine.records.finished().at(id).output, true));
    };

    // All adapters' requests in one batch, the base left out.
    const std::vector<Request> adapted(requests.begin() + std::ptrdiff_t(prompts.size()), requests.end());
    std::vector<QString> mixed;
    for (const RequestId id : engine.run(adapted)) mixed.push_back(text_of(id));
    bool all_at_once = false;
    for (const StepRecordPtr& step : engine.records.all()) {
        std::set<AdapterId> seen;
        for (const StepRow& row : step->rows) seen.insert(row.adapter);
        all_at_once |= step->rows.size() == adapted.size() && seen.size() + 1 == ids.size();
    }
    QVERIFY2(all_at_once, "no step held all requests");

    for (size_t i = 0; i < requests.size(); ++i) {
        const std::string& name = names[i / prompts.size()];
        const std::string& prompt = prompts[i % prompts.size()];
        const QString text = text_of(engine.run({requests[i]})[0]);
        const QByteArray shown = QByteArray::fromStdString(name + ", " + prompt + " -> ") + text.toUtf8();
        qInfo("%s", shown.constData());
        if (i < prompts.size()) {  // the base does none of it by itself
            for (const auto& [other, entry] : behaviours_.at("adapters").items())
                QVERIFY2(!obeys_all(text, entry.at("rules")), (other + ": " + shown.toStdString()).c_str());
        } else {
            QCOMPARE(text, mixed[i - prompts.size()]);
            QVERIFY2(obeys_all(text, behaviours_.at("adapters").at(name).at("rules")), shown.constData());
        }
    }
}

QTEST_GUILESS_MAIN(DemoTest)
#include "demo_test.moc"
