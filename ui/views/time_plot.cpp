#include "ui/views/time_plot.h"

#include "ui/run_model.h"
#include "ui/text.h"
#include "ui/time_controller.h"

#include <QMouseEvent>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>

namespace spartan {

namespace {

// "0 s", "2.5 s", "1:40": run time on the x axis.
class ClockTicker : public QCPAxisTicker {
protected:
    QString getTickLabel(double tick, const QLocale& locale, QChar, int) override {
        if (tick >= 120) return durationText(tick);
        return locale.toString(tick, 'g', 6) + QStringLiteral(" s");
    }
};

}  // namespace

TimePlot::TimePlot(const ViewContext& context, QWidget* parent) : QCustomPlot(parent), context_(context) {
    setFocusPolicy(Qt::ClickFocus);
    setMouseTracking(true);
    addLayer(QStringLiteral("cursor"), layer(QStringLiteral("overlay")), QCustomPlot::limBelow);
    cursor_layer_ = layer(QStringLiteral("cursor"));
    cursor_layer_->setMode(QCPLayer::lmBuffered);

    xAxis->setTicker(QSharedPointer<QCPAxisTicker>(new ClockTicker));
    xAxis->ticker()->setTickCount(6);
    yAxis->ticker()->setTickCount(4);
    axisRect()->setupFullAxesBox(false);
    axisRect()->setAutoMargins(QCP::msLeft | QCP::msBottom);

    cursor_ = new QCPItemStraightLine(this);
    selection_ = new QCPItemRect(this);
    readout_ = new QCPItemText(this);
    for (QCPAbstractItem* item : {static_cast<QCPAbstractItem*>(cursor_), static_cast<QCPAbstractItem*>(selection_),
                                  static_cast<QCPAbstractItem*>(readout_)}) {
        item->setLayer(cursor_layer_);
        item->setSelectable(false);
    }
    selection_->topLeft->setTypeY(QCPItemPosition::ptAxisRectRatio);
    selection_->bottomRight->setTypeY(QCPItemPosition::ptAxisRectRatio);
    readout_->position->setType(QCPItemPosition::ptAxisRectRatio);
    readout_->position->setCoords(0.995, 0.0);
    readout_->setPositionAlignment(Qt::AlignRight | Qt::AlignTop);
    note_ = new QCPItemText(this);
    note_->setSelectable(false);
    note_->setClipToAxisRect(false);
    note_->position->setType(QCPItemPosition::ptAxisRectRatio);
    note_->position->setCoords(0, 0);
    note_->setPositionAlignment(Qt::AlignLeft | Qt::AlignBottom);
    setLocale(QLocale(QLocale::English));
    // How wide the axes' rectangle is, is known only after the margins were fitted to the labels.
    connect(this, &QCustomPlot::afterLayout, this, &TimePlot::placeNote);
}

void TimePlot::restyle(const Colors& c) {
    stylePlot(*this, c);
    mark_color_ = c.muted;
    // The note has its own line above the axes: nothing is drawn over it.
    axisRect()->setMinimumMargins(QMargins(px(8), px(20), px(18), px(4)));
    axisRect()->setMargins(QMargins(px(8), px(20), px(18), px(4)));
    cursor_->setPen(QPen(c.cursor, 1));
    selection_->setPen(Qt::NoPen);
    // The one translucent fill: a single rectangle on its own buffered layer.
    QColor fill = c.accent;
    fill.setAlpha(40);
    selection_->setBrush(fill);
    note_->setFont(uiFont(11));
    note_->setColor(c.faint);
    readout_->setFont(uiFont(11));
    readout_->setColor(c.text);
    readout_->setBrush(c.panel);
    readout_->setPadding(QMargins(px(4), px(1), px(4), px(1)));
    for (const HeldMark& mark : held_) styleHeld(mark);
    placeTicks();
    placeNote();
}

bool TimePlot::follow() {
    const TimeController& time = context_.time;
    const bool moved = time.rangeStartUs() != shown_start_us_ || time.rangeEndUs() != shown_end_us_;
    if (moved) {
        shown_start_us_ = time.rangeStartUs();
        shown_end_us_ = time.rangeEndUs();
        xAxis->setRange(double(shown_start_us_) / 1e6, double(shown_end_us_) / 1e6);
    }
    const double x = double(time.cursorUs()) / 1e6;
    cursor_->point1->setCoords(x, 0);
    cursor_->point2->setCoords(x, 1);
    cursor_->point1->setTypeY(QCPItemPosition::ptAxisRectRatio);
    cursor_->point2->setTypeY(QCPItemPosition::ptAxisRectRatio);
    cursor_->setVisible(!context_.model.empty());
    showSelection();
    showHeld();
    return moved;
}

void TimePlot::showSelection() {
    const auto range = context_.time.selection();
    selection_->setVisible(range.has_value());
    readout_->setVisible(range.has_value());
    if (!range) return;
    selection_->topLeft->setCoords(double(range->first) / 1e6, 0);
    selection_->bottomRight->setCoords(double(range->second) / 1e6, 1);
    const auto bins = context_.model.stepBins(range->first, range->second, 1);
    int64_t steps = 0;
    for (const StepBin& bin : bins) steps += bin.steps;
    readout_->setText(tr("%1 to %2 · Δ %3 · %4 steps")
                          .arg(secondsText(double(range->first) / 1e6), secondsText(double(range->second) / 1e6),
                               secondsText(double(range->second - range->first) / 1e6), count(steps)));
}

void TimePlot::showHeld() {
    const auto& spans = context_.model.heldSpans();
    while (held_.size() > spans.size()) {
        removeItem(held_.back().line);
        removeItem(held_.back().text);
        held_.pop_back();
    }
    while (held_.size() < spans.size()) {
        const HeldMark mark{new QCPItemStraightLine(this), new QCPItemText(this)};
        mark.line->setSelectable(false);
        mark.text->setSelectable(false);
        mark.text->position->setTypeY(QCPItemPosition::ptAxisRectRatio);
        mark.text->setPositionAlignment(Qt::AlignLeft | Qt::AlignBottom);
        styleHeld(mark);
        held_.push_back(mark);
    }
    for (size_t i = 0; i < spans.size(); ++i) {
        const double x = double(spans[i].at_us) / 1e6;
        held_[i].line->point1->setCoords(x, 0);
        held_[i].line->point2->setCoords(x, 1);
        held_[i].line->point1->setTypeY(QCPItemPosition::ptAxisRectRatio);
        held_[i].line->point2->setTypeY(QCPItemPosition::ptAxisRectRatio);
        held_[i].text->position->setCoords(x, 0.99);
        held_[i].text->setText(tr(" held %1").arg(msText(double(spans[i].held_us) / 1e3)));
    }
}

void TimePlot::styleHeld(const HeldMark& mark) {
    mark.line->setPen(QPen(mark_color_, 1, Qt::DotLine));
    mark.text->setFont(uiFont(10.5));
    mark.text->setColor(mark_color_);
}

QStringList TimePlot::heldMarks() const {
    QStringList words;
    for (const HeldMark& mark : held_) words << mark.text->text().trimmed();
    return words;
}

void TimePlot::replotCursor() { cursor_layer_->replot(); }

void TimePlot::fitY(double largest, double smallest_positive) {
    if (!(largest > 0)) largest = 1;
    const double want = largest * 1.08;
    if (want > top_ || want < top_ * 0.6) top_ = want;
    yAxis->setNumberFormat(QStringLiteral("f"));
    yAxis->setNumberPrecision(top_ >= 8 ? 0 : top_ >= 0.8 ? 1 : 3);
    if (log_y_)
        yAxis->setRange(smallest_positive > 0 ? smallest_positive * 0.8 : top_ / 1000, top_ * 1.1);
    else
        yAxis->setRange(0, top_);
}

void TimePlot::setLogY(bool on) {
    log_y_ = on;
    yAxis->setScaleType(on ? QCPAxis::stLogarithmic : QCPAxis::stLinear);
    if (on)
        yAxis->setTicker(QSharedPointer<QCPAxisTickerLog>(new QCPAxisTickerLog));
    else
        yAxis->setTicker(QSharedPointer<QCPAxisTicker>(new QCPAxisTicker));
    placeTicks();
    top_ = 0;
}

void TimePlot::setNote(const QString& text) {
    if (text == note_text_) return;
    note_text_ = text;
    placeNote();
}

void TimePlot::placeNote() {
    note_->setText(fitFacts(QFontMetricsF(note_->font()), note_text_, std::max(0, axisRect()->width())));
}

// As many labels as have room beside each other.
void TimePlot::placeTicks() {
    xAxis->ticker()->setTickCount(std::clamp(width() / px(72), 2, 6));
    yAxis->ticker()->setTickCount(std::clamp(height() / px(36), 2, 4));
}

void TimePlot::resizeEvent(QResizeEvent* event) {
    placeTicks();
    QCustomPlot::resizeEvent(event);
}

int64_t TimePlot::usAt(double x) const { return std::llround(xAxis->pixelToCoord(x) * 1e6); }

void TimePlot::mousePressEvent(QMouseEvent* event) {
    if (event->button() != Qt::LeftButton || context_.model.empty()) return QCustomPlot::mousePressEvent(event);
    pressed_at_ = event->pos();
    pressed_us_ = usAt(event->pos().x());
    pan_from_us_ = pressed_us_;
    drag_ = event->modifiers() & Qt::ShiftModifier ? Drag::pan : Drag::pressed;
    setFocus();
}

void TimePlot::mouseMoveEvent(QMouseEvent* event) {
    if (drag_ == Drag::pressed && (event->pos() - pressed_at_).manhattanLength() > px(4)) drag_ = Drag::select;
    if (drag_ == Drag::select) context_.time.setSelection({{pressed_us_, usAt(event->pos().x())}});
    if (drag_ == Drag::pan) {
        context_.time.pan(pan_from_us_ - usAt(event->pos().x()));
        follow();  // so that the next position is read on the moved axis
    }
    QCustomPlot::mouseMoveEvent(event);
}

void TimePlot::mouseReleaseEvent(QMouseEvent* event) {
    if (drag_ == Drag::pressed) {
        context_.time.setSelection(std::nullopt);
        context_.time.setCursor(usAt(event->pos().x()), context_.model);
    }
    drag_ = Drag::none;
    QCustomPlot::mouseReleaseEvent(event);
}

void TimePlot::mouseDoubleClickEvent(QMouseEvent*) {
    context_.time.setSelection(std::nullopt);
    context_.time.fit(context_.model);
}

void TimePlot::wheelEvent(QWheelEvent* event) {
    if (context_.model.empty()) return;
    const double notches = double(event->angleDelta().y()) / 120.0;
    context_.time.zoom(std::pow(0.8, notches), usAt(event->position().x()));
    event->accept();
}

}  // namespace spartan
