// A plot over the run's clock. All of them share one x range, one cursor and one selection through the TimeController:
// click or drag without a key moves the cursor or selects a range, the wheel zooms at the pointer, Shift-drag pans, a
// double click shows the whole run.
#pragma once

#include "ui/panel.h"

#include <qcustomplot.h>

#include <vector>

namespace spartan {

class TimePlot : public QCustomPlot {
    Q_OBJECT
public:
    explicit TimePlot(const ViewContext& context, QWidget* parent = nullptr);

    // Takes range, cursor, selection and the marks of held time over. Returns true when the x range changed, so that
    // the data must be fetched anew. Call replotAll() or replotCursor() afterwards.
    bool follow();
    void replotAll() { replot(QCustomPlot::rpQueuedReplot); }
    void replotCursor();
    // Grows the y axis at once and shrinks it slowly, so that a live plot does not jump.
    void fitY(double largest, double smallestPositive = 0);
    void setLogY(bool on);
    bool logY() const { return log_y_; }
    void setNote(const QString& text);  // one faint line above the axes; facts that do not fit are left out
    const QString& note() const { return note_text_; }
    QStringList heldMarks() const;  // what the marks of held time say
    virtual void restyle(const Colors& colors);

    int64_t usAt(double x) const;

protected:
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

    ViewContext context_;

private:
    void showSelection();
    void showHeld();
    void placeNote();
    void placeTicks();
    struct HeldMark {
        QCPItemStraightLine* line;
        QCPItemText* text;
    };
    void styleHeld(const HeldMark& mark);

    QCPLayer* cursor_layer_;
    QCPItemStraightLine* cursor_;
    QCPItemRect* selection_;
    QCPItemText* note_;
    QCPItemText* readout_;
    std::vector<HeldMark> held_;
    QString note_text_;
    QColor mark_color_;
    QPoint pressed_at_;
    int64_t pressed_us_ = 0, pan_from_us_ = 0;
    enum class Drag { none, pressed, select, pan } drag_ = Drag::none;
    int64_t shown_start_us_ = -1, shown_end_us_ = -1;
    bool log_y_ = false;
    double top_ = 0;
};

}  // namespace spartan
