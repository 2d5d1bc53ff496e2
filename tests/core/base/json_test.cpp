#include "core/base/json.h"

#include "core/base/file.h"

#include <QTemporaryDir>
#include <QTest>
#include <random>

using namespace spartan;

class JsonTest : public QObject {
    Q_OBJECT

private slots:
    void refuses_data() {
        QTest::addColumn<QByteArray>("text");
        QTest::addColumn<QByteArray>("says");
        const auto row = [](const char* name, const QByteArray& text, const char* says) {
            QTest::newRow(name) << text << QByteArray(says);
        };
        row("empty", "", "line 1");
        row("truncated", "{\"a\": [1, 2", "unexpected end");
        row("line and column", "{\n  \"a\": 1,\n  \"b\" 2}", "line 3, column 7");
        row("trailing text", "{} x", "line 1, column 4");
        row("trailing comma", "[1,]", "line 1");
        row("two values", "{}{}", "line 1, column 3");
        row("byte order mark", "\xef\xbb\xbf{}", "byte order mark");
        row("duplicate key", R"({"a": 1, "b": 2, "a": 3})", "a: found the key twice");
        row("nested duplicate", R"({"x": [{"k": 1, "k": 1}]})", "k: found the key twice");
        row("NaN", R"({"a": NaN})", "line 1");
        row("Infinity", R"({"a": -Infinity})", "line 1");
        row("1e999", R"({"a": 1e999})", "too large for a double");
        row("-1e999", R"({"a": -1e999})", "too large for a double");
        row("integer beyond 64 bits", R"({"a": 18446744073709551616})", "integer of at most 64 bits");
        row("negative beyond 64 bits", R"({"a": -9223372036854775809})", "integer of at most 64 bits");
        row("bad UTF-8", "{\"a\": \"\xff\"}", "UTF-8");
        row("lone surrogate", R"({"a": "\ud800"})", "line 1");
        row("raw newline in string", "{\"a\": \"x\ny\"}", "line 1");
        row("single quotes", "{'a': 1}", "line 1");
        row("comment", "{} // x", "line 1");
        row("leading zero", "[01]", "line 1");
        row("65 levels", QByteArray(65, '[') + QByteArray(65, ']'), "64");
        row("100,000 levels", QByteArray(100'000, '['), "64");
        row("100,000 objects", QByteArray("{\"a\":").repeated(100'000), "64");
    }
    void refuses() {
        QFETCH(QByteArray, text);
        QFETCH(QByteArray, says);
        const auto json = parse_json(std::string_view(text.constData(), size_t(text.size())), "in.json");
        QVERIFY(!json);
        const QByteArray message = QByteArray::fromStdString(json.error().message());
        QVERIFY2(message.startsWith("in.json: "), message);
        QVERIFY2(message.contains(says), message);
        QVERIFY2(message.size() < 400 && !message.contains('\n'), message);
    }

    void accepts() {
        const auto json =
            parse_json(R"( {"b": 1, "a": [true, null, -0.5, "é\u0000"], "n": 18446744073709551615} )", "f");
        QVERIFY(json);
        QCOMPARE(json->begin().key(), std::string("b"));  // the file's order is kept
        QCOMPARE((*json)["n"].get<uint64_t>(), UINT64_MAX);
        QCOMPARE((*json)["a"][3].get<std::string>(), std::string("é\0", 3));
        QVERIFY(parse_json(std::string(64, '[') + std::string(64, ']'), "f"));
    }

    void limits() {
        QVERIFY(!parse_json("[1, 2, 3]", "f", {.max_bytes = 4}));
        const std::string big = R"({"model_max_length": 1000000000000000019884624838656})";
        QVERIFY(!parse_json(big, "f"));
        const auto json = parse_json(big, "f", {.big_integers_as_double = true});
        QVERIFY(json);
        QCOMPARE((*json)["model_max_length"].get<double>(), 1e30);
    }

    void many_keys_are_fast() {
        std::string text = "{";
        for (int i = 0; i < 200'000; ++i) text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":" + std::to_string(i);
        text += "}";
        const auto json = parse_json(text, "f");
        QVERIFY(json && json->size() == 200'000);
    }

    void fields_data() {
        QTest::addColumn<QByteArray>("text");
        QTest::addColumn<QByteArray>("says");
        const auto row = [](const char* text, const char* says) {
            QTest::newRow(text) << QByteArray(text) << QByteArray(says);
        };
        row(R"({"n": "4096"})", R"(w.json: top.n: found "4096" (string), expected an integer from 1 to 10)");
        row(R"({"n": null})", "w.json: top.n: found null, expected an integer from 1 to 10");
        row(R"({"n": [4]})", "w.json: top.n: found […] (array), expected an integer from 1 to 10");
        row(R"({"n": 11})", "w.json: top.n: found 11, expected an integer from 1 to 10");
        row(R"({"n": 18446744073709551615})",
            "w.json: top.n: found 18446744073709551615, expected an integer from 1 to 10");
        row(R"({"n": 4.0})", "w.json: top.n: found 4.0, expected an integer from 1 to 10");
        row(R"({"n": true})", "w.json: top.n: found true, expected an integer from 1 to 10");
        row(R"({"x": "a"})", R"(w.json: top.x: found "a" (string), expected a number from 0 to 1)");
        row(R"({"x": 1.5})", "w.json: top.x: found 1.5, expected a number from 0 to 1");
        row(R"({"b": 1})", "w.json: top.b: found 1, expected true or false");
        row(R"({"kind": "c"})", R"(w.json: top.kind: found "c" (string), expected one of a, b)");
        row(R"({"kind": 1})", "w.json: top.kind: found 1, expected one of a, b");
        row(R"({"list": {}})", "w.json: top.list: found {} (object), expected an array");
        row(R"({"typo": 1})", "w.json: top.typo: found an unknown key, expected one of b, kind, list, n, x");
        row(R"([])", "w.json: top: found [] (array), expected an object");
    }
    void fields() {
        QFETCH(QByteArray, text);
        QFETCH(QByteArray, says);
        const Json json = *parse_json(text.toStdString(), "w.json");
        Fields f(json, "w.json", "top");
        f.integer("n", 3, 1, 10);
        f.number("x", 0, 0, 1);
        f.boolean("b");
        f.one_of("kind", "a", {"a", "b"});
        f.array("list");
        const auto done = f.finish();
        QVERIFY(!done);
        QCOMPARE(QByteArray::fromStdString(done.error().message()), says);
    }

    void fields_defaults() {
        const Json json = *parse_json(R"({"n": 7, "other": null})", "f");
        Fields f(json, "f");
        QCOMPARE(f.integer("n", 3), 7);
        QCOMPARE(f.integer("absent", 3), 3);
        QCOMPARE(f.string("text", "x"), std::string("x"));
        QVERIFY(!f.has("other") && !f.any("other"));
        QVERIFY(f.finish());
        f.require("gone");
        QCOMPARE(f.finish().error().message(), std::string("f: gone: found nothing, expected this key"));
    }

    // Any damage gives a value or one error, never a crash.
    void mutations() {
        const std::string good = R"({"a": [1, 2.5, "x\u00e9", {"b": null}], "c": {"d": true, "e": -7}})";
        std::mt19937 random(1);
        for (int i = 0; i < 20'000; ++i) {
            std::string text = good.substr(0, random() % 4 ? good.size() : random() % good.size());
            for (uint32_t k = random() % 4; k > 0 && !text.empty(); --k)
                text[random() % text.size()] = char(random() % 256);
            const auto json = parse_json(text, "f");
            if (!json) QVERIFY(!json.error().message().empty());
        }
    }

    void reads_files() {
        const QTemporaryDir dir;
        const std::string path = dir.filePath("a.json").toStdString();
        QVERIFY(!read_json_file(path));
        QVERIFY(write_file_atomically(path, "{\"a\": }"));
        QVERIFY(read_json_file(path).error().message().starts_with(path + ": line 1, column 7: "));
    }
};

QTEST_GUILESS_MAIN(JsonTest)
#include "json_test.moc"
