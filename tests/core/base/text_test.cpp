#include "core/base/text.h"

#include "core/base/result.h"

#include <QTest>

using namespace spartan;

class TextTest : public QObject {
    Q_OBJECT

private slots:
    void control_characters() {
        QCOMPARE(escape_control("a\nb\tc\rd"), std::string("a\\nb\\tc\\rd"));
        QCOMPARE(escape_control("\x1b[31m\x7f"), std::string("\\x1b[31m\\x7f"));
        QCOMPARE(escape_control("\xc2\x9b\xe2\x80\xae\xe2\x81\xa6"), std::string("\\u009b\\u202e\\u2066"));
        QCOMPARE(escape_control("ok é 漢 🙂"), std::string("ok é 漢 🙂"));
        QCOMPARE(escape_control("\xff\xc0\x80\xed\xa0\x80"), std::string("\\xff\\xc0\\x80\\xed\\xa0\\x80"));
        QCOMPARE(escape_control("\xe6\xbc"), std::string("\\xe6\\xbc"));
        QCOMPARE(escape_control(std::string_view("\0", 1)), std::string("\\x00"));
    }

    void utf8() {
        QVERIFY(is_valid_utf8("é 漢 🙂"));
        for (const char* bad :
             {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe6\xbc", "\x80", "\xf0\x80\x80\x80"})
            QVERIFY(!is_valid_utf8(bad));
    }

    void html() { QCOMPARE(escape_html("<b>\"&'"), std::string("&lt;b&gt;&quot;&amp;&#39;")); }

    void csv() {
        QCOMPARE(csv_cell("plain"), std::string("plain"));
        QCOMPARE(csv_cell("a,b"), std::string("\"a,b\""));
        QCOMPARE(csv_cell("say \"x\"\n"), std::string("\"say \"\"x\"\"\n\""));
        QCOMPARE(csv_cell("=1+1"), std::string("'=1+1"));
        QCOMPARE(csv_cell("@cmd"), std::string("'@cmd"));
        QCOMPARE(csv_cell("-cmd,x"), std::string("\"'-cmd,x\""));
        for (const char* number : {"-5", "+3.5", "-1.5e-3", "0", ""}) QCOMPARE(csv_cell(number), std::string(number));
    }

    void bytes() {
        QCOMPARE(format_bytes(0), std::string("0 B"));
        QCOMPARE(format_bytes(999), std::string("999 B"));
        QCOMPARE(format_bytes(1000), std::string("1.0 kB"));
        QCOMPARE(format_bytes(98'438'000), std::string("98.4 MB"));
        QCOMPARE(format_bytes(999'960'000), std::string("1.0 GB"));
        QCOMPARE(format_bytes(INT64_MAX), std::string("9.2 EB"));
    }

    void shortening() {
        QCOMPARE(shorten("abc", 3), std::string("abc"));
        QCOMPARE(shorten("abcd", 3), std::string("abc…"));
        QCOMPARE(shorten("aé", 2), std::string("a…"));
    }

    void errors() {
        QCOMPARE((Error{"f", "x.y", "1", "2"}).message(), std::string("f: x.y: found 1, expected 2"));
        QCOMPARE((Error{"f", "", "cannot open", ""}).message(), std::string("f: cannot open"));
        QCOMPARE((Error{"", "--n", "", "a number"}).message(), std::string("--n: expected a number"));
        QCOMPARE(make_error("one\nsentence").message(), std::string("one\\nsentence"));
        QVERIFY(!Error{}.message().empty());
    }

    void the_nearest_word() {
        const std::vector<std::string> words{"--prompt", "--prompts", "--model", "--seed", "--set"};
        QCOMPARE(nearest_word("--promt", words), std::string("--prompt"));
        QCOMPARE(nearest_word("--prompts", words), std::string("--prompts"));
        QCOMPARE(nearest_word("--modle", words), std::string("--model"));
        QCOMPARE(nearest_word("--sde", words), std::string());
        QCOMPARE(nearest_word("--nonsense", words), std::string());
        QCOMPARE(nearest_word("", words), std::string());
        QCOMPARE(nearest_word("--set", {}), std::string());
    }
};

QTEST_GUILESS_MAIN(TextTest)
#include "text_test.moc"
