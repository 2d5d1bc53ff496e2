// The layout of the batch under the cursor: which adapters run together and what their blocks look like.
#pragma once

#include "ui/views/layout_canvas.h"

class QComboBox;
class QScrollArea;
class QSlider;
class QSpinBox;

namespace spartan {

class LayoutView : public Panel {
    Q_OBJECT
public:
    explicit LayoutView(const ViewContext& context, QWidget* parent = nullptr);
    void refresh(const RunModel& model, const TimeController& time) override;
    LayoutCanvas& canvas() const { return *canvas_; }
    bool showsExample() const { return example_; }

private:
    std::vector<AdapterId> adaptersOf(const RunModel& model, int64_t step) const;
    LayoutRow rowOf(const RunModel& model, AdapterId id) const;
    void showExample();
    void showStep(const RunModel& model, int64_t step);
    LayoutSettings settings() const;

    ViewContext context_;
    QScrollArea* scroll_;
    LayoutCanvas* canvas_;
    QComboBox *projection_, *convention_;
    QSpinBox* layer_;
    QSlider* cell_;
    FigureLabel* cell_label_;
    bool example_ = true, cell_chosen_ = false;
};

}  // namespace spartan
