// `spartan merge` and `spartan verify` as a person meets them.
#include "tests/app/program.h"

using namespace program;

namespace {

const QString kModel = kGolden + "/llama-mha/model", kAdapter = kGolden + "/llama-mha/adapters/boft-b8-m2";

// A python3 that the program finds first in its PATH.
QString stand_in(const QTemporaryDir& dir, const QByteArray& script) {
    const QString path = write(dir, "python3", "#!/bin/sh\n" + script);
    QFile::setPermissions(path, QFile::ReadOwner | QFile::WriteOwner | QFile::ExeOwner);
    return path;
}

}  // namespace

class MergeVerifyTest : public QObject {
    Q_OBJECT
private slots:
    void merges_into_a_new_folder_only() {
        QTemporaryDir dir;
        const QString out = dir.filePath("merged");
        const Output merged = spartan_with({"merge", kModel, kAdapter, "--out", out, "--dtype", "f32"});
        QVERIFY2(merged.code == 0, merged.err);
        QVERIFY(merged.out.contains("BOFT b8 m2"));
        QCOMPARE(spartan_with({"inspect", out}).code, 0);
        const QByteArray before = read(out + "/model.safetensors");
        const Output again = spartan_with({"merge", kModel, kAdapter, "--out", out});
        QCOMPARE(again.code, 1);
        QVERIFY2(again.err.contains("not empty"), again.err);
        QCOMPARE(read(out + "/model.safetensors"), before);
        QCOMPARE(entries(dir), QStringList{"merged"});  // no temporary folder is left
    }

    void leaves_nothing_after_a_failure() {
        QTemporaryDir dir;
        for (const QStringList& arguments :
             {QStringList{"synthetic:tiny", kAdapter}, {kModel, kModel}, {kGolden + "/qwen2/model", kAdapter}}) {
            const Output failed =
                spartan_with(QStringList{"merge"} + arguments + QStringList{"--out", dir.filePath("m")});
            QCOMPARE(failed.code, 1);
            QCOMPARE(failed.err.count('\n'), 1);
            QVERIFY(entries(dir).isEmpty());
        }
    }

    void inspect_on_a_base() {
        const Output text = spartan_with({"inspect", kAdapter, "--model", kModel});
        QVERIFY2(text.code == 0, text.err);
        for (const char* word : {"check     shapes: ", "|RᵀR - I| at most", "SHA-256", "trained for"})
            QVERIFY2(text.out.contains(word), text.out);
        const Json json = spartan_with({"inspect", kAdapter, "--model", kModel, "--json"}).json();
        QVERIFY(json["orthogonality_error"].get<double>() < 1e-4);
        QVERIFY(json["checks"].size() >= 5);
        const Output other = spartan_with({"inspect", kAdapter, "--model", kGolden + "/llama-gqa-tied/model"});
        QCOMPARE(other.code, 1);
        QVERIFY2(other.err.contains("inputs") && other.err.contains("as q_proj of"), other.err);
        QCOMPARE(spartan_with({"inspect", kModel, "--model", kModel}).code, 2);
    }

    void verify_says_what_is_missing() {
        const Output no_python = spartan_with({"verify", kModel, "--python", "/nonexistent/python3"});
        QCOMPARE(no_python.code, 1);
        QVERIFY2(no_python.err.contains("/nonexistent/python3") && no_python.err.contains("transformers and peft"),
                 no_python.err);
        const Output gguf = spartan_with({"verify", "synthetic:tiny"});
        QCOMPARE(gguf.code, 1);
        QVERIFY2(gguf.err.contains("Hugging Face folder"), gguf.err);
        const Output made_up =
            spartan_with({"verify", kModel, "--adapter", "synthetic:lora:1:r=2", "--python", "true"});
        QCOMPARE(made_up.code, 1);
        QVERIFY2(made_up.err.contains("synthetic"), made_up.err);
    }

    // The script's exit code is the command's; it gets the model, every adapter, the ids and this program's logits.
    void verify_hands_everything_over() {
        QTemporaryDir dir;
        const QString python =
            stand_in(dir,
                     "[ \"$1\" = -c ] && exit 0\ncat \"$2\"\nls -l $(dirname \"$2\")/logits.safetensors >&2\n"
                     "exit ${SPARTAN_TEST_CODE:-0}\n");
        const QStringList command = {"verify",   kModel, "--adapter", "b=" + kAdapter,
                                     "--prompt", "ab",   "--python",  python};
        const Output same = spartan_with(command);
        QVERIFY2(same.code == 0, same.err);
        const Json spec = same.json();
        QCOMPARE(spec["prompts"].size(), 2);
        QVERIFY(spec["prompts"][0]["adapter"].is_null() && spec["prompts"][1]["adapter"] == "b");
        QCOMPARE(spec["adapters"]["b"].get<std::string>(), QFileInfo(kAdapter).absoluteFilePath().toStdString());
        QVERIFY2(same.err.contains("logits.safetensors"), same.err);
        qputenv("SPARTAN_TEST_CODE", "1");
        QCOMPARE(spartan_with(command).code, 1);
        qputenv("SPARTAN_TEST_CODE", "3");
        QCOMPARE(spartan_with(command).code, 1);
        qunsetenv("SPARTAN_TEST_CODE");
    }
};

QTEST_GUILESS_MAIN(MergeVerifyTest)
#include "merge_verify_test.moc"
