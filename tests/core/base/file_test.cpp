#include "core/base/file.h"

#include "core/base/memory.h"
#include "core/base/sha256.h"
#include "core/base/text.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <QDir>
#include <QElapsedTimer>
#include <QFile>
#include <QTemporaryDir>
#include <QTest>
#include <csignal>

using namespace spartan;

class FileTest : public QObject {
    Q_OBJECT

    const QTemporaryDir dir_;
    std::string at(const char* name) const { return dir_.filePath(name).toStdString(); }

private slots:
    void refuses_what_is_no_file() {
        QVERIFY(::mkfifo(at("pipe").c_str(), 0600) == 0);
        QVERIFY(QDir(dir_.path()).mkdir("folder.safetensors"));
        QVERIFY(::symlink(at("nothing").c_str(), at("dead").c_str()) == 0);
        QVERIFY(::symlink("/dev/zero", at("endless").c_str()) == 0);
        const std::pair<std::string, const char*> cases[] = {
            {at("pipe"), "found a named pipe, expected a regular file"},
            {at("folder.safetensors"), "found a folder, expected a regular file"},
            {at("dead"), "No such file"},
            {at("endless"), "found a device, expected a regular file"},
            {"", "an empty path"},
            {std::string("a\0b", 3), "zero byte"},
            {at("absent"), "No such file"},
            {std::string(5000, 'x'), "too long"},
        };
        for (const auto& [path, says] : cases) {
            QElapsedTimer timer;
            timer.start();
            const auto file = InputFile::open(path);
            QVERIFY(!file);
            QVERIFY2(file.error().message().find(says) != std::string::npos, file.error().message().c_str());
            QVERIFY(timer.elapsed() < 1000);
        }
    }

    void reads_by_position_and_notices_changes() {
        QVERIFY(write_file_atomically(at("a"), "0123456789"));
        QVERIFY(::symlink(at("a").c_str(), at("link").c_str()) == 0);  // links are followed
        auto file = InputFile::open(at("link"));
        QVERIFY(file && (*file)->size() == 10);
        char bytes[4] = {};
        QVERIFY((*file)->read(3, bytes, 4));
        QCOMPARE(std::string(bytes, 4), std::string("3456"));
        QVERIFY((*file)->check_unchanged());
        QVERIFY(::truncate(at("a").c_str(), 5) == 0);
        const auto read = (*file)->read(3, bytes, 4);
        QVERIFY(!read && read.error().message().find("ends at byte 5") != std::string::npos);
        QVERIFY(!(*file)->check_unchanged());
    }

    void notices_replacement() {
        QVERIFY(write_file_atomically(at("b"), "old"));
        const auto file = InputFile::open(at("b"));
        QVERIFY(write_file_atomically(at("b"), "new"));
        char bytes[3] = {};
        QVERIFY((*file)->read(0, bytes, 3));
        QCOMPARE(std::string(bytes, 3), std::string("old"));
        QVERIFY(!(*file)->check_unchanged());
    }

    void writes_atomically() {
        QVERIFY(write_file_atomically(at("c"), "first"));
        QVERIFY(::chmod(at("c").c_str(), 0640) == 0);
        QVERIFY(::symlink(at("c").c_str(), at("to-c").c_str()) == 0);
        QVERIFY(write_file_atomically(at("to-c"), "second"));  // replaces what the link names
        QCOMPARE(*read_text_file(at("c")), std::string("second"));
        QVERIFY(QFile(dir_.filePath("to-c")).symLinkTarget() == dir_.filePath("c"));
        struct stat info {};
        QVERIFY(::stat(at("c").c_str(), &info) == 0 && (info.st_mode & 0777) == 0640);
        QVERIFY(!write_file_atomically(at("no/such/folder"), "x"));
        QVERIFY(!write_file_atomically(at("folder.safetensors"), "x"));
        QVERIFY(QDir(dir_.path()).entryList({"*.tmp-*"}, QDir::Files).isEmpty());
    }

