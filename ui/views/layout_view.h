// The layout of the batch under the cursor: which adapters run together and what their blocks look like.
#pragma once

#include "ui/views/layout_canvas.h"

class QComboBox;
class QScrollArea;
class QSlider;
class QSpinBox;
class QToolButton;

namespace spartan {

class LayoutView : public Panel {
    Q_OBJECT
public:
    explicit LayoutView(const ViewContext& context, QWidget* parent = nullptr);
    void refresh(const RunModel& model, const TimeController& time) override;
    LayoutCanvas& canvas() const { return *canvas_; }
    bool showsExample() const { return example_; }

    // The newest step up to `step` that worked on anything (of the last 64).
    static int64_t stepWithRows(const RunModel& model, int64_t step);

protected:
    void styleChanged() override;
    void resizeEvent(QResizeEvent* event) override;

private:
    void chooseProjection(const RunModel& model, const std::vector<AdapterId>& ids);
    std::vector<AdapterId> adaptersOf(const RunModel& model, int64_t step) const;
    LayoutRow rowOf(const RunModel& model, AdapterId id) const;
    void showExample();
    void showStep(const RunModel& model, int64_t step);
    LayoutSettings settings() const;
    QString takeStrategy(const RunModel& model, int64_t step);

    ViewContext context_;
    QScrollArea* scroll_;
    LayoutCanvas* canvas_;
    QWidget* options_;
    QToolButton* show_options_;
    QComboBox *scope_, *projection_, *convention_;
    QSpinBox* layer_;
    QSlider* cell_;
    FigureLabel* cell_label_;
    bool example_ = true, cell_chosen_ = false, projection_chosen_ = false, convention_chosen_ = false,
         options_chosen_ = false, scope_chosen_ = false, whole_run_ = false;
    AdapterStrategy strategy_ = AdapterStrategy::folded;  // of what is shown
    int64_t ran_cell_ = 0;                                // the common block size that it ran with; 0: none
};

}  // namespace spartan
