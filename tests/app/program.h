// Runs the program as a person or a script does.
#pragma once

#include "core/base/json.h"

#include <QProcess>
#include <QTemporaryDir>
#include <QtTest>

#include <sys/resource.h>

namespace program {

using spartan::Json;

inline const QString kGolden = TESTS_DIR "/golden";

struct Output {
    int code = -1;
    QByteArray out, err;
    Json json() const {
        const auto parsed = spartan::parse_json(out.toStdString(), "stdout");
        return parsed ? *parsed : Json(nullptr);
    }
};

inline QProcessEnvironment quiet_environment() {
    QProcessEnvironment e = QProcessEnvironment::systemEnvironment();
    e.insert("XDG_CACHE_HOME", "/nonexistent");
    return e;
}

inline Output spartan_with(const QStringList& arguments, const QByteArray& input = {}, const QString& out_file = {},
                           rlim_t address_space = RLIM_INFINITY) {
    QProcess p;
    p.setProcessEnvironment(quiet_environment());
    p.setChildProcessModifier([=] {
        const struct rlimit limit { address_space, RLIM_INFINITY };
        if (address_space != RLIM_INFINITY) ::setrlimit(RLIMIT_AS, &limit);
    });
    if (!out_file.isEmpty()) p.setStandardOutputFile(out_file);
    p.start(BUILD_DIR "/app/spartan", arguments);
    p.write(input);
    p.closeWriteChannel();
    Output o;
    if (!p.waitForFinished(240'000)) p.kill();
    o.code = p.exitStatus() == QProcess::NormalExit ? p.exitCode() : -1;
    o.out = p.readAllStandardOutput();
    o.err = p.readAllStandardError();
    if (o.code < 0) qDebug() << arguments << o.code << o.err;
    return o;
}

inline QByteArray read(const QString& path) {
    QFile f(path);
    return f.open(QIODevice::ReadOnly) ? f.readAll() : QByteArray();
}

inline QString write(const QTemporaryDir& dir, const QString& name, const QByteArray& content) {
    QFile f(dir.filePath(name));
    if (!f.open(QIODevice::WriteOnly)) return {};
    f.write(content);
    return f.fileName();
}

inline QStringList entries(const QTemporaryDir& dir) {
    return QDir(dir.path()).entryList(QDir::AllEntries | QDir::Hidden | QDir::NoDotAndDotDot);
}

}  // namespace program
