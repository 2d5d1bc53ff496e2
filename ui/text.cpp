#include "ui/text.h"

#include <QLocale>

#include <algorithm>
#include <cmath>

namespace spartan {

QString plainTooltip(const QString& text) {
    if (text.isEmpty()) return {};
    return QStringLiteral("<html><p style='white-space:pre-wrap'>%1</p></html>").arg(text.toHtmlEscaped());
}

QString menuText(const QString& text) {
    return oneLine(toStd(text), 120).replace(QLatin1Char('&'), QLatin1String("&&"));
}

QString oneLine(const std::string& text, int max) { return toQ(shorten(escape_control(text), size_t(max))); }

QString count(int64_t n) { return QLocale(QLocale::English).toString(qlonglong(n)); }

QString counted(int64_t n, const QString& one, const QString& many) {
    return count(n) + QLatin1Char(' ') + (n == 1 ? one : many);
}

QString bytesText(int64_t bytes) { return toQ(format_bytes(bytes)); }

QString msFigure(double ms, QString* unit) {
    const bool seconds = ms >= 10'000;
    const double value = seconds ? ms / 1000 : ms;
    if (unit) *unit = seconds ? QStringLiteral("s") : QStringLiteral("ms");
    const int decimals = value >= 100 ? 0 : value >= 10 ? 1 : 2;
    return QLocale(QLocale::English).toString(value, 'f', decimals);
}

QString msText(double ms) {
    QString unit;
    const QString figure = msFigure(ms, &unit);
    return figure + QLatin1Char(' ') + unit;
}

QString secondsText(double seconds) {
    return QLocale(QLocale::English).toString(seconds, 'f', 3) + QStringLiteral(" s");
}

QString durationText(double seconds) {
    const auto total = int64_t(std::lround(std::max(0.0, seconds)));
    const auto two = [](int64_t v) { return QStringLiteral("%1").arg(v, 2, 10, QLatin1Char('0')); };
    if (total >= 3600) return QStringLiteral("%1:%2:%3").arg(total / 3600).arg(two(total / 60 % 60), two(total % 60));
    return QStringLiteral("%1:%2").arg(total / 60).arg(two(total % 60));
}

QString rateText(double perSecond) {
    return QLocale(QLocale::English).toString(perSecond, 'f', perSecond >= 100 ? 0 : perSecond >= 10 ? 1 : 2);
}

QString percentText(double share) {
    return QLocale(QLocale::English).toString(share * 100, 'f', share < 0.1 && share > 0 ? 1 : 0) +
           QStringLiteral(" %");
}

}  // namespace spartan
