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

// In use on a GPU, as its driver says, beyond what was there before and what the engine accounts for: kernels, graphs,
// tables, and other programs that came since. 0 where the driver was not asked.
int64_t driverBytes(const RunHeader& h, const DeviceMemoryUse& device) {
    if (device.total <= 0) return 0;
    return std::max<int64_t>(0, device.used - h.device_used_before - h.weight_bytes - h.workspace_bytes - h.pool_bytes);
}
}  // namespace

MemoryTimeline::MemoryTimeline(const ViewContext& context, QWidget* parent) : TimePlot(context, parent) {
    const char* names[] = {"before_mb",    "base_mb", "workspace_mb", "adapters_mb",
                           "transient_mb", "kv_mb",   "pool_mb",      "in_use_mb"};
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
    setToolTip(plainTooltip(
        tr("Memory in MB over the run, stacked: base weights, workspace, adapters in the pool, transient, "
           "KV (the largest in each time bin). Dashed: weights, workspace and the whole pool. On a GPU the "
           "stack is all that the driver reports as in use, and dashed what it has. Click to rewind the "
           "page map.")));
}

void MemoryTimeline::restyle(const Colors& c) {
    TimePlot::restyle(c);
    const QColor colors[] = {blend(c.panel, c.ink, 0.25),
                             blend(c.panel, c.ink, 0.5),
                             blend(c.panel, c.transfer, 0.5),
                             c.prefill,
                             c.transfer,
                             c.decode,
                             c.free,
                             blend(c.panel, c.ink, 0.25)};
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
        int64_t sizes[layers] = {};
        sizes[before] = header.device_used_before;
        sizes[base] = header.weight_bytes;
        sizes[workspace] = header.workspace_bytes;
        sizes[adapters] = (idle ? bin.pool.adapter_pages : bin.adapter_pages_max) * header.page_bytes;
        sizes[transient] = (idle ? bin.pool.transient_pages : bin.transient_pages_max) * header.page_bytes;
        sizes[kv] = (idle ? bin.pool.kv_pages : bin.kv_pages_max) * header.page_bytes;
        sizes[pool_free] = std::max<int64_t>(0, header.pool_bytes - sizes[adapters] - sizes[transient] - sizes[kv]);
        sizes[driver] = driverBytes(header, bin.device);
        int64_t sum = 0;
        for (int i = 0; i < layers; ++i) {
            sum += sizes[i];
            const bool of_gpu = i == before || i == pool_free || i == driver;
            if (header.device_bytes > 0 || !of_gpu) series[size_t(i)].append({x, megabytes(sum)});
        }
    };
    for (const StepBin& bin : bins) add(double(bin.t0_us) / 1e6, bin);
    if (!bins.empty()) add(double(bins.back().t1_us) / 1e6, bins.back());
    for (int i = 0; i < layers; ++i) stack_[size_t(i)]->data()->set(series[size_t(i)], true);

    double used = 0;
    for (const QCPGraphData& d : series[header.device_bytes > 0 ? driver : kv]) used = std::max(used, d.value);
    drawCapacity(used);
}

void MemoryTimeline::drawCapacity(double used) {
    const RunHeader& header = context_.model.header();
    if (header.device_bytes > 0) {
        const double all = megabytes(header.device_bytes);
        capacity_->setVisible(true);
        capacity_text_->setVisible(true);
        capacity_->point1->setCoords(0, all);
        capacity_->point2->setCoords(1, all);
        capacity_text_->position->setCoords(0.995, all);
        capacity_text_->setText(tr("the GPU has %1").arg(bytesText(header.device_bytes)));
        fitY(std::max(all, used) * 1.06);
        return setNote(tr("MB by owner, as the driver and the engine account for it"));
    }
    // A pool that is mostly free would press what is used flat: the capacity line is drawn once it is near.
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
    const int rows_before = rows();
    entries_ = std::move(entries);
    if (rows() != rows_before) setFixedHeight(sizeHint().height());
    update();
}

int MemoryLegend::columns() const {
    const int most = entries_.size() > 6 ? 4 : 6;
    return width() >= px(520) ? most : 3;
}

int MemoryLegend::rows() const { return std::max(1, (int(entries_.size()) + columns() - 1) / columns()); }

QSize MemoryLegend::sizeHint() const { return {px(240), px(34) * rows()}; }

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
    device_ = new FigureLabel;
    for (FigureLabel* label : {readout_, free_, device_}) label->setSize(11.5);
    column->addWidget(free_);
    column->addWidget(device_);
    device_->hide();
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
    std::vector<MemoryLegend::Entry> entries{
        {tr("base"), bytesText(h.weight_bytes), blend(c.panel, c.ink, 0.5)},
        {tr("workspace"), bytesText(h.workspace_bytes), blend(c.panel, c.transfer, 0.5)},
        {tr("adapters"), bytes(pool.adapter_pages), c.prefill},
        {tr("transient"), bytes(pool.transient_pages), c.transfer},
        {tr("KV"), bytes(pool.kv_pages), c.decode},
        {tr("free"), bytes(pool.free_pages()), c.free, true}};
    const DeviceMemoryUse device = step ? step->device : DeviceMemoryUse{};
    if (h.device_bytes > 0) {
        entries.push_back({tr("before"), bytesText(h.device_used_before), blend(c.panel, c.ink, 0.25)});
        entries.push_back({tr("driver"), device.total > 0 ? bytesText(driverBytes(h, device)) : tr("not asked yet"),
                           blend(c.panel, c.ink, 0.25)});
    }
    legend_->set(std::move(entries));
    showDevice(h, device);
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

// The driver's word beside the engine's own account.
void MemoryView::showDevice(const RunHeader& h, const DeviceMemoryUse& device) {
    device_->setVisible(h.device_bytes > 0);
    if (h.device_bytes <= 0) return;
    const int64_t accounted = h.weight_bytes + h.workspace_bytes + h.pool_bytes;
    QString text = device.total > 0 ? tr("driver: %1 of %2 in use").arg(bytesText(device.used), bytesText(device.total))
                                    : tr("driver: %1 in all").arg(bytesText(h.device_bytes));
    text += tr(" · accounted %1 · before %2").arg(bytesText(accounted), bytesText(h.device_used_before));
    device_->setText(text);
    device_->setToolTip(plainTooltip(tr(
        "What the driver reports, asked about once a second, beside what the engine accounts for: weights, workspace "
        "and the whole pool. Before: in use when the engine started, by other programs and the driver itself. "
        "Driver: what came on top since, for kernels, graphs and tables, and for other programs.")));
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
