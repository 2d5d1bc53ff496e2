#include "ui/views/latency_view.h"

#include "ui/text.h"
#include "ui/time_controller.h"
#include "ui/views/adapter_strip.h"
#include "ui/views/tiles.h"

#include <QCheckBox>
#include <QComboBox>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QVBoxLayout>

namespace spartan {

LatencyView::LatencyView(const ViewContext& context, QWidget* parent)
    : Panel(QStringLiteral("latency"), tr("Latency"), parent), context_(context) {
    auto* body = new QWidget;
    auto* column = new QVBoxLayout(body);
    column->setContentsMargins(8, 8, 8, 8);
    column->setSpacing(8);
    tiles_ = new TileRow(context);
    column->addWidget(tiles_);

    auto* grid = new QGridLayout;
    grid->setSpacing(8);
    const QString titles[] = {tr("Time to first token"), tr("Inter-token latency"), tr("End-to-end latency")};
    const char* names[] = {"latency-ttft", "latency-itl", "latency-e2e"};
    for (int i = 0; i < kNumMetrics; ++i) {
        plots_[size_t(i)] = new MetricPlot(Metric(i), context);
        plots_[size_t(i)]->setAccessibleName(titles[i]);
        grid->addWidget(card(titles[i], tr("ms"), plots_[size_t(i)]), i / 2, i % 2);
        addExport(
            {QLatin1String(names[i]), plots_[size_t(i)], {}, [this] { return toQ(context_.model.header().name); }});
    }
    throughput_ = new ThroughputPlot(context);
    throughput_->setAccessibleName(tr("Throughput"));
    grid->addWidget(card(tr("Throughput"), tr("tok/s"), throughput_), 1, 1);
    addExport({QStringLiteral("throughput"), throughput_, {}, [this] { return toQ(context_.model.header().name); }});
    grid->setRowStretch(0, 1);
    grid->setRowStretch(1, 1);
    grid->setColumnStretch(0, 1);
    grid->setColumnStretch(1, 1);
    column->addLayout(grid, 1);

    strip_ = new AdapterStrip(context);
    column->addWidget(strip_);
    addExport({QStringLiteral("adapters-p99"), strip_, [this] { return strip_->csv(); },
               [this] { return toQ(context_.model.header().name); }});
    setBody(body);

    strip_metric_ = new QComboBox;
    strip_metric_->setAccessibleName(tr("Order of the adapters"));
    strip_metric_->addItems({tr("adapters by TTFT"), tr("adapters by inter-token"), tr("adapters by end-to-end")});
    strip_metric_->setCurrentIndex(1);
    strip_metric_->setToolTip(plainTooltip(tr("What the row of adapters below the plots is sorted by (its p99).")));
    connect(strip_metric_, &QComboBox::currentIndexChanged, this, [this](int i) { strip_->setMetric(Metric(i)); });
    log_ = new QCheckBox(tr("log"));
    log_->setToolTip(plainTooltip(tr("Logarithmic latency axes")));
    log_->setAccessibleName(tr("Logarithmic latency axes"));
    connect(log_, &QCheckBox::toggled, this, [this](bool on) {
        for (MetricPlot* plot : plots_) plot->setLogY(on);
        styleChanged();
        markDirty();
    });
    for (QWidget* w : std::initializer_list<QWidget*>{strip_metric_, log_}) {
        w->setProperty("small", true);
        headerControls()->addWidget(w);
    }

    EmptyState* empty = emptyState();
    empty->set(tr("No latency yet"), tr("Run a workload: each request's first token, every gap between tokens and the "
                                        "whole time appear here as they happen."));
    if (context.runDemo) empty->addAction(tr("Run demo workload"), context.runDemo);
    showEmpty(true);
    connect(&context_.selection, &Selection::changed, this, [this] {
        fetch_ = true;
        markDirty();
    });
}

QWidget* LatencyView::card(const QString& title, const QString& unit, TimePlot* plot) {
    auto* box = new QWidget;
    auto* column = new QVBoxLayout(box);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    auto* line = new QHBoxLayout;
    auto* name = new FigureLabel;
    name->setText(title);
    name->setMuted(false);
    name->setSize(12, 600);
    auto* right = new FigureLabel;
    right->setText(unit);
    right->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
    line->addWidget(name, 1);
    line->addWidget(right);
    column->addLayout(line);
    column->addWidget(plot, 1);
    plot->setMinimumSize(120, 90);
    return box;
}

// In a low window the plots go first.
void LatencyView::resizeEvent(QResizeEvent* event) {
    Panel::resizeEvent(event);
    strip_->setVisible(height() >= px(420));
    strip_metric_->setVisible(height() >= px(420));
}

void LatencyView::styleChanged() {
    const Colors& c = colorsOf(this);
    for (MetricPlot* plot : plots_) plot->restyle(c);
    throughput_->restyle(c);
    fetch_ = true;
}

void LatencyView::refresh(const RunModel& model, const TimeController& time) {
    showEmpty(model.empty());
    if (model.empty()) {
        setFacts({});
        return;
    }
    // A new range or new records need new data; a moved cursor only its own layer.
    bool fetch = fetch_ || model.version() != seen_model_;
    for (MetricPlot* plot : plots_) fetch |= plot->follow();
    fetch |= throughput_->follow();
    fetch_ = false;
    seen_model_ = model.version();
    if (fetch) {
        for (MetricPlot* plot : plots_) {
            plot->update();
            plot->replotAll();
        }
        throughput_->update();
        throughput_->replotAll();
        strip_->update();
    } else {
        for (MetricPlot* plot : plots_) plot->replotCursor();
        throughput_->replotCursor();
    }
    tiles_->update();
    const RunCounts& counts = model.counts();
    QString facts =
        tr("%1 of %2 requests finished")
            .arg(count(counts.finished()),
                 count(model.header().planned_requests > 0 ? model.header().planned_requests : counts.arrived));
    if (counts.failed > 0) facts += tr(" · %1 failed").arg(count(counts.failed));
    if (!model.failure().empty()) facts = QStringLiteral("✗ ") + oneLine(model.failure(), 120);
    if (model.heldUs() > 0) facts += tr(" · held %1, left out").arg(secondsText(double(model.heldUs()) / 1e6));
    setFacts(facts);
    (void)time;
}

}  // namespace spartan
