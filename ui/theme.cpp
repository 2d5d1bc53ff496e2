#include "ui/theme.h"

#include "ui/settings.h"

#include <QApplication>
#include <QFontDatabase>
#include <QFontMetricsF>
#include <QPainter>
#include <QRegularExpression>
#include <QSettings>
#include <QStyleFactory>
#include <QWidget>

#include <qcustomplot.h>

#include <algorithm>

namespace spartan {

namespace {

constexpr double kBaseFontPixels = 13;

const Colors kLight{false,
                    QColor(0xf4f5f7),
                    QColor(0xecedf0),
                    QColor(0xffffff),
                    QColor(0xd9dce1),
                    QColor(0xe8eaed),
                    QColor(0xf7f8fa),
                    QColor(0x1f2328),
                    QColor(0x656c76),
                    QColor(0x767d88),
                    QColor(0x0072b2),
                    QColor(0xdbeaf6),
                    QColor(0x0072b2),
                    QColor(0x009e73),
                    QColor(0xcc79a7),
                    QColor(0xd55e00),
                    QColor(0x3a3a3a),
                    QColor(0xe4e6ea),
                    QColor(0x1f2328)};
const Colors kDark{true,
                   QColor(0x17181a),
                   QColor(0x27282b),
                   QColor(0x1e1f22),
                   QColor(0x35373b),
                   QColor(0x2b2d30),
                   QColor(0x18191b),
                   QColor(0xe6e6e6),
                   QColor(0x9a9ea6),
                   QColor(0x82878f),
                   QColor(0x3e9bdc),
                   QColor(0x22384c),
                   QColor(0x3e9bdc),
                   QColor(0x00b388),
                   QColor(0xcc79a7),
                   QColor(0xf0743a),
                   QColor(0xe6e6e6),
                   QColor(0x2a2c2f),
                   QColor(0xf2f2f2)};

QPalette paletteOf(const Colors& c) {
    QPalette p;
    p.setColor(QPalette::Window, c.window);
    p.setColor(QPalette::WindowText, c.text);
    p.setColor(QPalette::Base, c.panel);
    p.setColor(QPalette::AlternateBase, c.window);
    p.setColor(QPalette::Text, c.text);
    p.setColor(QPalette::PlaceholderText, c.faint);
    p.setColor(QPalette::Button, c.bar);
    p.setColor(QPalette::ButtonText, c.text);
    p.setColor(QPalette::BrightText, c.error);
    p.setColor(QPalette::Highlight, c.selection);
    p.setColor(QPalette::HighlightedText, c.text);
    p.setColor(QPalette::Link, c.accent);
    p.setColor(QPalette::LinkVisited, c.accent);
    p.setColor(QPalette::ToolTipBase, c.bar);
    p.setColor(QPalette::ToolTipText, c.text);
    p.setColor(QPalette::Light, c.border);
    p.setColor(QPalette::Midlight, c.hairline);
    p.setColor(QPalette::Mid, c.border);
    p.setColor(QPalette::Dark, c.border);
    p.setColor(QPalette::Shadow, c.border);
    for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText})
        p.setColor(QPalette::Disabled, role, c.faint);
    return p;
}

