#include "ui/restart.h"

#include "core/base/file.h"
#include "ui/text.h"

#include <QCoreApplication>
#include <QDir>
#include <QFile>
#include <QProcess>

namespace spartan {

Result<QString> leaveForRestart(const Json& state) {
    const QString folder = toQ(cache_dir());
    if (!QDir().mkpath(folder)) return Error{toStd(folder), "", "a folder that cannot be made", "the cache"};
    const QString path = folder + QStringLiteral("/restart-%1.json").arg(QCoreApplication::applicationPid());
    TRY_VOID(write_file_atomically(toStd(path), state.dump(-1, ' ', false, Json::error_handler_t::replace)));
    QFile::setPermissions(path, QFile::ReadOwner | QFile::WriteOwner);
    return path;
}

Result<Json> takeAfterRestart(const QString& path) {
    auto state = read_json_file(toStd(path));
    QFile::remove(path);
    return state;
}

bool startProgramAgain(const QStringList& arguments) {
    return QProcess::startDetached(QCoreApplication::applicationFilePath(), arguments);
}

}  // namespace spartan
