#include "ui/views/step_detail_view.h"

#include "ui/text.h"
#include "ui/time_controller.h"
#include "ui/views/steps_view.h"

#include <QCheckBox>
#include <QFontMetricsF>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QHelpEvent>
#include <QPainter>
#include <QTableView>
#include <QToolTip>
#include <QVBoxLayout>

#include <algorithm>

namespace spartan {

void StepRowsModel::set(StepRecordPtr record, const RunModel& model) {
    if (record == record_) return;
    beginResetModel();
    record_ = std::move(record);
    names_.clear();
    if (record_)
        for (const StepRow& row : record_->rows) names_.push_back(oneLine(model.adapterName(row.adapter), 64));
    endResetModel();
}

int StepRowsModel::rowCount(const QModelIndex& parent) const {
    return parent.isValid() || !record_ ? 0 : int(record_->rows.size());
}

int StepRowsModel::columnCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : columns; }

QVariant StepRowsModel::data(const QModelIndex& index, int role) const {
    if (!index.isValid()) return {};
    const bool figure = index.column() != adapter && index.column() != phase && index.column() != finish;
    if (role == Qt::TextAlignmentRole)
        return QVariant(int(Qt::AlignVCenter | (figure ? Qt::AlignRight : Qt::AlignLeft)));
    if (role != Qt::DisplayRole) return {};
    const StepRow& row = record_->rows[size_t(index.row())];
    switch (index.column()) {
        case request:
            return count(int64_t(row.request));
        case adapter:
            return names_[size_t(index.row())];
        case phase:
            return row.prefill ? tr("prefill") : tr("decode");
        case tokens:
            return count(row.num_tokens);
        case context:
            return count(row.context);
        case token:
            return row.token < 0 ? QStringLiteral("–") : count(row.token);
        case finish:
            return row.finish == FinishReason::none ? QString() : QString::fromLatin1(name_of(row.finish));
        default:
            return {};
    }
}

QVariant StepRowsModel::headerData(int section, Qt::Orientation orientation, int role) const {
    if (orientation != Qt::Horizontal) return {};
    const QString names[] = {tr("request"), tr("adapter"),  tr("phase"), tr("tokens"),
                             tr("context"), tr("token id"), tr("finish")};
    const QString tips[] = {tr("Number of the request in this engine"),
                            tr("Adapter of the row's request"),
                            tr("prefill: prompt tokens are computed; decode: one token a step"),
                            tr("Tokens of this request computed in the step"),
                            tr("Tokens already in its KV before the step"),
                            tr("Token that the step gave; – while its prompt is still being computed"),
                            tr("Why the request ended with this step")};
    if (role == Qt::DisplayRole) return names[section];
    if (role == Qt::ToolTipRole) return plainTooltip(tips[section]);
    const bool figure = section != adapter && section != phase && section != finish;
    if (role == Qt::TextAlignmentRole)
        return QVariant(int(Qt::AlignVCenter | (figure ? Qt::AlignRight : Qt::AlignLeft)));
    return {};
}

void BarList::set(std::vector<Bar> bars) {
    const bool resized = bars.size() != bars_.size();
    bars_ = std::move(bars);
    if (resized) updateGeometry();
    update();
}

QSize BarList::sizeHint() const { return {px(320), int(bars_.size()) * px(24)}; }

