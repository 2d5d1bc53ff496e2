#include "ui/views/memory_view.h"

#include "ui/text.h"
#include "ui/time_controller.h"
#include "ui/views/page_grid.h"

#include <QFontMetricsF>
#include <QPainter>
#include <QSplitter>
#include <QVBoxLayout>

#include <algorithm>

namespace spartan {

namespace {
double megabytes(int64_t bytes) { return double(bytes) / 1e6; }
}  // namespace

MemoryTimeline::MemoryTimeline(const ViewContext& context, QWidget* parent) : TimePlot(context, parent) {
    const char* names[] = {"base_mb", "workspace_mb", "adapters_mb", "transient_mb", "kv_mb"};
    // Each graph fills down to zero, so the top of the stack must be drawn first.
    for (int i = layers - 1; i >= 0; --i) {
        QCPGraph* g = addGraph();
        g->setName(QLatin1String(names[i]));
        g->setAdaptiveSampling(false);
        g->setLineStyle(QCPGraph::lsStepLeft);
        stack_[size_t(i)] = g;
    }
    capacity_ = new QCPItemStraightLine(this);
    capacity_->setSelectable(false);
    capacity_text_ = new QCPItemText(this);
    capacity_text_->setSelectable(false);
    capacity_text_->setPositionAlignment(Qt::AlignRight | Qt::AlignTop);
    capacity_text_->position->setTypeX(QCPItemPosition::ptAxisRectRatio);
    setAccessibleName(tr("Memory over time"));
    setToolTip(
        plainTooltip(tr("Memory in MB over the run, stacked: base weights, workspace, adapters in the pool, transient, "
                        "KV (the largest in each time bin). Dashed: weights, workspace and the whole pool. Click to "
                        "rewind the page map.")));
}

void MemoryTimeline::restyle(const Colors& c) {
    TimePlot::restyle(c);
    const QColor colors[] = {blend(c.panel, c.ink, 0.5), blend(c.panel, c.transfer, 0.5), c.prefill, c.transfer,
                             c.decode};
    for (int i = 0; i < layers; ++i) {
        stack_[size_t(i)]->setPen(QPen(colors[i], 1));
        stack_[size_t(i)]->setBrush(colors[i]);
    }
    capacity_->setPen(QPen(c.text, 1, Qt::DashLine));
    capacity_text_->setColor(c.muted);
    capacity_text_->setFont(uiFont(11));
}

void MemoryTimeline::update() {
    const TimeController& time = context_.time;
    const RunHeader& header = context_.model.header();
    const auto bins =
        context_.model.stepBins(time.rangeStartUs(), time.rangeEndUs(), size_t(std::max(40, width() / 3)));
    std::array<QVector<QCPGraphData>, layers> series;
    const auto add = [&](double x, const StepBin& bin) {
        // While a long step runs no step ends in a bin: the pool is then as the last one left it.
        const bool idle = bin.steps == 0;
        const int64_t sizes[] = {header.weight_bytes, header.workspace_bytes,
                                 (idle ? bin.pool.adapter_pages : bin.adapter_pages_max) * header.page_bytes,
                                 (idle ? bin.pool.transient_pages : bin.transient_pages_max) * header.page_bytes,
                                 (idle ? bin.pool.kv_pages : bin.kv_pages_max) * header.page_bytes};
        int64_t sum = 0;
        for (int i = 0; i < layers; ++i) {
            sum += sizes[i];
            series[size_t(i)].append({x, megabytes(sum)});
        }
    };
    for (const StepBin& bin : bins) add(double(bin.t0_us) / 1e6, bin);
    if (!bins.empty()) add(double(bins.back().t1_us) / 1e6, bins.back());
    for (int i = 0; i < layers; ++i) stack_[size_t(i)]->data()->set(series[size_t(i)], true);

    // A pool that is mostly free would press what is used flat: the capacity line is drawn once it is near.
    double used = 0;
    for (const QCPGraphData& d : series[kv]) used = std::max(used, d.value);
    const double capacity = megabytes(header.weight_bytes + header.workspace_bytes + header.pool_bytes);
    const bool near_capacity = used * 3 > capacity;
    capacity_->setVisible(near_capacity);
    capacity_text_->setVisible(near_capacity);
    capacity_->point1->setCoords(0, capacity);
    capacity_->point2->setCoords(1, capacity);
    capacity_text_->position->setCoords(0.995, capacity);
    capacity_text_->setText(tr("weights, workspace and pool %1").arg(bytesText(int64_t(capacity * 1e6))));
    fitY(near_capacity ? std::max(capacity, used) * 1.06 : used * 1.15);
    setNote(near_capacity ? tr("MB by owner")
                          : tr("MB by owner · capacity %1 lies above").arg(bytesText(int64_t(capacity * 1e6))));
}

void MemoryLegend::set(std::vector<Entry> entries) {
    entries_ = std::move(entries);
    update();
}

int MemoryLegend::columns() const { return width() >= px(520) ? 6 : 3; }

QSize MemoryLegend::sizeHint() const { return {px(240), px(34) * (columns() == 6 ? 1 : 2)}; }

void MemoryLegend::resizeEvent(QResizeEvent*) { setFixedHeight(sizeHint().height()); }

void MemoryLegend::paintEvent(QPaintEvent*) {
    QPainter painter(this);
    const Colors& c = colorsOf(this);
    if (entries_.empty()) return;
    const double step = double(width()) / columns();
    for (size_t i = 0; i < entries_.size(); ++i) {
        const Entry& e = entries_[i];
        const int row = int(i) / columns(), column = int(i) % columns();
        const double x = column * step, y = row * px(34);
        const QRectF box(x, y + px(3), px(10), px(10));
        painter.fillRect(box, e.hatched ? c.field : e.color);
        if (e.hatched) {
            painter.setPen(QPen(c.faint, 1));
            painter.drawRect(box.adjusted(0.5, 0.5, -0.5, -0.5));
        }
        painter.setFont(uiFont(11));
        painter.setPen(c.text);
        const double room = step - px(16);
        painter.drawText(QRectF(x + px(14), y, room, px(16)), Qt::AlignLeft | Qt::AlignVCenter,
                         QFontMetricsF(painter.font()).elidedText(e.name, Qt::ElideRight, room));
        painter.setPen(c.muted);
        drawFigures(painter, QRectF(x + px(14), y + px(16), room, px(16)), Qt::AlignLeft | Qt::AlignVCenter, e.figure);
    }
}

MemoryView::MemoryView(const ViewContext& context, QWidget* parent)
    : Panel(QStringLiteral("memory"), tr("Memory"), parent), context_(context) {
    auto* top = new QWidget;
    auto* column = new QVBoxLayout(top);
    column->setContentsMargins(8, 8, 8, 4);
    column->setSpacing(6);
    grid_ = new PageGrid(context);
    column->addWidget(grid_, 1);
    legend_ = new MemoryLegend;
    column->addWidget(legend_);
    readout_ = new FigureLabel;
    column->addWidget(readout_);
    free_ = new FigureLabel;
    for (FigureLabel* label : {readout_, free_}) label->setSize(11.5);
    column->addWidget(free_);
    timeline_ = new MemoryTimeline(context);
    timeline_->setMinimumSize(120, 90);
    auto* split = new QSplitter(Qt::Vertical);
    split->addWidget(top);
    split->addWidget(timeline_);
    split->setStretchFactor(0, 3);
    split->setStretchFactor(1, 2);
    split->setChildrenCollapsible(false);
    split->setSizes({360, 220});
    setBody(split);
    const auto run = [this] { return toQ(context_.model.header().name); };
    addExport({QStringLiteral("page-map"), grid_, [this] { return csv(); }, run});
    addExport({QStringLiteral("memory"), timeline_, {}, run});
    emptyState()->set(tr("No pool yet"),
                      tr("Load a base model and run a workload: every page of the pool appears here with "
                         "its owner."));
    if (context.runDemo) emptyState()->addAction(tr("Run demo workload"), context.runDemo);
    showEmpty(true);
}

void MemoryView::styleChanged() {
    timeline_->restyle(colorsOf(this));
    fetch_ = true;
}

void MemoryView::refresh(const RunModel& model, const TimeController& time) {
    showEmpty(model.empty());
    if (model.empty()) return setFacts({});
    const bool changed = model.version() != seen_model_ || fetch_;
    const bool moved = timeline_->follow();
    if (changed || moved) {
        timeline_->update();
        timeline_->replotAll();
    } else {
        timeline_->replotCursor();
    }
    if (changed || time.cursorStep() != seen_step_) {
        if (const PageMap* pages = time.live() ? &model.pages() : model.pagesAt(time.cursorStep())) grid_->set(*pages);
        showReadouts(model, model.summary(time.cursorStep()));
    }
    seen_model_ = model.version();
    seen_step_ = time.cursorStep();
    fetch_ = false;
}

void MemoryView::showReadouts(const RunModel& model, const StepSummary* step) {
    const Colors& c = colorsOf(this);
    const RunHeader& h = model.header();
    const PoolState pool = step ? step->pool : PoolState{};
    const auto bytes = [&](int32_t pages) { return bytesText(pages * h.page_bytes); };
    legend_->set({{tr("base"), bytesText(h.weight_bytes), blend(c.panel, c.ink, 0.5)},
                  {tr("workspace"), bytesText(h.workspace_bytes), blend(c.panel, c.transfer, 0.5)},
                  {tr("adapters"), bytes(pool.adapter_pages), c.prefill},
                  {tr("transient"), bytes(pool.transient_pages), c.transfer},
                  {tr("KV"), bytes(pool.kv_pages), c.decode},
                  {tr("free"), bytes(pool.free_pages()), c.free, true}});
    const int32_t used = pool.total_pages - pool.free_pages();
    setFacts(tr("pool %1 of %2").arg(bytes(used), bytes(pool.total_pages)),
             tr("One allocation holds KV and folded adapters; base weights and workspace lie outside it."));
    const double fragmentation =
        pool.free_pages() > 0 ? 1 - double(pool.largest_free_run) / double(pool.free_pages()) : 0;
    readout_->setText(tr("%1 of %2 · largest free run %3")
                          .arg(counted(pool.total_pages, tr("page"), tr("pages")), bytesText(h.page_bytes),
                               bytes(pool.largest_free_run)));
    QString text = tr("fragmentation %1").arg(percentText(fragmentation));
    if (step && step->bytes.transfer > 0 && step->times.transfer > 0)
        text += tr(" · transfer %1/s")
                    .arg(bytesText(int64_t(double(step->bytes.transfer) / (double(step->times.transfer) / 1e6))));
    free_->setText(text);
    free_->setToolTip(
        plainTooltip(tr("Fragmentation: the share of the free pages outside the largest free run. "
                        "Transfer: adapter bytes copied into the pool in this step, a second.")));
    readout_->setToolTip(
        plainTooltip(tr("Pages of the pool, their size, and the longest run of free ones side by side.")));
}

QString MemoryView::csv() const {
    QString out = QStringLiteral("first_page,pages,owner,id,name\n");
    const PageMap* pages = context_.model.pagesAt(context_.time.cursorStep());
    if (!pages) return out;
    const char* names[] = {"free", "kv", "adapter", "transient"};
    for (const PageChange& run : pages->runs()) {
        const QString name =
            run.owner == PageOwner::adapter ? toQ(csv_cell(context_.model.adapterName(AdapterId(run.id)))) : QString();
        out += QStringLiteral("%1,%2,%3,%4,")
                   .arg(run.first)
                   .arg(run.count)
                   .arg(QLatin1String(names[size_t(run.owner)]))
                   .arg(run.id) +
               name + QLatin1Char('\n');
    }
    return out;
}

}  // namespace spartan
