#include "ui/views/steps_view.h"

#include "ui/text.h"
#include "ui/time_controller.h"

#include <QFontMetricsF>
#include <QHelpEvent>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QToolTip>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

namespace spartan {

namespace {

// The colours of the bars in words, each with its swatch; what does not fit is left out.
class StepLegend : public QWidget {
public:
    StepLegend() {
        setAccessibleName(QObject::tr("Legend: prefill, decode, padding, adapters moved, time"));
        setToolTip(plainTooltip(QObject::tr(
            "Bars: tokens computed in a step, decode below, prefill above it, padding hatched; a vermillion "
            "tick marks a preemption, a dotted line time that the run was held. Lane at the foot: copies of "
            "adapters into the pool, each where it began and ended. Line: milliseconds of the step.")));
    }
    QSize sizeHint() const override {
        const QFontMetricsF m(uiFont(11));
        double width = 0;
        for (const QString& word : words()) width += m.horizontalAdvance(word) + px(28);
        return {int(width), px(18)};
    }
    QSize minimumSizeHint() const override { return {0, px(18)}; }

protected:
    void paintEvent(QPaintEvent*) override {
        QPainter p(this);
        const Colors& c = colorsOf(this);
        p.setFont(uiFont(11));
        const QFontMetricsF m(p.font());
        double x = 0;
        const QStringList all = words();
        for (int i = 0; i < all.size(); ++i) {
            const double wide = px(14) + m.horizontalAdvance(all[i]);
            if (x + wide > width()) return;
            const QRectF box(x, (height() - px(9)) / 2.0, px(9), px(9));
            p.setPen(c.ink);
            if (i == 4)
                p.drawLine(QPointF(box.left(), box.center().y()), QPointF(box.right(), box.center().y()));
            else
                p.fillRect(box, i == 0   ? QBrush(c.prefill)
                                : i == 1 ? QBrush(c.decode)
                                : i == 2 ? QBrush(c.muted, Qt::BDiagPattern)
                                         : QBrush(c.transfer));
            p.setPen(c.muted);
            p.drawText(QRectF(x + px(14), 0, wide, height()), Qt::AlignLeft | Qt::AlignVCenter, all[i]);
            x += wide + px(14);
        }
    }

private:
    static QStringList words() {
        return {QObject::tr("prefill"), QObject::tr("decode"), QObject::tr("padding"), QObject::tr("adapters in"),
                QObject::tr("ms a step")};
    }
};

double paddingShare(const StepSummary& s) {
    const int32_t all = s.prefill_tokens + s.decode_tokens + s.padding_tokens;
    return all > 0 ? double(s.padding_tokens) / all : 0;
}

}  // namespace

namespace {

// "\ntransfer: 201 MB in 8.1 ms, 24.8 GB/s"; empty: none.
QString transferText(const StepSummary& s) {
    if (s.bytes.transfer <= 0) return {};
    QString text = QObject::tr("\ntransfer: %1").arg(bytesText(s.bytes.transfer));
    if (s.times.transfer <= 0) return text;
    const double seconds = double(s.times.transfer) / 1e6;
    return text + QObject::tr(" in %1, %2/s")
                      .arg(msText(seconds * 1e3), bytesText(int64_t(double(s.bytes.transfer) / seconds)));
}

}  // namespace

QString stepSentence(const StepSummary& s) {
    return QObject::tr("step %1 · %2 · %3 · %4 · %5 padding")
        .arg(count(s.step), msText(s.ms()), counted(s.rows, QObject::tr("row"), QObject::tr("rows")),
             counted(s.adapters, QObject::tr("adapter"), QObject::tr("adapters")), percentText(paddingShare(s)));
}

bool phasesTold(const StepTimes& t) { return t.rotate + t.lora + t.products + t.attention + t.head + t.sample > 0; }

QString stepTokens(const StepSummary& s) {
    const auto ms = [](int64_t us) { return msText(double(us) / 1000); };
    if (!phasesTold(s.times) && s.times.other > 0)
        return QObject::tr("%1 prefill, %2 decode, %3 padding tokens · %4 on the GPU")
            .arg(count(s.prefill_tokens), count(s.decode_tokens), count(s.padding_tokens), ms(s.times.other));
    return QObject::tr(
               "%1 prefill, %2 decode, %3 padding tokens · rotate %4 · low rank %5 · products %6 · attention %7")
        .arg(count(s.prefill_tokens), count(s.decode_tokens), count(s.padding_tokens), ms(s.times.rotate),
             ms(s.times.lora), ms(s.times.products), ms(s.times.attention));
}

StepRibbon::StepRibbon(const ViewContext& context, QWidget* parent) : QWidget(parent), context_(context) {
    setFocusPolicy(Qt::StrongFocus);
    setMinimumHeight(60);
    setAccessibleName(tr("Steps"));
    setAccessibleDescription(
        tr("Left and Right choose a step; Home follows the newest; the wheel moves, with Ctrl it "
           "widens the bars."));
}

// Where there is little height the lane leaves it to the bars.
double StepRibbon::laneHeight() const { return height() >= px(110) ? px(16) : 0; }

QRectF StepRibbon::lane() const {
    const double tall = laneHeight();
    return {0, height() - tall + px(4), double(width()), std::max(0.0, tall - px(4))};
}

QString StepRibbon::copiesAt(const QPointF& position) const {
    constexpr size_t kMost = 6;
    if (laneHeight() <= 0 || position.y() < lane().top() || last_ < first_) return {};
    QStringList words;
    size_t more = 0;
    for (const CopyLane::Box& box : CopyLane::boxes(context_.model, axis(), lane())) {
        if (position.x() < box.rect.left() - 1 || position.x() > box.rect.right() + 1) continue;
        if (words.size() < qsizetype(kMost))
            words << copySentence(*box.copy, context_.model);
        else
            ++more;
    }
    if (words.isEmpty()) return CopyLane::emptyWords(context_.model);
    if (more > 0) words << tr("… and %1").arg(counted(int64_t(more), tr("further copy"), tr("further copies")));
    return words.join(QLatin1Char('\n'));
}

double StepRibbon::barWidth() const { return bar_ * interfaceScale(); }
int StepRibbon::visibleBars() const { return std::max(1, int(width() / barWidth())); }

void StepRibbon::update() {
    const auto& steps = context_.model.steps();
    if (steps.empty()) {
        first_ = 0;
        last_ = -1;
    } else {
        const int64_t oldest = steps.front().step, newest = steps.back().step, room = visibleBars();
        int64_t first = newest - room + 1;
        if (!context_.time.live()) {
            // Paused: keep what is shown as long as the cursor is in it, else bring the cursor to the middle.
            const int64_t cursor = context_.time.cursorStep();
            first = cursor >= first_ && cursor < first_ + room ? first_ : cursor - room / 2;
        }
        first_ = std::clamp(first, oldest, std::max(oldest, newest - room + 1));
        last_ = std::min(newest, first_ + room - 1);
    }
    QWidget::update();
}

int64_t StepRibbon::stepAt(const QPointF& position) const {
    const int64_t step = first_ + int64_t(std::floor(position.x() / barWidth()));
    return step >= first_ && step <= last_ ? step : -1;
}

void StepRibbon::paintEvent(QPaintEvent*) {
    QPainter painter(this);
    const Colors& c = colorsOf(this);
    if (last_ < first_) return;

    int32_t most_tokens = 1;
    double longest = 0.001;
    for (int64_t i = first_; i <= last_; ++i) {
        const StepSummary* s = context_.model.summary(i);
        if (!s) continue;
        most_tokens = std::max(most_tokens, s->prefill_tokens + s->decode_tokens + s->padding_tokens);
        longest = std::max(longest, s->ms());
    }
    // The upper third is the line of step times, the rest the bars; each labels its own largest value.
    const double line_height = std::floor(height() * 0.32), gap = px(20);
    const double foot = height() - laneHeight();
    const double bars_top = line_height + gap, bars_height = foot - bars_top;
    const double w = barWidth(), inner = std::max(1.0, w - (w > 4 ? 2 : w > 2 ? 1 : 0));
    // Prefill takes hundreds of tokens where decode takes one a row: the square root keeps both visible.
    const auto scaled = [&](double tokens) { return bars_height * std::sqrt(tokens / most_tokens); };

    QPolygonF line;
    for (int64_t i = first_; i <= last_; ++i) {
        const StepSummary* s = context_.model.summary(i);
        if (!s) continue;
        const double x = double(i - first_) * w;
        double below = 0, drawn = 0;
        const auto part = [&](int32_t tokens, const QBrush& brush) {
            if (tokens <= 0) return;
            below += tokens;
            const double top = scaled(below);
            painter.fillRect(QRectF(x, foot - top, inner, top - drawn), brush);
            drawn = top;
        };
        part(s->decode_tokens, c.decode);
        part(s->prefill_tokens, c.prefill);
        if (s->padding_tokens > 0) part(s->padding_tokens, QBrush(c.free, Qt::BDiagPattern));
        if (s->preempted > 0) painter.fillRect(QRectF(x, bars_top - px(4), inner, px(3)), c.error);
        line << QPointF(x + inner / 2, line_height - (line_height - px(15)) * s->ms() / longest);
        if (const StepSummary* before = context_.model.summary(i - 1); s->held_us > (before ? before->held_us : 0)) {
            painter.setPen(QPen(c.muted, 1, Qt::DotLine));
            painter.drawLine(QPointF(x - 1, px(13)), QPointF(x - 1, height()));
        }
    }
    if (laneHeight() > 0) {
        painter.fillRect(QRectF(0, foot + px(2), width(), 1), c.border);
        CopyLane::paint(painter, context_.model, axis(), lane(), c);
    }
    painter.setPen(QPen(c.ink, 1));
    painter.drawPolyline(line);

    // Each scale is named where it is read: the line's above, the bars' between the two.
    painter.setFont(uiFont(10.5));
    painter.setPen(c.faint);
    const QFontMetricsF metrics(painter.font());
    painter.drawText(QRectF(0, 0, width(), px(13)), Qt::AlignLeft | Qt::AlignTop,
                     fitFacts(metrics, tr("longest %1").arg(msText(longest)), width()));
    painter.drawText(
        QRectF(0, bars_top - px(15), width(), px(14)), Qt::AlignLeft | Qt::AlignBottom,
        fitFacts(metrics, tr("most %1 · square-root scale").arg(counted(most_tokens, tr("token"), tr("tokens"))),
                 width()));

    const int64_t cursor = context_.time.cursorStep();
    if (cursor >= first_ && cursor <= last_) {
        painter.setPen(QPen(c.cursor, 1));
        painter.setBrush(Qt::NoBrush);
        painter.drawRect(QRectF(double(cursor - first_) * w - 1.5, px(13), inner + 2, height() - px(13) - 1));
    }
}

void StepRibbon::resizeEvent(QResizeEvent* event) {
    QWidget::resizeEvent(event);
    update();
}

void StepRibbon::mousePressEvent(QMouseEvent* event) {
    if (event->button() != Qt::LeftButton) return QWidget::mousePressEvent(event);
    pressed_ = true;
    setFocus();
    if (const int64_t step = stepAt(event->position()); step >= 0) context_.time.setCursorStep(step, context_.model);
}

void StepRibbon::mouseMoveEvent(QMouseEvent* event) {
    if (!(event->buttons() & Qt::LeftButton)) return;
    if (const int64_t step = stepAt(event->position()); step >= 0) context_.time.setCursorStep(step, context_.model);
}

void StepRibbon::wheelEvent(QWheelEvent* event) {
    const double notches = double(event->angleDelta().y()) / 120.0;
    if (event->modifiers() & Qt::ControlModifier)
        bar_ = std::clamp(bar_ * std::pow(1.25, notches), 1.0, 32.0);
    else
        context_.time.stepBy(int64_t(std::lround(-notches)), context_.model);
    update();
    event->accept();
}

void StepRibbon::keyPressEvent(QKeyEvent* event) {
    if (event->key() == Qt::Key_Left) return context_.time.stepBy(-1, context_.model);
    if (event->key() == Qt::Key_Right) return context_.time.stepBy(1, context_.model);
    QWidget::keyPressEvent(event);
}

bool StepRibbon::event(QEvent* event) {
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    if (const QString copies = copiesAt(help->pos()); !copies.isEmpty()) {
        QToolTip::showText(help->globalPos(), plainTooltip(copies), this);
        return true;
    }
    if (const StepSummary* s = context_.model.summary(stepAt(help->pos()))) {
        QString text = stepSentence(*s) + QLatin1Char('\n') + stepTokens(*s);
        text += tr("\nat %1 · %2 running, %3 waiting")
                    .arg(secondsText(double(s->end_us) / 1e6), count(s->running), count(s->waiting));
        if (!context_.model.header().gpu) text += tr(" · CPU steps run eagerly (no graph)");
        text += transferText(*s);
        if (const StepRecordPtr record = context_.model.record(s->step); record && !record->trouble.empty())
            text += QStringLiteral("\n✗ ") + oneLine(record->trouble);
        if (s->preempted > 0) text += tr("\n%1 preempted").arg(count(s->preempted));
        QToolTip::showText(help->globalPos(), plainTooltip(text), this);
    }
    return true;
}

QString StepRibbon::csv() const {
    QString out = QStringLiteral(
        "step,start_us,end_us,rows,adapters,prefill_tokens,decode_tokens,padding_tokens,"
        "running,waiting,preempted,transfer_bytes\n");
    for (const StepSummary& s : context_.model.steps())
        out += QStringLiteral("%1,%2,%3,%4,%5,%6,%7,%8,%9,")
                   .arg(s.step)
                   .arg(s.start_us)
                   .arg(s.end_us)
                   .arg(s.rows)
                   .arg(s.adapters)
                   .arg(s.prefill_tokens)
                   .arg(s.decode_tokens)
                   .arg(s.padding_tokens)
                   .arg(s.running) +
               QStringLiteral("%1,%2,%3\n").arg(s.waiting).arg(s.preempted).arg(s.bytes.transfer);
    return out;
}

StepsView::StepsView(const ViewContext& context, QWidget* parent)
    : Panel(QStringLiteral("steps"), tr("Steps"), parent), context_(context) {
    auto* body = new QWidget;
    auto* column = new QVBoxLayout(body);
    column->setContentsMargins(8, 8, 8, 8);
    column->setSpacing(3);
    ribbon_ = new StepRibbon(context);
    column->addWidget(ribbon_, 1);
    readout_ = new FigureLabel;
    readout_->setMuted(false);
    readout_->setSize(12, 500);
    column->addWidget(readout_);
    tokens_ = new FigureLabel;
    tokens_->setSize(11.5);
    column->addWidget(tokens_);
    setBody(body);
    headerControls()->addWidget(new StepLegend);
    addExport({QStringLiteral("steps"), ribbon_, [this] { return ribbon_->csv(); },
               [this] { return toQ(context_.model.header().name); }});
    emptyState()->set(tr("No steps yet"), tr("Every engine step becomes a bar here: what it computed and how long it "
                                             "took."));
    if (context.runDemo) emptyState()->addAction(tr("Run demo workload"), context.runDemo);
    showEmpty(true);
}

void StepsView::refresh(const RunModel& model, const TimeController& time) {
    showEmpty(model.empty());
    if (model.empty()) return;
    ribbon_->update();
    const StepSummary* step = model.summary(time.cursorStep());
    readout_->setText(step ? stepSentence(*step) : tr("the step under the cursor is no longer kept one by one"));
    tokens_->setText(step ? stepTokens(*step) : QString());
}

}  // namespace spartan
