// Latency over time: headline figures, four plots that share time and cursor, and the adapters by p99.
#pragma once

#include "ui/panel.h"
#include "ui/views/metric_plot.h"

#include <array>

class QCheckBox;
class QComboBox;

namespace spartan {

class TileRow;
class AdapterStrip;

class LatencyView : public Panel {
    Q_OBJECT
public:
    explicit LatencyView(const ViewContext& context, QWidget* parent = nullptr);
    void refresh(const RunModel& model, const TimeController& time) override;

    const std::array<MetricPlot*, kNumMetrics>& plots() const { return plots_; }
    ThroughputPlot& throughput() const { return *throughput_; }
    TileRow& tiles() const { return *tiles_; }
    AdapterStrip& strip() const { return *strip_; }

protected:
    void styleChanged() override;
    void resizeEvent(QResizeEvent* event) override;

private:
    QWidget* card(const QString& title, const QString& unit, TimePlot* plot);

    ViewContext context_;
    TileRow* tiles_;
    std::array<MetricPlot*, kNumMetrics> plots_{};
    ThroughputPlot* throughput_;
    AdapterStrip* strip_;
    QCheckBox* log_;
    QComboBox* strip_metric_;
    std::vector<FigureLabel*> titles_;
    uint64_t seen_model_ = 0;
    bool fetch_ = true;
};

}  // namespace spartan
