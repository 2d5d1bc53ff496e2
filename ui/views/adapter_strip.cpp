#include "ui/views/adapter_strip.h"

#include "ui/text.h"

#include <QFontMetricsF>
#include <QHelpEvent>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QToolTip>

#include <algorithm>
#include <map>

namespace spartan {

AdapterStrip::AdapterStrip(const ViewContext& context, QWidget* parent) : QWidget(parent), context_(context) {
    setFocusPolicy(Qt::StrongFocus);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("Adapters by p99"));
    setAccessibleDescription(
        tr("Left and Right choose an adapter, Escape none; the chosen one is drawn in every plot."));
    connect(&context_.selection, &Selection::changed, this, [this] { QWidget::update(); });
}

QSize AdapterStrip::sizeHint() const { return {px(400), px(82)}; }

void AdapterStrip::setMetric(Metric metric) {
    metric_ = metric;
    update();
}

void AdapterStrip::update() {
    std::vector<Bar> bars;
    for (const auto& [id, totals] : context_.model.adapterTotals()) {
        const Distribution& d = totals[metric_];
        if (d.n() == 0) continue;
        bars.push_back({id, oneLine(context_.model.adapterName(id), 64), d.n(), d.quantile(0.5), d.quantile(0.95),
                        d.quantile(0.99)});
    }
    if (underMouse()) {
        std::map<AdapterId, size_t> place;
        for (size_t i = 0; i < bars_.size(); ++i) place[bars_[i].id] = i;
        std::stable_sort(bars.begin(), bars.end(), [&](const Bar& a, const Bar& b) {
            const auto of = [&](const Bar& bar) { return place.contains(bar.id) ? place[bar.id] : place.size(); };
            return of(a) < of(b);
        });
    } else {
        std::stable_sort(bars.begin(), bars.end(), [](const Bar& a, const Bar& b) { return a.p99 > b.p99; });
    }
    if (bars == bars_) return;
    bars_ = std::move(bars);
    QWidget::update();
}

QRectF AdapterStrip::rectOf(size_t index) const {
    const double step = std::min(double(width()) / double(std::max<size_t>(1, bars_.size())), double(px(240)));
    const double gap = step > px(12) ? px(4) : step > 4 ? 1 : 0;
    return {double(index) * step, double(px(18)), step - gap, double(height() - px(18))};
}

int AdapterStrip::indexAt(const QPointF& position) const {
    for (size_t i = 0; i < bars_.size(); ++i)
        if (position.x() >= rectOf(i).left() &&
            (i + 1 == bars_.size() ? position.x() <= rectOf(i).right() : position.x() < rectOf(i + 1).left()))
            return int(i);
    return -1;
}

void AdapterStrip::paintEvent(QPaintEvent*) {
    QPainter painter(this);
    const Colors& c = colorsOf(this);
    painter.setFont(uiFont(11));
    const QFontMetricsF metrics(painter.font());
    double top = 0;
    for (const Bar& bar : bars_) top = std::max(top, bar.p99);
    const double label = px(16);
    painter.setPen(c.faint);
    painter.drawText(QRectF(0, 0, width(), px(16)), Qt::AlignLeft | Qt::AlignVCenter,
                     fitFacts(metrics, caption(), width()));
    for (size_t i = 0; i < bars_.size() && top > 0; ++i) {
        const QRectF rect = rectOf(i);
        const bool chosen = context_.selection.adapter() == bars_[i].id;
        const double base = height() - label, room = base - rect.top() - px(2);
        painter.fillRect(QRectF(rect.left(), rect.top(), rect.width(), base - rect.top()), c.field);
        const double high = room * bars_[i].p99 / top;
        painter.fillRect(QRectF(rect.left(), base - high, rect.width(), high),
                         chosen ? c.accent : blend(c.field, c.ink, 0.35));
        painter.fillRect(QRectF(rect.left(), base - room * bars_[i].p50 / top - 1, rect.width(), 2), c.text);
        if (rect.width() < px(28)) continue;
        painter.setPen(chosen ? c.text : c.muted);
        const QString figure = msText(bars_[i].p99);
        const double name = metrics.horizontalAdvance(bars_[i].name), wide = figuresWidth(metrics, figure);
        const QRectF line(rect.left(), base, rect.width(), label);
        painter.drawText(line, Qt::AlignLeft | Qt::AlignVCenter,
                         metrics.elidedText(bars_[i].name, Qt::ElideRight, rect.width()));
        if (name + wide + px(16) > rect.width()) continue;
        painter.setPen(c.faint);
        drawFigures(painter, line.adjusted(0, 0, -px(6), 0), Qt::AlignRight | Qt::AlignVCenter, figure);
    }
    if (hasFocus()) {
        painter.setPen(QPen(c.accent, 1));
        painter.drawRect(rect().adjusted(0, 0, -1, -1));
    }
}

QString AdapterStrip::caption() const {
    const QString what = metric_ == Metric::ttft  ? tr("time to first token")
                         : metric_ == Metric::itl ? tr("inter-token latency")
                                                  : tr("end-to-end latency");
    double top = 0;
    for (const Bar& bar : bars_) top = std::max(top, bar.p99);
    return tr("p99 of the %1 by adapter, worst first · tick: p50 · full height %2").arg(what, msText(top));
}

void AdapterStrip::select(int index) {
    if (index < 0 || index >= int(bars_.size())) return context_.selection.setAdapter(std::nullopt);
    const AdapterId id = bars_[size_t(index)].id;
    context_.selection.setAdapter(context_.selection.adapter() == id ? std::nullopt : std::optional(id));
}

void AdapterStrip::mousePressEvent(QMouseEvent* event) {
    if (event->button() == Qt::LeftButton) select(indexAt(event->position()));
}

void AdapterStrip::keyPressEvent(QKeyEvent* event) {
    const int by = event->key() == Qt::Key_Right ? 1 : event->key() == Qt::Key_Left ? -1 : 0;
    if (event->key() == Qt::Key_Escape) return context_.selection.setAdapter(std::nullopt);
    if (by == 0 || bars_.empty()) return QWidget::keyPressEvent(event);
    int at = -1;
    for (size_t i = 0; i < bars_.size(); ++i)
        if (context_.selection.adapter() == bars_[i].id) at = int(i);
    context_.selection.setAdapter(bars_[size_t(std::clamp(at + by, 0, int(bars_.size()) - 1))].id);
}

bool AdapterStrip::event(QEvent* event) {
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    const int i = indexAt(help->pos());
    if (i >= 0) {
        const Bar& bar = bars_[size_t(i)];
        QString text = tr("%1\np50 %2 · p95 %3 · p99 %4\nn = %5 over the whole run")
                           .arg(bar.name, msText(bar.p50), msText(bar.p95), msText(bar.p99), count(bar.n));
        if (bar.n < 100) text += tr(": p99 not meaningful below 100");
        QToolTip::showText(help->globalPos(), plainTooltip(text), this);
    }
    return true;
}

QString AdapterStrip::csv() const {
    QString out = QStringLiteral("adapter,n,p50_ms,p95_ms,p99_ms\n");
    for (const Bar& bar : bars_)
        out += toQ(csv_cell(toStd(bar.name))) + QStringLiteral(",%1,%2,%3,%4\n")
                                                    .arg(bar.n)
                                                    .arg(bar.p50, 0, 'g', 9)
                                                    .arg(bar.p95, 0, 'g', 9)
                                                    .arg(bar.p99, 0, 'g', 9);
    return out;
}

}  // namespace spartan