    // A write that stops half way (here at the process's file size limit) leaves the old file and no temporary.
    void failed_write_keeps_the_old() {
        QVERIFY(write_file_atomically(at("d"), "old"));
        struct rlimit before {};
        QVERIFY(::getrlimit(RLIMIT_FSIZE, &before) == 0);
        const struct rlimit small = {1000, before.rlim_max};
        const auto handler = std::signal(SIGXFSZ, SIG_IGN);
        QVERIFY(::setrlimit(RLIMIT_FSIZE, &small) == 0);
        const auto written = write_file_atomically(at("d"), std::string(5000, 'x'));
        QVERIFY(::setrlimit(RLIMIT_FSIZE, &before) == 0);
        std::signal(SIGXFSZ, handler);
        QVERIFY(!written);
        QVERIFY(written.error().message().starts_with(at("d") + ": cannot write: "));
        QCOMPARE(*read_text_file(at("d")), std::string("old"));
        QVERIFY(QDir(dir_.path()).entryList({"*.tmp-*"}, QDir::Files).isEmpty());
    }

    // K76: killed at any moment, a writer leaves the old content or the new.
    void killed_writers_leave_old_or_new() {
        const std::string a(300'000, 'a'), b(500'000, 'b');
        QVERIFY(write_file_atomically(at("k"), a));
        for (int round = 0; round < 25; ++round) {
            const pid_t child = ::fork();
            if (child == 0) {
                for (;;)
                    if (!write_file_atomically(at("k"), b) || !write_file_atomically(at("k"), a)) ::_exit(1);
            }
            ::usleep(useconds_t(1000 + 700 * round));
            QVERIFY(::kill(child, SIGKILL) == 0);
            int status = 0;
            QVERIFY(::waitpid(child, &status, 0) == child && WIFSIGNALED(status));
            const auto content = read_text_file(at("k"));
            QVERIFY(content && (*content == a || *content == b));
        }
    }

