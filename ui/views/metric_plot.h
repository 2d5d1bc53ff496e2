// The plots of the latency view: quantiles of one metric, or throughput, over time.
#pragma once

#include "ui/run_model.h"
#include "ui/views/time_plot.h"

#include <optional>

namespace spartan {

// p50 solid, p95 dashed, p99 dotted, mean thin, and the band from the smallest to the largest value of each time bin,
// so that thinning out never hides a spike. Milliseconds.
class MetricPlot : public TimePlot {
    Q_OBJECT
public:
    MetricPlot(Metric metric, const ViewContext& context, QWidget* parent = nullptr);
    void update();  // fetches the data of the visible range; replots later
    void restyle(const Colors& colors) override;
    Metric metric() const { return metric_; }

private:
    void showReferences(double* largest);

    Metric metric_;
    QCPGraph *max_, *min_, *p50_, *p95_, *p99_, *mean_;
    QCPItemStraightLine *slo_, *adapter_p50_, *adapter_p99_;
    QCPItemText *slo_text_, *adapter_text_;
};

// Prompt and generated tokens a second, apart.
class ThroughputPlot : public TimePlot {
    Q_OBJECT
public:
    explicit ThroughputPlot(const ViewContext& context, QWidget* parent = nullptr);
    void update();
    void restyle(const Colors& colors) override;

private:
    bool showSteps(int64_t t0_us, int64_t t1_us);  // false: too many steps, or some no longer kept one by one
    QCPGraph *prompt_, *generated_;
};

// Field names of RunHeader's SLOs by metric, and the metric's key in metric_definition().
std::optional<double> sloOf(const RunHeader& header, Metric metric);
const char* keyOf(Metric metric);
QString definitionOf(Metric metric);  // for tooltips: the metric's and the percentiles'

}  // namespace spartan
