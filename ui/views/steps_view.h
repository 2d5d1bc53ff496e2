// The step ribbon: one stacked bar per engine step (prefill, decode, padding tokens) under the line of step times, and
// the copies of adapters below.
// Clicking a bar, or Left and Right, chooses the step that every other view shows.
#pragma once

#include "ui/panel.h"
#include "ui/run_model.h"
#include "ui/views/copy_lane.h"

namespace spartan {

class StepRibbon : public QWidget {
    Q_OBJECT
public:
    explicit StepRibbon(const ViewContext& context, QWidget* parent = nullptr);
    // The steps that are drawn: the newest that fit, or those around the cursor when paused.
    void update();
    int64_t firstStep() const { return first_; }
    int64_t stepAt(const QPointF& position) const;    // -1: none
    QString copiesAt(const QPointF& position) const;  // what the lane of copies says there; empty: not in it
    StepAxis axis() const { return {first_, last_, barWidth()}; }
    QRectF lane() const;
    QString csv() const;

protected:
    void paintEvent(QPaintEvent*) override;
    void resizeEvent(QResizeEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    bool event(QEvent* event) override;

private:
    double barWidth() const;
    double laneHeight() const;
    int visibleBars() const;

    ViewContext context_;
    int64_t first_ = 0, last_ = -1;
    double bar_ = 8;  // pixels at 100 %
    bool pressed_ = false;
};

class StepsView : public Panel {
    Q_OBJECT
public:
    explicit StepsView(const ViewContext& context, QWidget* parent = nullptr);
    void refresh(const RunModel& model, const TimeController& time) override;
    StepRibbon& ribbon() const { return *ribbon_; }
    const FigureLabel& readout() const { return *readout_; }
    const FigureLabel& tokens() const { return *tokens_; }

private:
    ViewContext context_;
    StepRibbon* ribbon_;
    FigureLabel *readout_, *tokens_;
};

// Whether a step's time is told by phase; on a GPU only where somebody asked for it.
bool phasesTold(const StepTimes& times);
// "step 1,204 · 28.4 ms · 32 rows · 24 adapters · 0 % padding"
QString stepSentence(const StepSummary& step);
// "0 prefill, 32 decode, 0 padding tokens · rotate 1.9 ms · …"
QString stepTokens(const StepSummary& step);

}  // namespace spartan
