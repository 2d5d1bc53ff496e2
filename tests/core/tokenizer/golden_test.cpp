// Ids and texts of the reference implementation, for the oracle families and for every component we accept.
#include "core/base/json.h"
#include "core/tokenizer/tokenizer.h"

#include <QStringDecoder>
#include <QTest>

#include <filesystem>
#include <random>

using namespace spartan;

namespace {

std::shared_ptr<const Tokenizer> open(const std::string& folder) {
    auto tokenizer = read_tokenizer_json(folder + "/tokenizer.json");
    if (!tokenizer) qFatal("%s", tokenizer.error().message().c_str());
    return *tokenizer;
}

}  // namespace

class GoldenTest : public QObject {
    Q_OBJECT

private slots:
    void matches_the_reference_data() { add_folders(); }
    void matches_the_reference() {
        QFETCH(QString, folder);
        const auto tokenizer = open(folder.toStdString());
        const auto expected = read_json_file(folder.toStdString() + "/expected.json");
        QVERIFY(expected.has_value());
        QVERIFY(!expected->empty());
        for (const Json& item : *expected) {
            const std::string text = item["text"];
            const std::vector<Token> ids = item["ids"];
            QCOMPARE(tokenizer->encode(text, true, SpecialTokens::parse), ids);
            QCOMPARE(tokenizer->encode(text, false, SpecialTokens::parse),
                     item["ids_no_special"].get<std::vector<Token>>());
            QCOMPARE(tokenizer->decode(ids, true), item["decoded"].get<std::string>());
            if (item.contains("ids_as_text"))
                QCOMPARE(tokenizer->encode(text, false, SpecialTokens::as_text),
                         item["ids_as_text"].get<std::vector<Token>>());
            if (item.contains("decoded_all"))
                QCOMPARE(tokenizer->decode(ids, false), item["decoded_all"].get<std::string>());
        }
    }

    void streams_what_it_decodes_data() { add_folders(); }
    void streams_what_it_decodes() {
        QFETCH(QString, folder);
        const auto tokenizer = open(folder.toStdString());
        std::mt19937 random(7);
        std::uniform_int_distribution<Token> any(-1, static_cast<Token>(tokenizer->vocab_size()));
        std::uniform_int_distribution<Token> low(0, 300);  // where the bytes are
        for (int round = 0; round < 400; ++round) {
            std::vector<Token> ids(size_t(round % 40));
            for (Token& id : ids) id = round % 3 == 0 ? low(random) : any(random);
            for (const bool skip : {true, false}) {
                StreamingDecoder stream(tokenizer, skip);
                std::string text;
                for (Token id : ids) {
                    const std::string piece = stream.push(id);
                    QVERIFY2(is_utf8(piece), qPrintable("a push gave half a character: " +
                                                        QByteArray::fromStdString(piece).toHex(' ')));
                    text += piece;
                }
                text += stream.finish();
                QCOMPARE(text, tokenizer->decode(ids, skip));
            }
        }
    }

private:
    static bool is_utf8(const std::string& text) {
        // Stateless and with the byte order mark kept: by default Qt takes a leading one away.
        QStringDecoder decode(QStringDecoder::Utf8,
                              QStringDecoder::Flag::Stateless | QStringDecoder::Flag::ConvertInitialBom);
        [[maybe_unused]] const QString unused = decode(QByteArrayView(text.data(), qsizetype(text.size())));
        return !decode.hasError();
    }
    static void add_folders() {
        QTest::addColumn<QString>("folder");
        for (const char* root : {"/golden/tokenizers", "/fixtures/tokenizers"}) {
            if (!std::filesystem::exists(std::string(TESTS_DIR) + root)) continue;
            for (const auto& entry : std::filesystem::directory_iterator(std::string(TESTS_DIR) + root)) {
                if (!std::filesystem::exists(entry.path() / "tokenizer.json")) continue;
                QTest::newRow(entry.path().filename().c_str()) << QString::fromStdString(entry.path().string());
            }
        }
    }
};

QTEST_GUILESS_MAIN(GoldenTest)
#include "golden_test.moc"
