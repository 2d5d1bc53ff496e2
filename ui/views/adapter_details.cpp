#include "ui/views/adapter_details.h"

#include "ui/text.h"
#include "ui/theme.h"
#include "ui/worker.h"

#include <QFontMetricsF>
#include <QHBoxLayout>
#include <QHelpEvent>
#include <QLabel>
#include <QPainter>
#include <QToolButton>
#include <QToolTip>
#include <QVBoxLayout>

#include <algorithm>

namespace spartan {
namespace {

QString partText(ChangedPart part) { return QString::fromLatin1(name_of(part)); }

// "Layer 3, q", "Embed".
QString placeText(const PartChange& change) {
    if (change.layer >= 0) return QObject::tr("Layer %1, %2").arg(change.layer).arg(partText(change.part));
    QString text = partText(change.part);
    text[0] = text[0].toUpper();
    return text;
}

QString shareText(double share) {
    const double percent = 100 * share;
    return QString::number(percent, 'f', percent < 10 ? 2 : 0) + QStringLiteral(" %");
}

}  // namespace

ChangeMap::ChangeMap(QWidget* parent) : QWidget(parent) {
    setMouseTracking(true);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
}

void ChangeMap::set(std::vector<PartChange> changes) {
    changes_ = std::move(changes);
    notice_.clear();
    rows_.clear();
    largest_ = 0;
    first_layer_ = layers_ = 0;
    for (const PartChange& c : changes_) {
        if (std::find(rows_.begin(), rows_.end(), c.part) == rows_.end()) rows_.push_back(c.part);
        largest_ = std::max(largest_, c.relative);
        if (c.layer < 0) continue;
        const int last = layers_ > 0 ? std::max(first_layer_ + layers_ - 1, c.layer) : c.layer;
        first_layer_ = layers_ > 0 ? std::min(first_layer_, c.layer) : c.layer;
        layers_ = last - first_layer_ + 1;
    }
    std::sort(rows_.begin(), rows_.end());
    updateGeometry();
    update();
}

void ChangeMap::setNotice(const QString& words) {
    set({});
    notice_ = words;
}

double ChangeMap::rowHeight() const { return px(14); }

double ChangeMap::labelWidth() const {
    const QFontMetricsF metrics(uiFont(11));
    double widest = px(34);
    for (const ChangedPart row : rows_) widest = std::max(widest, metrics.horizontalAdvance(partText(row)));
    return widest + px(6);
}

double ChangeMap::columnWidth() const {
    return layers_ > 0 ? std::min((width() - labelWidth()) / layers_, double(px(22))) : px(44);
}

QSize ChangeMap::sizeHint() const {
    return {px(200), int(rowHeight() * double(std::max<size_t>(rows_.size(), 1)) + px(16))};
}

QRectF ChangeMap::cellRect(int layer, ChangedPart part) const {
    const auto at = std::find(rows_.begin(), rows_.end(), part);
    if (at == rows_.end()) return {};
    const double left = labelWidth() + (layer < 0 ? 0 : columnWidth() * (layer - first_layer_));
    return {left, rowHeight() * double(at - rows_.begin()), columnWidth() * (layer < 0 ? std::max(layers_, 1) : 1),
            rowHeight()};
}

void ChangeMap::paintEvent(QPaintEvent*) {
    QPainter p(this);
    const Colors& c = colorsOf(this);
    p.setFont(uiFont(11));
    p.setPen(c.muted);
    if (!notice_.isEmpty()) return p.drawText(rect(), Qt::AlignLeft | Qt::AlignVCenter, notice_);
    for (const ChangedPart row : rows_) {
        const QRectF whole = cellRect(-1, row);
        p.drawText(QRectF(0, whole.top(), labelWidth() - px(6), whole.height()), Qt::AlignRight | Qt::AlignVCenter,
                   partText(row));
        for (int layer = 0; layer < layers_; ++layer)
            p.fillRect(cellRect(first_layer_ + layer, row).adjusted(0, 0, -1, -1), c.field);
    }
    for (const PartChange& change : changes_) {
        const double depth = largest_ > 0 ? 0.08 + 0.92 * change.relative / largest_ : 0;
        p.fillRect(cellRect(change.layer, change.part).adjusted(0, 0, -1, -1), blend(c.field, c.prefill, depth));
    }
    if (layers_ == 0) return;
    const double y = rowHeight() * double(rows_.size());
    const QRectF axis(labelWidth(), y, columnWidth() * layers_, px(16));
    p.setPen(c.faint);
    p.drawText(axis, Qt::AlignLeft | Qt::AlignVCenter, tr("layer %1").arg(first_layer_));
    if (layers_ > 1) p.drawText(axis, Qt::AlignRight | Qt::AlignVCenter, QString::number(first_layer_ + layers_ - 1));
}

QString ChangeMap::describe(const QPoint& position) const {
    for (const PartChange& change : changes_)
        if (cellRect(change.layer, change.part).contains(position))
            return tr("%1: changed by %2 of its norm").arg(placeText(change), shareText(change.relative));
    return {};
}

bool ChangeMap::event(QEvent* event) {
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    const QString words = describe(help->pos());
    if (words.isEmpty())
        QToolTip::hideText();
    else
        QToolTip::showText(help->globalPos(), plainTooltip(words), this);
    return true;
}

AdapterDetails::AdapterDetails(QWidget* parent)
    : QWidget(parent),
      title_(new QLabel),
      facts_(new QLabel),
      summary_(new QLabel),
      warnings_(new QLabel),
      close_button_(new QToolButton),
      map_(new ChangeMap) {
    pool_.setMaxThreadCount(1);
    auto* box = new QVBoxLayout(this);
    auto* head = new QHBoxLayout;
    head->addWidget(title_, 1);
    head->addWidget(close_button_);
    box->addLayout(head);
    box->addWidget(facts_);
    box->addWidget(summary_);
    box->addWidget(map_);
    box->addWidget(warnings_);
    for (QLabel* label : {title_, facts_, summary_, warnings_}) {
        label->setTextFormat(Qt::PlainText);
        label->setWordWrap(true);
        label->setTextInteractionFlags(Qt::TextSelectableByMouse);
    }
    close_button_->setText(QStringLiteral("×"));
    close_button_->setAutoRaise(true);
    close_button_->setToolTip(tr("Close the details (Esc)"));
    close_button_->setAccessibleName(tr("Close the details"));
    connect(close_button_, &QToolButton::clicked, this, &AdapterDetails::close);
    map_->setAccessibleName(tr("Change by layer and weight"));
    summary_->setToolTip(plainTooltip(
        tr("How far the adapter moves a weight: |W' - W| / |W|, Frobenius norms, W' the weight that gives "
           "the adapter's output from the same input. Measured on 64 rows of each weight and on all trained tokens.")));
    hide();
}

AdapterDetails::~AdapterDetails() {
    if (progress_) progress_->cancel = true;
    pool_.waitForDone();
}

void AdapterDetails::close() {
    if (progress_) progress_->cancel = true;
    progress_.reset();
    adapter_.reset();
    key_.reset();
    hide();
}

void AdapterDetails::open(const LibraryEntry& entry) {
    if (key_ == entry.key && adapter_ == entry.adapter && isVisible()) return;
    close();
    key_ = entry.key;
    adapter_ = entry.adapter;
    title_->setText(oneLine(entry.name, 80) + QStringLiteral(" · ") + toQ(entry.geometry) + QStringLiteral(" · ") +
                    bytesText(entry.bytes));
    QStringList facts = {oneLine(entry.source, 300)};
    QStringList warnings;
    for (const std::string& w : entry.warnings) warnings += QStringLiteral("⚠ ") + oneLine(w, 600);
    if (entry.adapter) {
        for (const std::string& line : describe_structure(*entry.adapter)) facts += toQ(line);
        if (entry.adapter->orthogonality_error > 0)
            facts += tr("rotations: largest |QᵀQ − I| %1").arg(entry.adapter->orthogonality_error, 0, 'g', 2);
    }
    facts_->setText(facts.join(QLatin1Char('\n')));
    warnings_->setText(warnings.join(QLatin1Char('\n')));
    warnings_->setVisible(!warnings.isEmpty());
    summary_->clear();
    show();
    measure(entry);
}

void AdapterDetails::measure(const LibraryEntry& entry) {
    if (!entry.adapter || !entry.base)
        return map_->setNotice(tr("Its change is measured once a base model is loaded."));
    map_->setNotice(tr("Measuring its change …"));
    progress_ = std::make_shared<Progress>();
    runInWorker(
        pool_, this,
        [adapter = entry.adapter, base = entry.base, progress = progress_] {
            return measure_change(*adapter, *base, *progress);
        },
        [this, progress = progress_](std::vector<PartChange> changes) {
            if (progress != progress_) return;  // another adapter was opened meanwhile
            map_->set(std::move(changes));
            showSummary();
        });
}

void AdapterDetails::showSummary() {
    const auto& changes = map_->changes();
    const auto most = std::max_element(changes.begin(), changes.end(),
                                       [](const auto& a, const auto& b) { return a.relative < b.relative; });
    if (most == changes.end()) return summary_->setText(tr("Its change cannot be measured: too little memory."));
    double sum = 0;
    for (const PartChange& c : changes) sum += c.relative;
    const QString place = placeText(*most);
    const QString words = tr("Moves weights by %1 on average, at most %2 (%3).")
                              .arg(shareText(sum / double(changes.size())), shareText(most->relative),
                                   place.left(1).toLower() + place.mid(1));
    summary_->setText(words);
    map_->setAccessibleDescription(words);
}

QString AdapterDetails::words() const {
    return QStringList{title_->text(), facts_->text(), summary_->text(), warnings_->text()}.join(QLatin1Char('\n'));
}

void AdapterDetails::restyle(const Colors& c) {
    layout()->setContentsMargins(px(8), px(6), px(8), px(6));
    layout()->setSpacing(px(4));
    // By style sheet: a label's palette is overwritten when the application's sheet is set again.
    const auto color = [](QLabel* label, const QColor& text, const QFont& font) {
        label->setStyleSheet(QStringLiteral("color: %1").arg(text.name()));
        label->setFont(font);
    };
    color(title_, c.text, uiFont(12.5, 600));
    color(facts_, c.muted, uiFont(11.5));
    color(summary_, c.text, uiFont(11.5));
    color(warnings_, c.transfer, uiFont(11.5));
    map_->updateGeometry();
}

}  // namespace spartan