void BarList::paintEvent(QPaintEvent*) {
    QPainter painter(this);
    const Colors& c = colorsOf(this);
    double most = 0;
    for (const Bar& bar : bars_) most = std::max(most, bar.value);
    const bool narrow = width() < px(460);
    const double label = px(narrow ? 92 : 130), note = narrow ? px(108) : px(150), figure = px(narrow ? 64 : 76);
    const double room = std::max(8.0, width() - label - note - figure);
    for (size_t i = 0; i < bars_.size(); ++i) {
        const Bar& bar = bars_[i];
        const QRectF row(0, double(i) * px(24), width(), px(24));
        painter.setFont(uiFont(12));
        painter.setPen(c.text);
        const QFontMetricsF metrics(painter.font());
        painter.drawText(QRectF(0, row.top(), label - px(8), row.height()), Qt::AlignLeft | Qt::AlignVCenter,
                         metrics.elidedText(bar.label, Qt::ElideRight, label - px(8)));
        painter.setFont(uiFont(11));
        painter.setPen(c.faint);
        painter.drawText(QRectF(label, row.top(), note - px(8), row.height()), Qt::AlignLeft | Qt::AlignVCenter,
                         QFontMetricsF(painter.font()).elidedText(bar.note, Qt::ElideRight, note - px(8)));
        const double length = most > 0 ? room * bar.value / most : 0;
        painter.fillRect(QRectF(label + note, row.top() + px(5), length, row.height() - px(10)), bar.color);
        painter.setPen(c.text);
        painter.setFont(uiFont(12));
        drawFigures(painter, QRectF(width() - figure, row.top(), figure, row.height()),
                    Qt::AlignRight | Qt::AlignVCenter, bar.figure);
    }
}

bool BarList::event(QEvent* event) {
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    const size_t i = size_t(std::max(0, help->pos().y()) / px(24));
    if (i < bars_.size() && !bars_[i].tooltip.isEmpty())
        QToolTip::showText(help->globalPos(), plainTooltip(bars_[i].tooltip), this);
    return true;
}

StepDetailView::StepDetailView(const ViewContext& context, QWidget* parent)
    : Panel(QStringLiteral("step-detail"), tr("Step"), parent), context_(context) {
    auto* body = new QWidget;
    auto* column = new QVBoxLayout(body);
    column->setContentsMargins(12, 8, 12, 8);
    column->setSpacing(8);
    phases_ = new BarList;
    column->addWidget(phases_);
    waiting_title_ = new FigureLabel;
    waiting_title_->setMuted(false);
    waiting_title_->setSize(12, 600);
    column->addWidget(waiting_title_);
    waiting_ = new BarList;
    column->addWidget(waiting_);
    rows_ = new StepRowsModel(this);
    table_ = new QTableView;
    table_->setModel(rows_);
    table_->setSelectionBehavior(QAbstractItemView::SelectRows);
    table_->setSelectionMode(QAbstractItemView::SingleSelection);
    table_->setShowGrid(false);
    table_->setTabKeyNavigation(false);  // Tab leaves it: the arrows move inside
    table_->verticalHeader()->hide();
    table_->setAccessibleName(tr("Rows of the step"));
    table_->horizontalHeader()->setHighlightSections(false);
    table_->horizontalHeader()->setSectionResizeMode(StepRowsModel::adapter, QHeaderView::Stretch);
    column->addWidget(table_, 1);
    setBody(body);
    phase_switch_ = new QCheckBox(tr("phase times"));
    phase_switch_->setToolTip(plainTooltip(
        tr("Times the phases of a step on the GPU, from its next step on, by events between the launches. That costs: "
           "launches no longer overlap, and steps are launched one kernel at a time instead of being replayed as a "
           "graph, so that every step takes longer. Off, a step's time on the GPU is one figure.")));
    phase_switch_->hide();
    headerControls()->addWidget(phase_switch_);
    connect(phase_switch_, &QCheckBox::clicked, this, [this](bool on) {
        if (context_.timePhases) context_.timePhases(on);
    });
    connect(table_->selectionModel(), &QItemSelectionModel::currentRowChanged, this, [this](const QModelIndex& index) {
        const StepRecordPtr record = context_.model.record(shown_step_);
        if (record && index.isValid() && size_t(index.row()) < record->rows.size())
            context_.selection.setAdapter(record->rows[size_t(index.row())].adapter);
    });
    emptyState()->set(tr("No step chosen"), tr("Run a workload, then click a bar in Steps or press , and . to walk "
                                               "through the steps."));
    showEmpty(true);
}

