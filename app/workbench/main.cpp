// spartan-workbench: the window. Options as in cli.md; with --screenshot it draws its views into files and leaves.
#include "core/base/result.h"
#include "core/run/runner.h"
#include "ui/main_window.h"
#include "ui/session.h"
#include "ui/text.h"
#include "ui/theme.h"
#include "ui/views/playground_view.h"
#include "ui/views/workload_view.h"

#include <QApplication>
#include <QCommandLineParser>
#include <QDir>
#include <QFileInfo>
#include <QIcon>
#include <QRegularExpression>
#include <QSaveFile>
#include <QTimer>

#include <cstdio>
#include <optional>

#ifndef SPARTAN_VERSION
#define SPARTAN_VERSION "0.1.0"
#endif
#ifndef SPARTAN_COMMIT
#define SPARTAN_COMMIT "unknown"
#endif

namespace spartan {
namespace {

struct Options {
    QString model, device, workload, recording, restore, screenshot_dir, view = QStringLiteral("all"), theme;
    QStringList adapters;
    bool run = false, demo = false, after_done = true, after_run = false;
    double after_s = 0;
    QSize size{1600, 1000};
    int scale = 1;
};

int refuse(const QString& message) {
    std::fprintf(stderr, "spartan-workbench: %s\n", escape_control(toStd(message)).c_str());
    return 2;
}

// Nothing when the program is to leave at once, with `code`.
std::optional<Options> parse(const QStringList& arguments, int& code) {
    QCommandLineParser p;
    p.setApplicationDescription(
        QStringLiteral("The SpartanServe workbench.\n\n"
                       "  spartan-workbench --demo\n"
                       "  spartan-workbench --model MODEL.gguf --adapter pirate=DIR --workload burst.json --run\n"
                       "  spartan-workbench --open RUN_DIR\n"
                       "  QT_QPA_PLATFORM=offscreen spartan-workbench --demo --run --screenshot OUT --after done"));
    const auto add = [&](const char* name, const char* words, const char* value) {
        p.addOption({QString::fromLatin1(name), QString::fromUtf8(words), QString::fromLatin1(value)});
    };
    add("model", "Base model: a Hugging Face folder, a .gguf file or synthetic:SHAPE.", "MODEL");
    add("device", "What computes: cpu, cuda, cuda:N or auto (a GPU where there is one).", "NAME");
    add("adapter", "NAME=DIR or synthetic:KIND:COUNT:SIZES; repeatable.", "ADAPTERS");
    add("workload", "Open a workload file with its base and adapters.", "FILE");
    p.addOption({QStringLiteral("run"), QStringLiteral("Run the workload as soon as everything is loaded.")});
    add("open", "Open a recorded run.", "RUN_DIR");
    add("restore", "Go on from the session that another process of this program left in FILE, which is removed.",
        "FILE");
    p.addOption(
        {QStringLiteral("demo"),
         QStringLiteral("The demo model from the cache (unless --model names one), its adapters and workload.")});
    add("screenshot", "Write one VIEW.png per view into DIR, then leave.", "DIR");
    add("view", "Which: library, workload, latency, memory, layout, playground, explore or all.", "NAME");
    add("size", "Size of a screenshot in pixels (1600x1000).", "WxH");
    add("scale", "Device pixels per pixel of the interface, 1 or 2.", "N");
    add("theme", "light or dark.", "NAME");
    add("after",
        "When to draw: so many seconds after the start; run+SECONDS: after the run has begun; or done (default): when "
        "all "
        "is loaded and the run has ended.",
        "WHEN");
    const QCommandLineOption help({QStringLiteral("h"), QStringLiteral("help")}, QStringLiteral("This text."));
    const QCommandLineOption version(QStringLiteral("version"), QStringLiteral("Version and commit."));
    p.addOption(help);
    p.addOption(version);
    code = 2;
    if (!p.parse(arguments)) return refuse(p.errorText()), std::nullopt;
    if (p.isSet(help)) {
        std::fputs(p.helpText().toUtf8().constData(), stdout);
        code = 0;
        return {};
    }
    if (p.isSet(version)) {
        std::printf("spartan-workbench %s (%s)\n", SPARTAN_VERSION, SPARTAN_COMMIT);
        code = 0;
        return {};
    }
    const auto fail = [](const QString& field, const QString& found, const QString& expected) {
        refuse(toQ(Error{toStd(field), "", toStd(found), toStd(expected)}.message()));
        return std::nullopt;
    };
    if (!p.positionalArguments().isEmpty())
        return fail(QStringLiteral("arguments"), p.positionalArguments().first(), QStringLiteral("options only"));
    Options o;
    const auto value = [&](const char* name) { return p.value(QString::fromLatin1(name)); };
    const auto set = [&](const char* name) { return p.isSet(QString::fromLatin1(name)); };
    o.model = value("model");
    o.adapters = p.values(QStringLiteral("adapter"));
    o.workload = value("workload");
    o.recording = value("open");
    o.restore = value("restore");
    o.run = set("run");
    o.demo = set("demo");
    o.screenshot_dir = value("screenshot");
    for (const char* name : {"model", "workload", "open", "restore", "screenshot"})
        if (set(name) && value(name).isEmpty())
            return fail(QStringLiteral("--") + QLatin1String(name), QStringLiteral("nothing"),
                        QStringLiteral("a path"));
    if (!o.adapters.isEmpty()) {
        std::vector<std::string> list;
        for (const QString& a : o.adapters) list.push_back(toStd(a));
        const auto parsed = parse_adapter_arguments(list, toStd(QDir::currentPath()));
        if (!parsed) return refuse(toQ(parsed.error().message())), std::nullopt;
    }
    if (set("device")) {
        static const QRegularExpression device(QStringLiteral("^(auto|cpu|cuda(:\\d{1,3})?)$"));
        o.device = value("device");
        if (!device.match(o.device).hasMatch())
            return fail(QStringLiteral("--device"), o.device, QStringLiteral("cpu, cuda, cuda:N or auto"));
    }
    if (set("view")) {
        o.view = value("view");
        if (o.view != QLatin1String("all") && !MainWindow::viewNames().contains(o.view))
            return fail(QStringLiteral("--view"), o.view,
                        MainWindow::viewNames().join(QStringLiteral(", ")) + QStringLiteral(" or all"));
    }
    if (set("size")) {
        static const QRegularExpression size(QStringLiteral("^(\\d{1,5})x(\\d{1,5})$"));
        const auto m = size.match(value("size"));
        if (m.hasMatch()) o.size = {m.captured(1).toInt(), m.captured(2).toInt()};
        if (!m.hasMatch() || o.size.width() < 320 || o.size.height() < 240 || o.size.width() > 16'384 ||
            o.size.height() > 16'384)
            return fail(QStringLiteral("--size"), value("size"),
                        QStringLiteral("WIDTHxHEIGHT from 320x240 to 16384x16384"));
    }
    if (set("scale")) {
        if (value("scale") != QLatin1String("1") && value("scale") != QLatin1String("2"))
            return fail(QStringLiteral("--scale"), value("scale"), QStringLiteral("1 or 2"));
        o.scale = value("scale").toInt();
    }
    if (set("theme")) {
        o.theme = value("theme");
        if (o.theme != QLatin1String("light") && o.theme != QLatin1String("dark"))
            return fail(QStringLiteral("--theme"), o.theme, QStringLiteral("light or dark"));
    }
    if (set("after") && value("after") != QLatin1String("done")) {
        bool number = false;
        const QString run = QStringLiteral("run+");
        o.after_run = value("after").startsWith(run);
        o.after_s = value("after").mid(o.after_run ? run.size() : 0).toDouble(&number);
        o.after_done = false;
        if (o.after_run && !o.run)
            return fail(QStringLiteral("--after"), value("after"), QStringLiteral("--run with it"));
        if (!number || !(o.after_s >= 0) || o.after_s > 86'400)
            return fail(QStringLiteral("--after"), value("after"),
                        QStringLiteral("seconds from 0 to 86400, run+SECONDS, or done"));
    }
    return o;
}

// Carries out what the command line asks for, step by step as things become ready.
class Script : public QObject {
public:
    Script(const Options& options, Session& session, MainWindow& window)
        : o_(options), session_(session), window_(window) {
        connect(&session_, &Session::message, this, [this](const QString& text, bool isError) {
            if (o_.screenshot_dir.isEmpty() || !isError) return;
            failed_ = true;
            std::fprintf(stderr, "spartan-workbench: %s\n", escape_control(toStd(text)).c_str());
        });
        connect(&session_, &Session::engineFailed, this, [this](const QString& why) {
            if (o_.screenshot_dir.isEmpty()) return;
            failed_ = true;
            std::fprintf(stderr, "spartan-workbench: the engine has stopped: %s\n", toStd(why).c_str());
        });
        connect(&session_, &Session::runFinished, this, [this] { run_ended_ = true; });
        connect(&window_.workloadView(), &WorkloadView::opened, this, [this](const QString&, bool ok) {
            workload_pending_ = false;
            if (!ok) wants_run_ = false;
        });
    }

    void begin() {
        if (!o_.restore.isEmpty()) window_.restore(o_.restore);
        if (!o_.device.isEmpty()) session_.setDevice(o_.device);
        if (!o_.workload.isEmpty()) {
            workload_pending_ = true;
            window_.workloadView().open(QFileInfo(o_.workload).absoluteFilePath());
        }
        if (!o_.model.isEmpty()) session_.openModel(o_.model);
        if (o_.demo) {
            window_.openDemo(o_.model.isEmpty());
            if (o_.workload.isEmpty()) window_.workloadView().setWorkload(demoWorkload(), QStringLiteral("demo"));
        }
        if (!o_.adapters.isEmpty()) session_.addAdapterArguments(o_.adapters, QDir::currentPath());
        if (!o_.recording.isEmpty()) session_.openRecording(QFileInfo(o_.recording).absoluteFilePath());
        wants_run_ = o_.run;
        timer_.setInterval(50);
        connect(&timer_, &QTimer::timeout, this, [this] { poll(); });
        timer_.start();
        clock_.start();
    }

private:
    static double seconds(const QElapsedTimer& clock) { return clock.isValid() ? double(clock.elapsed()) / 1000 : -1; }

    bool loading() const {
        return workload_pending_ || session_.modelState() == Session::ModelState::opening ||
               session_.modelState() == Session::ModelState::loading || session_.openingProgress() >= 0 ||
               session_.readingAdapters();
    }

    void poll() {
        // Drops and files are sorted out in workers first: two quiet polls mean that nothing more is on its way.
        quiet_ = loading() ? 0 : quiet_ + 1;
        if (wants_run_ && quiet_ >= 4 && clock_.elapsed() > 300) {
            wants_run_ = false;
            QStringList why = session_.whyNotRun(window_.workloadView().workload());
            if (why.isEmpty() && window_.workloadView().valid()) {
                running_ = true;
                window_.startRun();
            } else {
                if (!window_.workloadView().valid()) why << window_.workloadView().error();
                window_.showMessage(why.join(QStringLiteral("; ")), true);
                if (!o_.screenshot_dir.isEmpty())
                    std::fprintf(stderr, "spartan-workbench: %s\n",
                                 escape_control(toStd(why.join(QStringLiteral("; ")))).c_str());
                failed_ = true;
            }
        }
        if (o_.screenshot_dir.isEmpty()) {
            if (!wants_run_) timer_.stop();
            return;
        }
        const bool settled = quiet_ >= 6 && clock_.elapsed() > 400 && !wants_run_;
        const bool run_over = !running_ || run_ended_ || (failed_ && session_.runState() == Session::RunState::idle);
        if (!run_clock_.isValid() && session_.runState() == Session::RunState::running) run_clock_.start();
        const bool due = o_.after_done  ? settled && run_over
                         : o_.after_run ? seconds(run_clock_) >= o_.after_s || (!wants_run_ && run_over)
                                        : seconds(clock_) >= o_.after_s;
        if (!due) return;
        // With a base loaded the playground is shown as it is used: with its answers.
        if (o_.after_done && !asked_ && session_.model() && o_.recording.isEmpty() &&
            (o_.view == QLatin1String("all") || o_.view == QLatin1String("playground"))) {
            asked_ = true;
            window_.playgroundView().send();
            ask_clock_.start();
            return;
        }
        if (asked_ && window_.playgroundView().generating() && ask_clock_.elapsed() < 120'000) return;
        timer_.stop();
        QCoreApplication::exit(draw());
    }

    int draw() {
        if (!QDir().mkpath(o_.screenshot_dir)) {
            std::fprintf(stderr, "spartan-workbench: %s: found no folder that can be made, expected one\n",
                         escape_control(toStd(o_.screenshot_dir)).c_str());
            return 1;
        }
        for (const QString& view : o_.view == QLatin1String("all") ? MainWindow::viewNames() : QStringList{o_.view}) {
            const QString path = o_.screenshot_dir + QLatin1Char('/') + view + QStringLiteral(".png");
            QSaveFile file(path);
            const QImage image = window_.picture(view, o_.size);
            if (!file.open(QIODevice::WriteOnly) || !image.save(&file, "PNG") || !file.commit()) {
                std::fprintf(stderr, "spartan-workbench: %s: %s\n", escape_control(toStd(path)).c_str(),
                             toStd(file.errorString()).c_str());
                return 1;
            }
        }
        return failed_ ? 1 : 0;
    }

    const Options o_;
    Session& session_;
    MainWindow& window_;
    QTimer timer_;
    QElapsedTimer clock_, ask_clock_, run_clock_;
    bool wants_run_ = false, running_ = false, run_ended_ = false, workload_pending_ = false, failed_ = false,
         asked_ = false;
    int quiet_ = 0;
};

}  // namespace
}  // namespace spartan

int main(int argc, char** argv) {
    using namespace spartan;
    QStringList arguments;
    for (int i = 0; i < argc; ++i) arguments << QString::fromLocal8Bit(argv[i]);
    int code = 0;
    const auto options = parse(arguments, code);
    if (!options) return code;
    const bool pictures = !options->screenshot_dir.isEmpty();
    if (pictures) {
        if (options->scale > 1) qputenv("QT_SCALE_FACTOR", QByteArray::number(options->scale));
        if (qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM") && qEnvironmentVariableIsEmpty("DISPLAY") &&
            qEnvironmentVariableIsEmpty("WAYLAND_DISPLAY"))
            qputenv("QT_QPA_PLATFORM", "offscreen");
    }
    QApplication app(argc, argv);
    QApplication::setApplicationName(QStringLiteral("spartan-workbench"));
    QApplication::setApplicationDisplayName(QStringLiteral("SpartanServe Workbench"));
    QApplication::setApplicationVersion(QStringLiteral(SPARTAN_VERSION));
    QApplication::setWindowIcon(QIcon(QStringLiteral(":/icons/spartan-workbench.svg")));
    Theme theme(app);
    if (options->theme.isEmpty() && !pictures)
        theme.load();
    else
        theme.set(options->theme == QLatin1String("dark") ? ThemeMode::dark : ThemeMode::light, 100);
    Session session;
    ProgramInfo program{SPARTAN_VERSION, SPARTAN_COMMIT, {}};
    for (const QString& a : arguments) program.command.push_back(toStd(a));
    session.setProgram(program);
    MainWindow window(theme, session);
    window.resize(1600, 1000);
    window.setAsksBeforeClosing(!pictures);
    Script script(*options, session, window);
    if (!pictures) {
        window.restoreLayout();
        window.offerRecovery();
        if (options->model.isEmpty() && options->workload.isEmpty() && options->recording.isEmpty() &&
            options->restore.isEmpty() && !options->demo)
            window.showMessage(QObject::tr("Open a base model from the menu at the top left, or drop one anywhere."),
                               false);
    }
    window.show();
    script.begin();
    return QApplication::exec();
}
