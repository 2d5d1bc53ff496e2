// Preferences: window layout, theme, recents. Documents never go here.
#pragma once

#include <QSettings>

namespace spartan {

inline QSettings openSettings() { return QSettings(QStringLiteral("spartanserve"), QStringLiteral("workbench")); }

}  // namespace spartan
