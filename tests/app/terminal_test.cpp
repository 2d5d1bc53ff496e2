// Ctrl-C in every command, and what a terminal gets to see that a pipe does not.
#include "tests/app/program.h"

#include <csignal>

using namespace program;

namespace {

const char* kEndless = R"({"schema":1,"name":"endless","model":"synthetic:tiny","requests":100000,
    "arrival":{"kind":"constant","rate":50},"prompt_tokens":{"kind":"fixed","value":20},
    "output_tokens":{"kind":"fixed","value":6},"engine":{"pool_bytes":33554432}})";

// A process that is still being started dies of the signal; Linux shows the signals that it catches.
bool catches_interrupts(qint64 pid) {
    const QByteArray status = read(QString("/proc/%1/status").arg(pid));
    const qsizetype at = status.indexOf("SigCgt:");
    return at >= 0 && (status.mid(at + 7, 17).trimmed().toULongLong(nullptr, 16) >> (SIGINT - 1) & 1) != 0;
}

// Sends Ctrl-C once `ready` says so.
Output interrupted(const QStringList& arguments, const std::function<bool(QProcess&)>& ready) {
    QProcess p;
    p.setProcessEnvironment(quiet_environment());
    p.start(BUILD_DIR "/app/spartan", arguments);
    p.waitForStarted(120'000);  // until then it catches what this test catches
    p.closeWriteChannel();
    Output o;
    QElapsedTimer timer;
    timer.start();
    while (p.state() != QProcess::NotRunning && timer.elapsed() < 120'000 &&
           !(catches_interrupts(p.processId()) && ready(p)))
        p.waitForReadyRead(20);
    ::kill(pid_t(p.processId()), SIGINT);
    if (!p.waitForFinished(60'000)) p.kill();
    o.code = p.exitStatus() == QProcess::NormalExit ? p.exitCode() : -1;
    o.out = p.readAllStandardOutput();
    o.err = p.readAllStandardError();
    return o;
}

// What the program writes to a terminal, standard output and standard error together.
QByteArray on_a_terminal(const QStringList& arguments) {
    QStringList quoted{BUILD_DIR "/app/spartan"};
    for (const QString& a : arguments) quoted << "'" + a + "'";
    QProcess p;
    QProcessEnvironment environment = quiet_environment();
    environment.insert("TERM", "xterm");
    p.setProcessEnvironment(environment);
    p.start("script", {"-qec", quoted.join(' '), "/dev/null"});
    p.closeWriteChannel();
    p.waitForFinished(60'000);
    return p.readAllStandardOutput();
}

}  // namespace

class TerminalTest : public QObject {
    Q_OBJECT
private slots:
    void interrupting_a_run_keeps_what_is_recorded() {
        const QTemporaryDir dir;
        const QString w = write(dir, "w.json", kEndless), out = dir.filePath("r.wbrun");
        const Output o = interrupted({"run", w, "--out", out, "--json"},
                                     [&](QProcess&) { return QFileInfo(out + "/requests.jsonl").size() > 0; });
        QCOMPARE(o.code, 130);
        QVERIFY(o.json()["completed"].get<int>() > 0);
        const Json header = *spartan::parse_json(read(out + "/run.json").toStdString(), "run.json");
        QVERIFY(!header["complete"].get<bool>());
        const Output exported = spartan_with({"export", out, "--json", "-"});
        QCOMPARE(exported.code, 0);
        QCOMPARE(exported.json()["completed"].get<int>(), o.json()["completed"].get<int>());
    }

    void interrupting_an_answer_keeps_what_was_said() {
        const QStringList arguments{
            "generate", "--model", "synthetic:smollm2-135m", "--prompt", "a", "--max-tokens", "8000", "--ignore-eos"};
        const Output o = interrupted(arguments, [](QProcess& p) { return p.bytesAvailable() > 0; });
        QCOMPARE(o.code, 130);
        QVERIFY(!o.out.isEmpty());
    }

    void interrupting_leaves_no_file() {
        const QTemporaryDir dir;
        QByteArray prompts = "{\"prompts\":[";
        const QByteArray ids = QByteArray("1,").repeated(3000) + "1";
        for (int i = 0; i < 400; ++i) prompts += (i ? ",{\"ids\":[" : "{\"ids\":[") + ids + "]}";
        const QString file = write(dir, "p.json", prompts + "]}");
        const auto after = [](int ms) {
            return [ms, timer = std::make_shared<QElapsedTimer>()](QProcess&) {
                if (!timer->isValid()) timer->start();
                return timer->elapsed() > ms;
            };
        };
        const Output logits = interrupted({"logits", "--model", "synthetic:tiny", "--prompts", file, "--out",
                                           dir.filePath("o.safetensors"), "--threads", "1"},
                                          after(400));
        QCOMPARE(logits.code, 130);
        const Output adapters = interrupted({"make-adapters", "--model", "synthetic:smollm2-135m", "--spec",
                                             "synthetic:lora:3000:r=4", "--out", dir.filePath("adapters")},
                                            after(400));
        QCOMPARE(adapters.code, 130);
        QVERIFY2(adapters.err.isEmpty(), adapters.err);
        QCOMPARE(entries(dir), QStringList{"p.json"});
    }

    void progress_is_for_terminals() {
        const QTemporaryDir dir;
        const QString w = write(dir, "w.json", kEndless);
        const QStringList run{"run", w, "--set", "requests=40", "--set", "arrival.rate=100"};
        QVERIFY(on_a_terminal(run).contains(" of 40 requests, "));
        const Output piped = spartan_with(run);
        QCOMPARE(piped.code, 0);
        QVERIFY(piped.err.isEmpty() && !piped.out.contains('\r'));
    }

    void control_characters_are_escaped_on_a_terminal() {
        const QTemporaryDir dir;
        const QString w = write(dir, "w.json", kEndless), run = dir.filePath("r.wbrun");
        QCOMPARE(spartan_with({"run", w, "--set", "requests=2", "--set", "name=\"a\\u001b[31mb\"", "--out", run}).code,
                 0);
        const QByteArray shown = on_a_terminal({"compare", run, run});
        QVERIFY2(shown.contains("request_throughput") && !shown.contains("\x1b[31m"), shown);
        // Text of a prompt comes back in answers, names in errors.
        const QByteArray refused = on_a_terminal({"inspect", "/nonexistent/\x1b[31m"});
        QVERIFY2(refused.contains("\\x1b[31m") && !refused.contains("\x1b[31m"), refused);
        const QByteArray decoded =
            on_a_terminal({"tokenize", "--model", "synthetic:tiny", "--decode", "--text", "[27, 91, 51, 49, 109, 72]"});
        QVERIFY2(decoded.contains("\\x1b[31mH") && !decoded.contains("\x1b[31m"), decoded);
        QCOMPARE(spartan_with({"tokenize", "--model", "synthetic:tiny", "--decode", "--text", "[27, 72]"}).out,
                 QByteArray("\x1bH\n"));  // a pipe gets the text as it is
    }
};

QTEST_GUILESS_MAIN(TerminalTest)
#include "terminal_test.moc"
