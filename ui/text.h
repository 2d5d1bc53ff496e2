// Foreign text (names, prompts, answers, errors) and figures as the window shows them.
#pragma once

#include "core/base/result.h"
#include "core/base/text.h"

#include <QString>

namespace spartan {

inline QString toQ(const std::string& s) { return QString::fromUtf8(s.data(), qsizetype(s.size())); }
inline std::string toStd(const QString& s) { return s.toStdString(); }

// A tooltip that is shown as plain text whatever it holds: Qt guesses HTML unless told.
QString plainTooltip(const QString& text);
// The same for a menu, where & would underline the next letter.
QString menuText(const QString& text);
// One line: control characters and bidirectional overrides escaped, cut to `max` characters.
QString oneLine(const std::string& text, int max = 400);

QString count(int64_t n);                                             // "1,204"
QString counted(int64_t n, const QString& one, const QString& many);  // "1 adapter", "1,204 adapters"
QString bytesText(int64_t bytes);                                     // "98.4 MB"
QString msText(double ms);                                            // "182 ms", "4.91 s", "0.42 ms"
QString msFigure(double ms, QString* unit);                           // figure and unit apart
QString secondsText(double seconds);                                  // "12.480 s"
QString durationText(double seconds);                                 // "0:41", "1:02:07"
QString rateText(double perSecond);                                   // "704"
QString percentText(double share);                                    // 0.714 -> "71 %"

}  // namespace spartan
