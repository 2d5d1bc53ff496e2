#include "ui/views/tiles.h"

#include "ui/run_model.h"
#include "ui/text.h"
#include "ui/time_controller.h"
#include "ui/views/metric_plot.h"

#include <QFontMetricsF>
#include <QHelpEvent>
#include <QPainter>
#include <QPainterPath>
#include <QToolTip>

#include <algorithm>

namespace spartan {

namespace {
constexpr size_t kSparkPoints = 40;
}

TileRow::TileRow(const ViewContext& context, QWidget* parent) : QWidget(parent), context_(context) {
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("Headline figures"));
}

QSize TileRow::sizeHint() const { return {px(600), px(70)}; }

std::vector<TileRow::Tile> TileRow::build() const {
    const RunModel& model = context_.model;
    const TimeController& time = context_.time;
    const Colors& c = colorsOf(this);
    const int64_t t0 = time.rangeStartUs(), t1 = time.rangeEndUs();
    std::vector<Tile> tiles;

    const auto metricTile = [&](Metric metric, const QString& label, const QString& brief, const QColor& color,
                                bool both) {
        const QuantilePoint all = model.overall(metric, t0, t1);
        Tile tile{label, brief, QStringLiteral("–"), {}, {}, color, {}};
        tile.tooltip = definitionOf(metric);
        if (!all.exact) tile.tooltip += tr(" Of so long a run the older values are kept within 0.5 %.");
        tile.tooltip += tr("\nn = %1 in the visible range").arg(count(all.n));
        if (all.n > 0 && all.n < 100) tile.tooltip += tr(": p99 is not meaningful below 100");
        tile.tooltip += tr("\nThe small line is p50 over time.");
        if (all.n > 0) {
            const QString p99 = msFigure(all.p99, &tile.unit);
            const double scale = tile.unit == QLatin1String("s") ? 1e-3 : 1;
            const auto p50 = QLocale().toString(all.p50 * scale, 'f', scale < 1 || all.p50 < 10 ? 2 : 0);
            tile.value = both ? p50 + QStringLiteral(" / ") + p99 : p99;
        }
        for (const QuantilePoint& p : model.quantiles(metric, t0, t1, kSparkPoints)) tile.spark.push_back(p.p50);
        tiles.push_back(std::move(tile));
    };
    metricTile(Metric::ttft, tr("TTFT p50 / p99"), tr("TTFT"), c.prefill, true);
    metricTile(Metric::itl, tr("inter-token p50 / p99"), tr("inter-token"), c.decode, true);
    metricTile(Metric::e2e, tr("end-to-end p99"), tr("e2e p99"), c.ink, false);

    Tile output{tr("output"), tr("output"), QStringLiteral("–"), tr("tok/s"), {}, c.decode, {}};
    Tile running{tr("running / waiting"), tr("run / wait"), QStringLiteral("–"), {}, {}, c.ink, {}};
    Tile adapters{tr("adapters in batch"), tr("in batch"), QStringLiteral("–"), {}, {}, c.prefill, {}};
    output.tooltip = tr("Generated tokens a second over the visible range.");
    running.tooltip = tr("Sequences in the batch and requests queued after the step under the cursor.");
    adapters.tooltip = tr("Distinct adapters in the batch of the step under the cursor, of all adapters known.");
    int64_t tokens = 0;
    double seconds = 0;
    for (const StepBin& bin : model.stepBins(t0, t1, kSparkPoints)) {
        output.spark.push_back(bin.generatedPerSecond());
        running.spark.push_back(bin.running_max);
        adapters.spark.push_back(bin.rows_max);
        tokens += bin.emitted_tokens;
        seconds += bin.seconds();
    }
    if (seconds > 0) output.value = rateText(double(tokens) / seconds);
    if (const StepSummary* step = model.summary(time.cursorStep())) {
        running.value = count(step->running) + QStringLiteral(" / ") + count(step->waiting);
        adapters.value = count(step->adapters);
        adapters.unit = tr("of %1").arg(model.header().adapters.size());
    }
    adapters.spark.clear();
    for (Tile* tile : {&output, &running, &adapters}) tiles.push_back(std::move(*tile));
    return tiles;
}

void TileRow::update() {
    std::vector<Tile> tiles = build();
    if (tiles == tiles_) return;
    tiles_ = std::move(tiles);
    QWidget::update();
}

QRectF TileRow::rectOf(size_t index) const {
    const double gap = px(6), width = (this->width() - gap * double(tiles_.size() - 1)) / double(tiles_.size());
    return {double(index) * (width + gap), 0, width, double(height())};
}

void TileRow::paintEvent(QPaintEvent*) {
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    for (size_t i = 0; i < tiles_.size(); ++i) paintTile(painter, rectOf(i), tiles_[i]);
}

void TileRow::paintTile(QPainter& painter, const QRectF& rect, const Tile& tile) const {
    const Colors& c = colorsOf(this);
    painter.setPen(QPen(c.border, 1));
    painter.setBrush(c.field);
    painter.drawRoundedRect(rect.adjusted(0.5, 0.5, -0.5, -0.5), px(3), px(3));

    const QRectF inner = rect.adjusted(px(9), px(7), -px(6), -px(7));
    painter.setFont(uiFont(11));
    painter.setPen(c.muted);
    const QFontMetricsF label_metrics(painter.font());
    const bool fits = label_metrics.horizontalAdvance(tile.label) <= inner.width();
    painter.drawText(inner, Qt::AlignLeft | Qt::AlignTop,
                     label_metrics.elidedText(fits ? tile.label : tile.brief, Qt::ElideRight, inner.width()));

    const double value_top = inner.top() + px(17);
    QFont font = uiFont(17, 600);
    QFontMetricsF metrics(font);
    const QFontMetricsF unit_metrics(uiFont(11));
    while (font.pixelSize() > px(9) &&
           figuresWidth(metrics, tile.value) + px(4) + unit_metrics.horizontalAdvance(tile.unit) > inner.width()) {
        font.setPixelSize(font.pixelSize() - 1);
        metrics = QFontMetricsF(font);
    }
    painter.setFont(font);
    painter.setPen(c.text);
    const QRectF line(inner.left(), value_top, inner.width(), px(22));
    drawFigures(painter, line, Qt::AlignLeft | Qt::AlignVCenter, tile.value);
    const double after = figuresWidth(metrics, tile.value) + px(4);
    painter.setFont(uiFont(11));
    painter.setPen(c.muted);
    painter.drawText(line.adjusted(after, px(2), 0, px(2)), Qt::AlignLeft | Qt::AlignVCenter, tile.unit);

    if (tile.spark.size() < 2) return;
    const double top = *std::max_element(tile.spark.begin(), tile.spark.end());
    if (!(top > 0)) return;
    const QRectF area(inner.left(), inner.bottom() - px(13), inner.width(), px(12));
    QPolygonF points;
    for (size_t i = 0; i < tile.spark.size(); ++i)
        points << QPointF(area.left() + area.width() * double(i) / double(tile.spark.size() - 1),
                          area.bottom() - area.height() * tile.spark[i] / top);
    painter.setPen(QPen(blend(c.field, tile.color, 0.7), 1));
    painter.drawPolyline(points);
}

bool TileRow::event(QEvent* event) {
    if (event->type() == QEvent::ToolTip) {
        const auto* help = static_cast<QHelpEvent*>(event);
        for (size_t i = 0; i < tiles_.size(); ++i)
            if (rectOf(i).contains(help->pos()))
                QToolTip::showText(help->globalPos(), plainTooltip(tiles_[i].tooltip), this);
        return true;
    }
    return QWidget::event(event);
}

}  // namespace spartan
