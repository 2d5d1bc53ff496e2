// Light, dark and system look: palettes, the meaning of colours, spacing on an 8 px grid, fonts and the interface
// scale.
#pragma once

#include <QColor>
#include <QObject>
#include <QPalette>
#include <QRectF>
#include <QString>

class QApplication;
class QCustomPlot;
class QFont;
class QFontMetricsF;
class QPainter;
class QWidget;

namespace spartan {

enum class ThemeMode { system, light, dark };

// Colour is meaning, never an adapter's number. Always doubled by a hatch, dash, letter or word.
struct Colors {
    bool dark;
    QColor window, bar, panel, border, hairline, field;  // surfaces
    QColor text, muted, faint;                           // text, units and facts, hints
    QColor accent, selection;                            // focus and selection
    QColor prefill;                                      // prefill, adapter weights
    QColor decode;                                       // decode, KV
    QColor transfer;                                     // adapter transfer, workspace, transient
    QColor error;                                        // error, waste, preemption
    QColor ink;                                          // base model, everything without a meaning of its own
    QColor free;                                         // padding, free
    QColor cursor;                                       // the one time cursor
};

const Colors& colorsFor(const QPalette& palette);
const Colors& colorsOf(const QWidget* widget);

// `value` pixels at 100 %, at the present interface scale. Recompute after QEvent::FontChange.
int px(double value);
double interfaceScale();

// Fonts relative to the application's: size in pixels at 100 %.
QFont uiFont(double size = 13, int weight = 400);

// Mixes `amount` of `over` into `under`: fills stay opaque, since translucent ones are slow to draw.
QColor blend(const QColor& under, const QColor& over, double amount);

// Draws one line of text with figures of equal width, so that changing numbers do not jump.
void drawFigures(QPainter& painter, const QRectF& rect, Qt::Alignment alignment, const QString& text);
double figuresWidth(const QFontMetricsF& metrics, const QString& text);
// What of `text` fits into `width`: facts joined by " · " go one by one from the end, a lone one is elided.
QString fitFacts(const QFontMetricsF& metrics, const QString& text, double width);

// Axes, grid, fonts and background of a plot from the palette; call again on PaletteChange and FontChange.
void stylePlot(QCustomPlot& plot, const Colors& colors);

// Applies mode and scale to the whole application; one object, owned by the program.
class Theme : public QObject {
    Q_OBJECT
public:
    explicit Theme(QApplication& app);  // reads nothing, applies nothing yet

    ThemeMode mode() const { return mode_; }
    int scalePercent() const { return scale_; }
    void set(ThemeMode mode, int scalePercent);  // scale is clamped to 80…200
    void load();                                 // from QSettings, and applies
    void save() const;

signals:
    void changed();

private:
    void apply();

    QApplication& app_;
    bool systemDark_;
    ThemeMode mode_ = ThemeMode::system;
    int scale_ = 100;
};

}  // namespace spartan
