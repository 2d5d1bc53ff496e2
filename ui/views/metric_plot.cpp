#include "ui/views/metric_plot.h"

#include "core/run/metrics.h"
#include "ui/text.h"
#include "ui/time_controller.h"

#include <algorithm>

namespace spartan {

namespace {

// As many points as are worth drawing: the model pairs bins until no more remain.
size_t pointsFor(const QCustomPlot& plot) { return size_t(std::clamp(plot.width() / 3, 40, 400)); }

QCPItemStraightLine* referenceLine(QCustomPlot* plot) {
    auto* line = new QCPItemStraightLine(plot);
    line->setSelectable(false);
    line->setVisible(false);
    return line;
}

QCPItemText* referenceText(QCustomPlot* plot) {
    auto* text = new QCPItemText(plot);
    text->setSelectable(false);
    text->setVisible(false);
    text->setPositionAlignment(Qt::AlignRight | Qt::AlignBottom);
    text->position->setTypeX(QCPItemPosition::ptAxisRectRatio);
    return text;
}

void placeLine(QCPItemStraightLine* line, double y) {
    line->point1->setCoords(0, y);
    line->point2->setCoords(1, y);
    line->setVisible(true);
}

}  // namespace

std::optional<double> sloOf(const RunHeader& header, Metric metric) {
    switch (metric) {
        case Metric::ttft:
            return header.slo_ttft_ms;
        case Metric::itl:
            return header.slo_itl_ms;
        case Metric::e2e:
            return header.slo_e2e_ms;
    }
    return {};
}

const char* keyOf(Metric metric) {
    switch (metric) {
        case Metric::ttft:
            return "ttft";
        case Metric::itl:
            return "itl";
        case Metric::e2e:
            return "e2e";
    }
    return "";
}

QString definitionOf(Metric metric) {
    return toQ(metric_definition(keyOf(metric))) +
           QObject::tr(
               "\nMilliseconds; warm-up requests and held time left out.\np50, p95, p99: so many percent of the "
               "values are at most this. Exact over all values, interpolated linearly as numpy does.");
}

MetricPlot::MetricPlot(Metric metric, const ViewContext& context, QWidget* parent)
    : TimePlot(context, parent), metric_(metric) {
    const auto graph = [this](const QString& name) {
        QCPGraph* g = addGraph();
        g->setName(name);
        g->setAdaptiveSampling(false);  // binned already
        return g;
    };
    max_ = graph(QStringLiteral("max_ms"));
    min_ = graph(QStringLiteral("min_ms"));
    mean_ = graph(QStringLiteral("mean_ms"));
    p99_ = graph(QStringLiteral("p99_ms"));
    p95_ = graph(QStringLiteral("p95_ms"));
    p50_ = graph(QStringLiteral("p50_ms"));
    slo_ = referenceLine(this);
    adapter_p50_ = referenceLine(this);
    adapter_p99_ = referenceLine(this);
    slo_text_ = referenceText(this);
    adapter_text_ = referenceText(this);
    setToolTip(plainTooltip(definitionOf(metric)));
    setAccessibleDescription(definitionOf(metric));
}

void MetricPlot::restyle(const Colors& c) {
    TimePlot::restyle(c);
    const QColor line = metric_ == Metric::ttft ? c.prefill : metric_ == Metric::itl ? c.decode : c.ink;
    const QColor band = blend(c.panel, line, 0.18);
    max_->setPen(QPen(band, 1));
    max_->setBrush(band);
    max_->setChannelFillGraph(min_);
    min_->setPen(QPen(band, 1));
    mean_->setPen(QPen(blend(c.panel, line, 0.45), 1));
    p99_->setPen(QPen(line, 1, Qt::DotLine));
    p95_->setPen(QPen(line, 1, Qt::DashLine));
    p50_->setPen(QPen(line, 1));
    slo_->setPen(QPen(c.error, 1, Qt::DashLine));
    slo_text_->setColor(c.error);
    adapter_p50_->setPen(QPen(c.accent, 1));
    adapter_p99_->setPen(QPen(c.accent, 1, Qt::DotLine));
    adapter_text_->setColor(c.accent);
    for (QCPItemText* text : {slo_text_, adapter_text_}) text->setFont(uiFont(11));
}

void MetricPlot::update() {
    const TimeController& time = context_.time;
    const auto points = context_.model.quantiles(metric_, time.rangeStartUs(), time.rangeEndUs(), pointsFor(*this));
    QVector<QCPGraphData> max, min, mean, p99, p95, p50;
    double largest = 0, smallest = 0;
    for (const QuantilePoint& p : points) {
        const double x = double(p.t0_us + p.t1_us) / 2e6;
        max.append({x, p.max});
        min.append({x, p.min});
        mean.append({x, p.mean});
        p99.append({x, p.p99});
        p95.append({x, p.p95});
        p50.append({x, p.p50});
        largest = std::max(largest, p.max);
        if (p.min > 0 && (smallest == 0 || p.min < smallest)) smallest = p.min;
    }
    max_->data()->set(max, true);
    min_->data()->set(min, true);
    mean_->data()->set(mean, true);
    p99_->data()->set(p99, true);
    p95_->data()->set(p95, true);
    p50_->data()->set(p50, true);

    showReferences(&largest);
    fitY(largest, smallest);
    const QuantilePoint all = context_.model.overall(metric_, time.rangeStartUs(), time.rangeEndUs());
    const QString n =
        all.n > 0 && all.n < 100 ? tr("n = %1: p99 not meaningful").arg(all.n) : tr("n = %1").arg(count(all.n));
    setNote(tr("ms · %1 · p50 solid, p95 dashed, p99 dotted · mean thin, band min–max · over %2")
                .arg(n, secondsText(double(time.rangeEndUs() - time.rangeStartUs()) / 1e6)));
}

void MetricPlot::showReferences(double* largest) {
    const auto slo = sloOf(context_.model.header(), metric_);
    slo_->setVisible(false);
    slo_text_->setVisible(false);
    if (slo) {
        placeLine(slo_, *slo);
        slo_text_->position->setCoords(0.995, *slo);
        slo_text_->setText(tr("SLO %1").arg(msText(*slo)));
        slo_text_->setVisible(true);
        *largest = std::max(*largest, *slo);
    }
    for (QCPItemStraightLine* line : {adapter_p50_, adapter_p99_}) line->setVisible(false);
    adapter_text_->setVisible(false);
    const auto selected = context_.selection.adapter();
    if (!selected) return;
    const auto& totals = context_.model.adapterTotals();
    const auto it = totals.find(*selected);
    if (it == totals.end() || it->second[metric_].n() == 0) return;
    const Distribution& d = it->second[metric_];
    placeLine(adapter_p50_, d.quantile(0.5));
    placeLine(adapter_p99_, d.quantile(0.99));
    adapter_text_->position->setCoords(0.995, d.quantile(0.99));
    adapter_text_->setText(tr("%1: p50 %2, p99 %3, n = %4")
                               .arg(oneLine(context_.model.adapterName(*selected), 40), msText(d.quantile(0.5)),
                                    msText(d.quantile(0.99)), count(d.n())));
    adapter_text_->setVisible(true);
    *largest = std::max(*largest, d.quantile(0.99));
}

ThroughputPlot::ThroughputPlot(const ViewContext& context, QWidget* parent) : TimePlot(context, parent) {
    prompt_ = addGraph();
    generated_ = addGraph();
    prompt_->setName(QStringLiteral("prompt_tok_s"));
    generated_->setName(QStringLiteral("generated_tok_s"));
    for (QCPGraph* g : {prompt_, generated_}) {
        g->setAdaptiveSampling(false);
        g->setLineStyle(QCPGraph::lsStepLeft);
    }
    setToolTip(
        plainTooltip(tr("Tokens a second, of each step over its own time, or in each time bin where steps are too many "
                        "to tell apart: prompt tokens computed (dashed) and tokens generated (solid), of all "
                        "requests.")));
}

void ThroughputPlot::restyle(const Colors& c) {
    TimePlot::restyle(c);
    prompt_->setPen(QPen(c.prefill, 1, Qt::DashLine));
    generated_->setPen(QPen(c.decode, 1));
    generated_->setBrush(blend(c.panel, c.decode, 0.18));
}

// Where few steps are in view each has its own rate over its own time: bins shorter than a step would tear it into
// spikes and gaps that never were.
bool ThroughputPlot::showSteps(int64_t t0_us, int64_t t1_us) {
    const auto& steps = context_.model.steps();
    const auto first = std::lower_bound(steps.begin(), steps.end(), t0_us,
                                        [](const StepSummary& s, int64_t at) { return s.end_us < at; });
    const auto last =
        std::upper_bound(first, steps.end(), t1_us, [](int64_t at, const StepSummary& s) { return at < s.start_us; });
    const bool older = first == steps.begin() && context_.model.totalSteps() > int64_t(steps.size());
    if (older || last - first > std::max(200, width() / 2)) return false;
    QVector<QCPGraphData> prompt, generated;
    double largest = 0, ended = -1;
    const double idle = double(t1_us - t0_us) / 1e6 / std::max(1, width());  // shorter gaps cannot be drawn
    for (auto s = first; s != last; ++s) {
        const double from = double(s->start_us) / 1e6, to = double(s->end_us) / 1e6;
        if (to <= from) continue;
        if (ended >= 0 && from - ended > idle) prompt.append({ended, 0}), generated.append({ended, 0});
        prompt.append({from, s->prefill_tokens / (to - from)});
        generated.append({from, s->emitted_tokens / (to - from)});
        largest = std::max({largest, prompt.last().value, generated.last().value});
        ended = to;
    }
    if (ended >= 0) prompt.append({ended, 0}), generated.append({ended, 0});
    prompt_->data()->set(prompt, true);
    generated_->data()->set(generated, true);
    fitY(largest, 1);
    setNote(tr("tok/s · generated solid, prompt dashed · each step by itself"));
    return true;
}

void ThroughputPlot::update() {
    const TimeController& time = context_.time;
    if (showSteps(time.rangeStartUs(), time.rangeEndUs())) return;
    const auto bins = context_.model.stepBins(time.rangeStartUs(), time.rangeEndUs(), pointsFor(*this));
    QVector<QCPGraphData> prompt, generated;
    double largest = 0;
    for (const StepBin& bin : bins) {
        const double x = double(bin.t0_us) / 1e6;
        prompt.append({x, bin.promptPerSecond()});
        generated.append({x, bin.generatedPerSecond()});
        largest = std::max({largest, bin.promptPerSecond(), bin.generatedPerSecond()});
    }
    if (!bins.empty()) {
        const double end = double(bins.back().t1_us) / 1e6;
        prompt.append({end, bins.back().promptPerSecond()});
        generated.append({end, bins.back().generatedPerSecond()});
    }
    prompt_->data()->set(prompt, true);
    generated_->data()->set(generated, true);
    fitY(largest, 1);
    setNote(tr("tok/s · generated solid, prompt dashed · bins of %1")
                .arg(secondsText(bins.empty() ? 0 : bins.front().seconds())));
}

}  // namespace spartan