void StepDetailView::styleChanged() {
    const int widths[] = {62, 120, 62, 58, 62, 70, 70};
    for (int i = 0; i < StepRowsModel::columns; ++i)
        if (i != StepRowsModel::adapter) table_->setColumnWidth(i, px(widths[i]));
    table_->verticalHeader()->setDefaultSectionSize(px(22));
    table_->setFont(uiFont(12));
    phases_->updateGeometry();
    waiting_->updateGeometry();
}

void StepDetailView::showPhases(const StepSummary& s) {
    const Colors& c = colorsOf(this);
    std::vector<BarList::Bar> bars;
    const auto bar = [&](const QString& label, int64_t us, const QString& note, const QColor& color,
                         const QString& tip) {
        bars.push_back({label, note, msText(double(us) / 1000), tip, double(us), color});
    };
    if (context_.model.header().gpu && !phasesTold(s.times)) {
        showWholeStep(s, bars);
        return phases_->set(std::move(bars));
    }
    bar(tr("rotate"), s.times.rotate, {}, c.prefill, tr("Block rotations of the inputs (BOFT, OFT)"));
    bar(tr("low rank"), s.times.lora, tr("adapters %1").arg(bytesText(s.bytes.adapters)), c.prefill,
        tr("Low-rank products, gains and biases (LoRA, DoRA). The bytes are of all adapter parts that the step read."));
    bar(tr("products"), s.times.products, tr("weights %1").arg(bytesText(s.bytes.weights)), blend(c.panel, c.ink, 0.6),
        tr("Matrix products with the base model's layers. The bytes are of all base weights that the step read."));
    bar(tr("attention"), s.times.attention, tr("KV %1").arg(bytesText(s.bytes.kv)), c.decode,
        tr("Position embedding, KV write and attention"));
    bar(tr("head"), s.times.head, {}, blend(c.panel, c.ink, 0.6), tr("Final norm and the product with the vocabulary"));
    bar(tr("sample"), s.times.sample, {}, blend(c.panel, c.ink, 0.6), tr("Choosing the next tokens"));
    bar(tr("other"), s.times.other, {}, blend(c.panel, c.ink, 0.6), tr("Embedding, norms, activations, residuals"));
    bar(tr("schedule"), s.times.schedule, {}, blend(c.panel, c.ink, 0.6), tr("Admission, pages, building the batch"));
    if (s.times.transfer > 0 || s.bytes.transfer > 0 || s.bytes.staging > 0) {
        QString note = bytesText(s.bytes.transfer);
        if (s.bytes.staging > 0) note += tr(" + %1 staged").arg(bytesText(s.bytes.staging));
        bar(tr("transfer"), s.times.transfer, note, c.transfer,
            tr("Adapters copied into the pool. Staged: factors batched by the strategy common_block, weights that the "
               "strategy merged wrote."));
    }
    if (s.times.publish_wait > 0)
        bar(tr("record wait"), s.times.publish_wait, {}, c.error,
            tr("The engine waited for a full ring of records before this step"));
    phases_->set(std::move(bars));
}