// Flat controls on the panel's colours. Sizes are pixels at the present scale, so it is built anew when that changes.
QString styleSheetOf(const Colors& c) {
    QString sheet = QStringLiteral(R"(
QToolTip { background: %bar; color: %text; border: 1px solid %border; padding: %4px %6px; }
QLineEdit, QPlainTextEdit, QTextEdit, QSpinBox, QDoubleSpinBox, QComboBox {
  background: %field; color: %text; border: 1px solid %border; border-radius: %4px; padding: %3px %8px;
  selection-background-color: %selection; selection-color: %text; }
QLineEdit:focus, QPlainTextEdit:focus, QTextEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus, QComboBox:focus {
  border: 1px solid %accent; }
QLineEdit[invalid="true"], QSpinBox[invalid="true"], QDoubleSpinBox[invalid="true"], QComboBox[invalid="true"] {
  border: 1px solid %error; }
QLineEdit:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled, QComboBox:disabled { color: %faint; }
QComboBox::drop-down { border: none; width: %20px; }
QComboBox::down-arrow { image: url(:/icons/down.svg); width: %12px; height: %12px; }
QComboBox[small="true"], QSpinBox[small="true"] { padding: %1px %6px; font-size: %12px; }
QCheckBox[small="true"], QPushButton[small="true"], QToolButton[small="true"] { font-size: %12px; padding: %1px %6px; }
QComboBox QAbstractItemView { background: %panel; border: 1px solid %border; outline: none; }
QSpinBox::up-button, QSpinBox::down-button, QDoubleSpinBox::up-button, QDoubleSpinBox::down-button { width: 0; border: none; }
QPushButton { background: %panel; color: %text; border: 1px solid %border; border-radius: %5px; padding: %5px %10px; }
QPushButton:hover { border-color: %muted; }
QPushButton:focus { border-color: %accent; }
QPushButton:pressed, QPushButton:checked { background: %selection; border-color: %accent; }
QPushButton:checked { font-weight: 600; }
QPushButton:disabled { color: %faint; }
QPushButton[primary="true"] { background: %decode; border-color: %decode; color: white; font-weight: 600; }
QPushButton[primary="true"]:hover, QPushButton[primary="true"]:focus { border-color: %text; }
QPushButton[primary="true"]:disabled { background: %free; border-color: %border; color: %faint; }
QPushButton[link="true"] { background: transparent; border: none; color: %accent; padding: %2px %4px; }
QPushButton[link="true"]:hover, QPushButton[link="true"]:focus { text-decoration: underline; }
QPushButton[link="true"]:disabled { color: %faint; }
QToolButton { background: transparent; color: %text; border: 1px solid transparent; border-radius: %4px; padding: %3px %6px; }
QToolButton:hover { border-color: %border; }
QToolButton:focus { border-color: %accent; }
QToolButton:checked { background: %selection; border-color: %accent; }
QToolButton::menu-indicator { image: none; }
QMenu { background: %panel; color: %text; border: 1px solid %border; padding: %4px; }
QMenu::item { padding: %5px %22px %5px %22px; border-radius: %4px; }
QMenu::item:selected { background: %selection; }
QMenu::item:disabled { color: %faint; }
QMenu::separator { height: 1px; background: %hairline; margin: %4px %8px; }
QTableView, QTreeView, QListView { background: %panel; color: %text; border: none; outline: none;
  selection-background-color: %selection; selection-color: %text; }
QHeaderView { background: %panel; }
QHeaderView::section { background: %panel; color: %muted; border: none; padding: %3px %6px; font-size: %12px; }
QHeaderView::section:hover { color: %text; }
QTableCornerButton::section { background: %panel; border: none; }
QScrollArea { background: transparent; border: none; }
QScrollBar:vertical { background: transparent; width: %10px; margin: 0; }
QScrollBar:horizontal { background: transparent; height: %10px; margin: 0; }
QScrollBar::handle { background: %border; border-radius: %3px; margin: %2px; }
QScrollBar::handle:vertical { min-height: %24px; }
QScrollBar::handle:horizontal { min-width: %24px; }
QScrollBar::handle:hover { background: %faint; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: transparent; }
QSplitter::handle { background: transparent; }
QProgressBar { background: %border; border: none; border-radius: %2px; max-height: %5px; min-height: %5px; }
QProgressBar::chunk { background: %accent; border-radius: %2px; }
QSlider::groove:horizontal { background: %border; height: %3px; border-radius: 1px; }
QSlider::handle:horizontal { background: %muted; width: %12px; margin: -%5px 0; border-radius: %6px; }
QSlider::handle:horizontal:hover, QSlider::handle:horizontal:focus { background: %accent; }
QCheckBox { spacing: %6px; }
QCheckBox::indicator { width: %14px; height: %14px; border: 1px solid %faint; border-radius: %3px; background: %field; }
QCheckBox::indicator:hover, QCheckBox::indicator:focus { border-color: %accent; }
QCheckBox::indicator:checked { background: %accent; border-color: %accent; image: url(:/icons/check.svg); }
QGroupBox { border: none; margin-top: %20px; font-weight: 600; }
QGroupBox::title { subcontrol-origin: margin; left: 0; }
)");
    const std::pair<const char*, QColor> names[] = {
        {"%window", c.window},     {"%bar", c.bar},       {"%panel", c.panel},         {"%border", c.border},
        {"%hairline", c.hairline}, {"%field", c.field},   {"%text", c.text},           {"%muted", c.muted},
        {"%faint", c.faint},       {"%accent", c.accent}, {"%selection", c.selection}, {"%decode", c.decode},
        {"%error", c.error},       {"%free", c.free}};
    for (const auto& [name, color] : names) sheet.replace(QLatin1String(name), color.name());
    static const QRegularExpression size(QStringLiteral("%(\\d+)px"));
    QString out;
    qsizetype last = 0;
    for (auto it = size.globalMatch(sheet); it.hasNext();) {
        const auto match = it.next();
        out += QStringView(sheet).mid(last, match.capturedStart() - last);
        out += QString::number(px(match.captured(1).toInt())) + QStringLiteral("px");
        last = match.capturedEnd();
    }
    return out + sheet.mid(last);
}

