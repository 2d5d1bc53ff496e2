#include "ui/views/layout_view.h"

#include "ui/text.h"
#include "ui/time_controller.h"

#include <QComboBox>
#include <QHBoxLayout>
#include <QScrollArea>
#include <QSlider>
#include <QSpinBox>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <array>
#include <bit>
#include <set>

namespace spartan {

namespace {
constexpr int kSmallestCellLog2 = 2, kLargestCellLog2 = 6;  // 4 … 64
}

LayoutView::LayoutView(const ViewContext& context, QWidget* parent)
    : Panel(QStringLiteral("layout"), tr("Layout"), parent), context_(context) {
    canvas_ = new LayoutCanvas;
    scroll_ = new QScrollArea;
    scroll_->setWidget(canvas_);
    scroll_->setWidgetResizable(true);
    scroll_->setFrameShape(QFrame::NoFrame);
    scroll_->setAccessibleName(tr("Layout drawing"));
    scroll_->setHorizontalScrollBarPolicy(Qt::ScrollBarAsNeeded);
    scroll_->viewport()->setAutoFillBackground(false);
    auto* body = new QWidget;
    auto* column = new QVBoxLayout(body);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    options_ = new QWidget;
    auto* line = new QHBoxLayout(options_);
    column->addWidget(options_);
    column->addWidget(scroll_, 1);
    setBody(body);

    show_options_ = new QToolButton;
    show_options_->setText(tr("Options"));
    show_options_->setCheckable(true);
    show_options_->setProperty("small", true);
    show_options_->setToolTip(plainTooltip(tr("Which adapters, projection and layer are drawn, and how")));
    connect(show_options_, &QToolButton::clicked, this, [this](bool on) {
        options_chosen_ = true;
        options_->setVisible(on);
    });
    headerControls()->addWidget(show_options_);

    scope_ = new QComboBox;
    scope_->setAccessibleName(tr("Which adapters"));
    scope_->addItems({tr("batch of the step"), tr("all of the run")});
    scope_->setToolTip(plainTooltip(tr("Adapters of the step under the cursor, or of the whole run")));

    projection_ = new QComboBox;
    projection_->setAccessibleName(tr("Projection"));
    for (int p = 0; p < kNumProjections; ++p) projection_->addItem(QString::fromLatin1(name_of(Projection(p))));
    projection_->setToolTip(plainTooltip(tr("Linear layer whose adapter parts are drawn")));
    layer_ = new QSpinBox;
    layer_->setAccessibleName(tr("Layer"));
    layer_->setPrefix(tr("layer "));
    layer_->setToolTip(plainTooltip(tr("Decoder layer, from 0")));
    convention_ = new QComboBox;
    convention_->setAccessibleName(tr("Block convention"));
    convention_->addItems({tr("PEFT order"), tr("paper order"), tr("mapped order")});
    convention_->setToolTip(
        plainTooltip(tr("PEFT pairs half blocks in factor 1 and later; the paper's figure pairs whole "
                        "blocks. Adapters hold PEFT's. Mapped: each factor in its own order, as the strategy "
                        "common_block runs it.")));
    connect(convention_, &QComboBox::activated, this, [this] { convention_chosen_ = true; });
    cell_ = new QSlider(Qt::Horizontal);
    cell_->setRange(kSmallestCellLog2, kLargestCellLog2);
    cell_->setPageStep(1);
    cell_->setValue(3);
    cell_->setToolTip(
        plainTooltip(tr("Common block size, 4 to 64 features: what the paper's unified layout would use. Only "
                        "the drawing changes.")));
    cell_->setAccessibleName(tr("Common block size"));
    cell_label_ = new FigureLabel;
    for (QWidget* w : std::initializer_list<QWidget*>{scope_, projection_, layer_, convention_}) {
        w->setProperty("small", true);
        line->addWidget(w);
    }
    line->addStretch(1);
    line->addWidget(cell_label_);
    line->addWidget(cell_);
    connect(scope_, &QComboBox::activated, this, [this] {
        scope_chosen_ = true;
        markDirty();
    });
    connect(projection_, &QComboBox::activated, this, [this] { projection_chosen_ = true; });
    connect(cell_, &QSlider::sliderMoved, this, [this] { cell_chosen_ = true; });
    connect(cell_, &QSlider::actionTriggered, this, [this] { cell_chosen_ = true; });
    for (QComboBox* box : {projection_, convention_})
        connect(box, &QComboBox::currentIndexChanged, this, [this] { markDirty(); });
    connect(layer_, &QSpinBox::valueChanged, this, [this] { markDirty(); });
    connect(cell_, &QSlider::valueChanged, this, [this] { markDirty(); });
    connect(canvas_, &LayoutCanvas::chosen, this,
            [this](std::optional<AdapterId> adapter) { context_.selection.setAdapter(adapter); });
    connect(&context_.selection, &Selection::changed, this,
            [this] { canvas_->setSelected(context_.selection.adapter()); });
    addExport({QStringLiteral("layout"), canvas_, [this] { return canvas_->csv(); },
               [this] { return toQ(context_.model.header().name); }});
}

void LayoutView::styleChanged() {
    options_->layout()->setContentsMargins(px(12), px(6), px(12), px(2));
    options_->layout()->setSpacing(px(8));
    cell_->setFixedWidth(px(80));
    cell_label_->setSize(11.5);
    cell_label_->setMinimumWidth(px(116));
    cell_label_->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
}

// Where there is little room the drawing has it; the options are a click away.
void LayoutView::resizeEvent(QResizeEvent* event) {
    Panel::resizeEvent(event);
    if (options_chosen_) return;
    show_options_->setChecked(width() >= px(620));
    options_->setVisible(show_options_->isChecked());
}

LayoutSettings LayoutView::settings() const {
    constexpr BlockConvention kConventions[] = {BlockConvention::peft, BlockConvention::paper, BlockConvention::mapped};
    return {ran_cell_ > 0 && !cell_chosen_ ? ran_cell_ : int64_t(1) << cell_->value(),
            kConventions[std::clamp(convention_->currentIndex(), 0, 2)], strategy_};
}

// A record between steps has no rows: the batch before it is what last ran.
int64_t LayoutView::stepWithRows(const RunModel& model, int64_t step) {
    for (int64_t s = step; s >= 0 && s > step - 64; --s)
        if (const StepSummary* summary = model.summary(s); summary && summary->rows > 0) return s;
    return step;
}

// The batch of the step, in its order; when its record is no longer in memory, every adapter of the run.
std::vector<AdapterId> LayoutView::adaptersOf(const RunModel& model, int64_t step) const {
    std::vector<AdapterId> ids;
    std::set<AdapterId> seen;
    if (const StepRecordPtr record = whole_run_ ? nullptr : model.record(step)) {
        for (const StepRow& row : record->rows)
            if (row.adapter != AdapterId::base && seen.insert(row.adapter).second) ids.push_back(row.adapter);
    } else {
        for (const RunAdapter& adapter : model.header().adapters) ids.push_back(adapter.id);
    }
    return ids;
}

// Until a person chooses: the projection that most of these adapters rotate, the present one if none has more.
void LayoutView::chooseProjection(const RunModel& model, const std::vector<AdapterId>& ids) {
    if (projection_chosen_) return;
    std::array<int, kNumProjections> rotated{}, changed{};
    for (const AdapterId id : ids) {
        const RunAdapter* adapter = model.adapter(id);
        if (!adapter) continue;
        for (const AdapterPart& part : adapter->parts) {
            if (part.layer != layer_->value()) continue;
            ++changed[size_t(part.projection)];
            rotated[size_t(part.projection)] += part.rotates();
        }
    }
    const auto worth = [&](int p) { return rotated[size_t(p)] * 1'000'000 + changed[size_t(p)]; };
    int best = projection_->currentIndex();
    for (int p = 0; p < kNumProjections; ++p)
        if (worth(p) > worth(best)) best = p;
    const QSignalBlocker quiet(projection_);
    projection_->setCurrentIndex(best);
}

LayoutRow LayoutView::rowOf(const RunModel& model, AdapterId id) const {
    LayoutRow row;
    row.id = id;
    row.name = oneLine(model.adapterName(id), 64);
    const RunAdapter* adapter = model.adapter(id);
    if (!adapter) return row;
    row.geometry = oneLine(adapter->geometry, 64);
    row.orthogonality_error = adapter->orthogonality_error;
    if (adapter->parts.empty()) {
        row.problem = tr("structure not in this recording");
        return row;
    }
    for (const AdapterPart& part : adapter->parts) {
        if (part.layer != layer_->value() || int(part.projection) != projection_->currentIndex()) continue;
        row.in = part.in;
        row.out = part.out;
        row.block_size = part.rotates() ? part.block_size : 0;
        row.num_factors = part.num_factors;
        row.group = part.group;
        row.rank = part.a >= 0 ? part.rank : 0;
    }
    // factor_layout()'s own conditions, in words instead of an abort: a recording may hold anything.
    if (row.block_size > 0) {
        const int64_t widest = row.block_size << std::clamp<int64_t>(row.num_factors - 1, 0, 40);
        if (row.num_factors < 1 || row.in <= 0 || row.in > (1 << 20) || row.in % widest != 0 || row.group < 1 ||
            row.in % row.group != 0 || (row.num_factors > 1 && row.block_size % 2 != 0))
            row.problem = tr("b=%1 does not divide %2").arg(row.block_size).arg(row.in);
    }
    return row;
}

// What the step did, by its record; by the run's header where that is no longer in memory.
QString LayoutView::takeStrategy(const RunModel& model, int64_t step) {
    const StepRecordPtr record = whole_run_ ? nullptr : model.record(step);
    strategy_ = record ? record->strategy : model.header().strategy;
    ran_cell_ = record ? record->common_block : 0;
    if (!convention_chosen_) {
        const QSignalBlocker quiet(convention_);
        convention_->setCurrentIndex(strategy_ == AdapterStrategy::common_block ? 2 : 0);
    }
    if (strategy_ == AdapterStrategy::folded) return {};
    const QString name = QString::fromLatin1(name_of(strategy_));
    if (!record) return tr(" · strategy %1").arg(name);
    QString words = tr(" · %1 ran").arg(name);
    if (ran_cell_ > 0) words += tr(": blocks of %1").arg(ran_cell_);
    if (record->passes > 1) words += tr(": %1 passes").arg(record->passes);
    if (record->bytes.staging > 0)
        words += (strategy_ == AdapterStrategy::merged ? tr(", %1 merged") : tr(", %1 batched"))
                     .arg(bytesText(record->bytes.staging));
    return words;
}

void LayoutView::showExample() {
    example_ = true;
    strategy_ = AdapterStrategy::folded;
    ran_cell_ = 0;
    LayoutRow small, large;
    small.name = tr("adapter 1");
    small.geometry = tr("BOFT b2 m3");
    small.in = small.out = 8;
    small.block_size = 2;
    small.num_factors = 3;
    small.group = 8;
    large = small;
    large.id = AdapterId(1);
    large.name = tr("adapter 2");
    large.geometry = tr("BOFT b4 m2");
    large.block_size = 4;
    large.num_factors = 2;
    canvas_->setCaption(tr("An example, d = 8"));
    canvas_->set({small, large}, {2, settings().convention});
    cell_label_->setText(tr("common block 2"));
    setTitle(tr("Layout"));
    setFacts(tr("run a workload to see the batch"),
             tr("Two adapters of different block size under one common block size, as in Figure 1 of the SpartanServe "
                "paper: "
                "columns are butterfly factors, the union is on top, what runs is folded at the right."));
}

void LayoutView::showStep(const RunModel& model, int64_t at) {
    example_ = false;
    const int64_t step = stepWithRows(model, at);
    canvas_->setCaption({});
    if (model.header().config) layer_->setMaximum(int(std::max<int64_t>(0, model.header().config->num_layers - 1)));
    std::vector<LayoutRow> rows;
    std::vector<int64_t> sizes;
    const std::vector<AdapterId> ids = adaptersOf(model, step);
    const QString ran = takeStrategy(model, step);
    chooseProjection(model, ids);
    for (const AdapterId id : ids) {
        rows.push_back(rowOf(model, id));
        if (rows.back().problem.isEmpty() && rows.back().block_size > 0) sizes.push_back(rows.back().block_size);
    }
    const int64_t common = common_block_size(sizes);
    if (!cell_chosen_ && common > 0) {
        const QSignalBlocker quiet(cell_);
        cell_->setValue(std::clamp(int(std::bit_width(uint64_t(common))) - 1, kSmallestCellLog2, kLargestCellLog2));
    }
    std::set<int64_t> distinct(sizes.begin(), sizes.end());
    QStringList names;
    for (const int64_t b : distinct) names << QString::number(b);
    setTitle(whole_run_ ? tr("Layout of the run") : tr("Layout of step %1").arg(count(step)));
    QString facts = counted(int64_t(rows.size()), tr("adapter"), tr("adapters"));
    facts += tr(" · %1, layer %2").arg(projection_->currentText()).arg(layer_->value());
    if (!names.isEmpty())
        facts += tr(" · b = %1 · greatest common %2").arg(names.join(QStringLiteral(", "))).arg(common);
    setFacts(facts + ran);
    canvas_->setNotice(whole_run_ ? tr("This run has no adapters.")
                                  : tr("Step %1 held requests of the base alone.").arg(count(step)));
    cell_label_->setText(tr("common block %1").arg(settings().cell));
    canvas_->set(std::move(rows), settings());
    canvas_->setSelected(context_.selection.adapter());
}

void LayoutView::refresh(const RunModel& model, const TimeController& time) {
    if (model.empty() || model.header().adapters.empty()) return showExample();
    // Until a person chooses: a run that has ended shows what it ran, not the few requests that ended last.
    if (!scope_chosen_) scope_->setCurrentIndex(time.live() && model.openRequests().empty() ? 1 : 0);
    whole_run_ = scope_->currentIndex() == 1;
    showStep(model, time.cursorStep());
}

}  // namespace spartan