    void hashes() {
        QCOMPARE(sha256_hex("abc"), std::string("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
        QCOMPARE(sha256_hex(""), std::string("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
        Sha256 sha;
        for (int round = 0; round < 2; ++round) {  // finish() starts over
            sha.update("a");
            sha.update("bc");
            QCOMPARE(to_hex(sha.finish()), sha256_hex("abc"));
        }
        QVERIFY(write_file_atomically(at("h"), std::string(3 << 20, 'x')));
        QCOMPARE(*sha256_of_file(at("h")), sha256_hex(std::string(3 << 20, 'x')));
    }

    void size_cap() {
        QVERIFY(write_file_atomically(at("e"), "12345"));
        QVERIFY(read_text_file(at("e"), 5));
        QVERIFY(!read_text_file(at("e"), 4));
        QFile sparse(dir_.filePath("sparse"));  // 4 GB of nothing: refused by size, not read
        QVERIFY(sparse.open(QIODevice::WriteOnly) && sparse.resize(qint64(4) << 30));
        QVERIFY(!read_text_file(at("sparse")));
    }

    void xdg_folders() {
        qputenv("XDG_CACHE_HOME", "/x/cache");
        qputenv("XDG_DATA_HOME", "relative");  // the standard says: ignore
        qputenv("HOME", "/home/h");
        QCOMPARE(cache_dir(), std::string("/x/cache/spartanserve"));
        QCOMPARE(runs_dir(), std::string("/home/h/.local/share/spartanserve/runs"));
        qunsetenv("XDG_CACHE_HOME");
        QCOMPARE(cache_dir(), std::string("/home/h/.cache/spartanserve"));
    }

    // A file that may not be read and a folder that may not be written say so, and what lies there stays. Root may do
    // everything, so a child process gives that up first.
    void permissions_are_said() {
        QVERIFY(write_file_atomically(at("secret"), "old"));
        QVERIFY(::chmod(at("secret").c_str(), 0) == 0);
        QVERIFY(QDir(dir_.path()).mkdir("shut"));
        QVERIFY(write_file_atomically(at("shut/kept"), "old"));
        QVERIFY(::chmod(at("shut").c_str(), 0555) == 0 && ::chmod(dir_.path().toUtf8().constData(), 0755) == 0);
        int answer[2];
        QVERIFY(::pipe(answer) == 0);
        const pid_t child = ::fork();
        if (child == 0) {
            if (::getuid() == 0 && ::setuid(65534) != 0) ::_exit(9);
            const auto read = read_text_file(at("secret"));
            const auto written = write_file_atomically(at("shut/kept"), "new");
            const std::string said = (read ? "read it" : read.error().message()) + "|" +
                                     (written ? std::string("wrote it") : written.error().message());
            (void)!::write(answer[1], said.data(), said.size());
            ::_exit(0);
        }
        ::close(answer[1]);
        std::string said(4096, 0);
        said.resize(size_t(std::max<ssize_t>(::read(answer[0], said.data(), said.size()), 0)));
        ::close(answer[0]);
        int status = 0;
        QVERIFY(::waitpid(child, &status, 0) == child && status == 0);
        const std::string denied = ": Permission denied";
        QVERIFY2(said.find(at("secret")) == 0 && said.find(denied) < said.find('|'), said.c_str());
        QVERIFY2(said.find(at("shut/kept")) == said.find('|') + 1 && said.find(denied, said.find('|')) != said.npos,
                 said.c_str());
        QCOMPARE(*read_text_file(at("shut/kept")), std::string("old"));
        QCOMPARE(QDir(dir_.filePath("shut")).entryList(QDir::Files).size(), 1);  // nothing half-written beside it
        QVERIFY(::chmod(at("shut").c_str(), 0755) == 0);
    }

    // Signals that interrupt system calls, many a millisecond: not a byte is lost.
    void interrupted_calls_go_on() {
        static volatile std::sig_atomic_t alarms = 0;
        struct sigaction action {
        }, before{};
        action.sa_handler = [](int) { alarms = alarms + 1; };  // without SA_RESTART
        QVERIFY(::sigaction(SIGALRM, &action, &before) == 0);
        const itimerval often{{0, 100}, {0, 100}}, never{};
        std::string content(24 << 20, 0);
        for (size_t i = 0; i < content.size(); ++i) content[i] = char(i * 2654435761u >> 13);
        ::setitimer(ITIMER_REAL, &often, nullptr);
        const auto written = write_file_atomically(at("interrupted"), content);
        const auto read = read_text_file(at("interrupted"));
        ::setitimer(ITIMER_REAL, &never, nullptr);
        ::sigaction(SIGALRM, &before, nullptr);
        QVERIFY(written && read);
        QVERIFY(*read == content);
        QVERIFY(alarms > 10);
    }

    void available_memory() {
        QVERIFY(available_memory_bytes() > 0);
        const auto put = [&](const char* path, const char* text) {
            QVERIFY(QDir(dir_.path()).mkpath(QFileInfo(path).path()));
            QVERIFY(write_file_atomically(at(path), text));
        };
        put("m/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");
        const std::string root = at("m");
        QCOMPARE(available_memory_bytes(root), 8000 * 1024);
        put("m/proc/self/cgroup", "0::/a/b\n");
        put("m/sys/fs/cgroup/a/b/memory.max", "max\n");
        put("m/sys/fs/cgroup/a/b/memory.current", "1000\n");
        QCOMPARE(available_memory_bytes(root), 8000 * 1024);
        put("m/sys/fs/cgroup/a/memory.max", "5000000\n");  // a limit higher up counts as well
        put("m/sys/fs/cgroup/a/memory.current", "4000000\n");
        put("m/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 1000000\n");
        QCOMPARE(available_memory_bytes(root), 2000000);
    }
};

QTEST_GUILESS_MAIN(FileTest)
#include "file_test.moc"