// Splits text into runs that are drawn as they are and single figures that each take the width of the widest.
template <class Each>
double layoutFigures(const QFontMetricsF& metrics, const QString& text, Each each) {
    double figure = 0;
    for (char16_t d = u'0'; d <= u'9'; ++d) figure = std::max(figure, metrics.horizontalAdvance(QChar(d)));
    double x = 0;
    qsizetype i = 0;
    while (i < text.size()) {
        if (text[i].isDigit()) {
            const QString one = text.mid(i, 1);
            each(x + (figure - metrics.horizontalAdvance(one)) / 2, one);
            x += figure;
            ++i;
            continue;
        }
        qsizetype end = i;
        while (end < text.size() && !text[end].isDigit()) ++end;
        const QString run = text.mid(i, end - i);
        each(x, run);
        x += metrics.horizontalAdvance(run);
        i = end;
    }
    return x;
}

}  // namespace

const Colors& colorsFor(const QPalette& palette) {
    return palette.color(QPalette::Window).lightness() < 128 ? kDark : kLight;
}

// The application's palette, not the widget's: a style sheet gives some widgets a palette of their own.
const Colors& colorsOf(const QWidget*) { return colorsFor(QApplication::palette()); }

double interfaceScale() {
    const QFont font = QApplication::font();
    return font.pixelSize() > 0 ? font.pixelSize() / kBaseFontPixels : 1.0;
}

int px(double value) { return int(std::lround(value * interfaceScale())); }

QFont uiFont(double size, int weight) {
    QFont font = QApplication::font();
    font.setPixelSize(std::max(6, px(size)));
    font.setWeight(QFont::Weight(weight));
    return font;
}

QColor blend(const QColor& under, const QColor& over, double amount) {
    const auto mix = [amount](int a, int b) { return int(std::lround(a + (b - a) * amount)); };
    return {mix(under.red(), over.red()), mix(under.green(), over.green()), mix(under.blue(), over.blue())};
}

double figuresWidth(const QFontMetricsF& metrics, const QString& text) {
    return layoutFigures(metrics, text, [](double, const QString&) {});
}

QString fitFacts(const QFontMetricsF& metrics, const QString& text, double width) {
    static const QString separator = QStringLiteral(" · ");
    QString shown = text;
    while (figuresWidth(metrics, shown) > width) {
        const qsizetype cut = shown.lastIndexOf(separator);
        if (cut < 0) return metrics.elidedText(shown, Qt::ElideRight, width);
        shown.truncate(cut);
    }
    return shown;
}