// A GPU whose phases nobody asked for.
void StepDetailView::showWholeStep(const StepSummary& s, std::vector<BarList::Bar>& bars) const {
    const Colors& c = colorsOf(this);
    const QColor ink = blend(c.panel, c.ink, 0.6);
    const auto ms = [](int64_t us) { return msText(double(us) / 1000); };
    const int64_t read = s.bytes.weights + s.bytes.adapters + s.bytes.kv;
    QString tip = tr("All phases of the step on the GPU; “phase times” tells them apart. It read %1 of weights, %2 of "
                     "adapters and %3 of KV at the least.")
                      .arg(bytesText(s.bytes.weights), bytesText(s.bytes.adapters), bytesText(s.bytes.kv));
    if (s.times.other > 0)
        tip += tr(" That is %1/s.").arg(bytesText(int64_t(double(read) / (double(s.times.other) / 1e6))));
    bars.push_back({tr("on the GPU"), tr("%1 read").arg(bytesText(read)), ms(s.times.other), tip, double(s.times.other),
                    c.decode});
    bars.push_back({tr("schedule"),
                    {},
                    ms(s.times.schedule),
                    tr("Admission, pages, building the batch"),
                    double(s.times.schedule),
                    ink});
    if (s.times.transfer > 0 || s.bytes.transfer > 0)
        bars.push_back({tr("transfer"), bytesText(s.bytes.transfer), ms(s.times.transfer),
                        tr("Adapters copied into the pool"), double(s.times.transfer), c.transfer});
    if (s.times.publish_wait > 0)
        bars.push_back({tr("record wait"),
                        {},
                        ms(s.times.publish_wait),
                        tr("The engine waited for a full ring of records before this step"),
                        double(s.times.publish_wait),
                        c.error});
}

namespace {
QString meaningOf(WaitReason reason) {
    switch (reason) {
        case WaitReason::no_pages:
            return QObject::tr("The pool has too few free pages for the first in line");
        case WaitReason::adapter_loading:
            return QObject::tr("The adapter of the first in line is on its way into the pool");
        case WaitReason::adapter_no_room:
            return QObject::tr("The adapter of the first in line finds no room in the pool");
        case WaitReason::token_budget:
            return QObject::tr("The step's token budget was used up");
        case WaitReason::row_budget:
            return QObject::tr("The step already holds as many requests as it may");
        case WaitReason::other_adapter:
            return QObject::tr("Adapters are merged into the weights one at a time, and it is another one's turn");
        case WaitReason::none:
            break;
    }
    return {};
}
}  // namespace

void StepDetailView::showWaiting(const StepRecord& record, const StepSummary& step) {
    const Colors& c = colorsOf(this);
    std::vector<BarList::Bar> bars;
    for (const WaitCount& wait : record.waiting_for) {
        const QString note =
            wait.reason == WaitReason::no_pages ? tr("%1 pages short").arg(count(wait.pages_short)) : QString();
        const QColor color = wait.reason == WaitReason::no_pages          ? c.error
                             : wait.reason == WaitReason::adapter_loading ? c.transfer
                                                                          : blend(c.panel, c.ink, 0.6);
        bars.push_back({QString::fromLatin1(name_of(wait.reason)).replace(QLatin1Char('_'), QLatin1Char(' ')), note,
                        count(wait.requests), meaningOf(wait.reason), double(wait.requests), color});
    }
    waiting_title_->setText(step.waiting > 0
                                ? (step.waiting == 1 ? tr("Why is one request waiting?")
                                                     : tr("Why are %1 requests waiting?").arg(count(step.waiting)))
                                : tr("Nothing is waiting"));
    waiting_->set(std::move(bars));
}

void StepDetailView::refresh(const RunModel& model, const TimeController& time) {
    const StepSummary* step = model.summary(time.cursorStep());
    phase_switch_->setVisible(step && model.header().gpu && context_.timePhases);
    if (context_.phasesTimed) phase_switch_->setChecked(context_.phasesTimed());
    showEmpty(!step);
    if (!step) return setFacts({});
    shown_step_ = step->step;
    setTitle(tr("Step %1").arg(count(step->step)));
    setFacts(tr("%1 · %2 · %3")
                 .arg(msText(step->ms()), counted(step->rows, tr("row"), tr("rows")),
                      counted(step->adapters, tr("adapter"), tr("adapters"))),
             stepSentence(*step) + QLatin1Char('\n') + stepTokens(*step));
    showPhases(*step);
    const StepRecordPtr record = model.record(step->step);
    rows_->set(record, model);
    if (record)
        showWaiting(*record, *step);
    else {
        waiting_title_->setText(tr("The rows of this step are in the recording, no longer in memory"));
        waiting_->set({});
    }
}

}  // namespace spartan
