// A session on its way from this process to the next one of the same program: a file that the next one takes away.
#pragma once

#include "core/base/json.h"
#include "core/base/result.h"

#include <QString>
#include <QStringList>

namespace spartan {

// The path of a new file that only its owner may read: it names what a person works on.
Result<QString> leaveForRestart(const Json& state);
// What it holds; the file is removed.
Result<Json> takeAfterRestart(const QString& path);

bool startProgramAgain(const QStringList& arguments);

}  // namespace spartan