void drawFigures(QPainter& painter, const QRectF& rect, Qt::Alignment alignment, const QString& text) {
    const QFontMetricsF metrics(painter.font());
    const double width = figuresWidth(metrics, text);
    double x = rect.left();
    if (alignment & Qt::AlignRight) x = rect.right() - width;
    if (alignment & Qt::AlignHCenter) x = rect.center().x() - width / 2;
    double y = rect.top() + metrics.ascent();
    if (alignment & Qt::AlignVCenter) y = rect.center().y() + (metrics.ascent() - metrics.descent()) / 2;
    if (alignment & Qt::AlignBottom) y = rect.bottom() - metrics.descent();
    layoutFigures(metrics, text, [&](double dx, const QString& run) { painter.drawText(QPointF(x + dx, y), run); });
}

void stylePlot(QCustomPlot& plot, const Colors& c) {
    plot.setBackground(QBrush(c.panel));
    plot.setPlottingHints(QCP::phFastPolylines | QCP::phCacheLabels);
    plot.setNoAntialiasingOnDrag(true);
    const QFont font = uiFont(11);
    for (QCPAxisRect* rect : plot.axisRects()) {
        rect->setBackground(QBrush(c.panel));
        for (QCPAxis* axis : rect->axes()) {
            axis->setBasePen(Qt::NoPen);
            axis->setTickPen(Qt::NoPen);
            axis->setSubTickPen(Qt::NoPen);
            axis->setTickLabelFont(font);
            axis->setLabelFont(font);
            axis->setTickLabelColor(c.faint);
            axis->setLabelColor(c.muted);
            axis->setTickLength(0);
            axis->setSubTickLength(0);
            axis->setTickLabelPadding(px(6));
            axis->grid()->setPen(QPen(c.hairline, 1));
            axis->grid()->setZeroLinePen(QPen(c.hairline, 1));
            axis->grid()->setSubGridVisible(false);
            if (axis->orientation() == Qt::Horizontal) axis->grid()->setVisible(false);
        }
    }
    if (plot.legend) {
        plot.legend->setBrush(c.panel);
        plot.legend->setBorderPen(Qt::NoPen);
        plot.legend->setTextColor(c.muted);
        plot.legend->setFont(font);
    }
}

Theme::Theme(QApplication& app) : app_(app), systemDark_(QPalette().color(QPalette::Window).lightness() < 128) {}

void Theme::set(ThemeMode mode, int scalePercent) {
    mode_ = mode;
    scale_ = std::clamp(scalePercent, 80, 200);
    apply();
    emit changed();
}

void Theme::load() {
    const QSettings settings = openSettings();
    const QString mode = settings.value(QStringLiteral("theme"), QStringLiteral("system")).toString();
    set(mode == QLatin1String("dark")    ? ThemeMode::dark
        : mode == QLatin1String("light") ? ThemeMode::light
                                         : ThemeMode::system,
        settings.value(QStringLiteral("scale"), 100).toInt());
}

void Theme::save() const {
    QSettings settings = openSettings();
    settings.setValue(QStringLiteral("theme"), mode_ == ThemeMode::dark    ? QStringLiteral("dark")
                                               : mode_ == ThemeMode::light ? QStringLiteral("light")
                                                                           : QStringLiteral("system"));
    settings.setValue(QStringLiteral("scale"), scale_);
}

void Theme::apply() {
    const bool dark = mode_ == ThemeMode::dark || (mode_ == ThemeMode::system && systemDark_);
    const Colors& colors = dark ? kDark : kLight;
    if (app_.style()->name() != QLatin1String("fusion")) app_.setStyle(QStyleFactory::create(QStringLiteral("Fusion")));
    QFont font = app_.font();
    if (QFontDatabase::hasFamily(QStringLiteral("Inter"))) font.setFamily(QStringLiteral("Inter"));
    font.setPixelSize(int(std::lround(kBaseFontPixels * scale_ / 100.0)));
    app_.setFont(font);
    app_.setPalette(paletteOf(colors));
    app_.setStyleSheet(styleSheetOf(colors));
}

}  // namespace spartan
