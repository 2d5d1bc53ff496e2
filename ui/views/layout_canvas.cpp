#include "ui/views/layout_canvas.h"

#include "ui/text.h"

#include <QFontMetricsF>
#include <QHelpEvent>
#include <QMouseEvent>
#include <QPaintEvent>
#include <QPainter>
#include <QPainterPath>
#include <QToolTip>

#include <algorithm>
#include <cmath>

namespace spartan {

namespace {
constexpr double kGap = 14, kTop = 26;
}

LayoutCanvas::LayoutCanvas(QWidget* parent) : QWidget(parent) {
    setAccessibleName(tr("Block layout of the batch's adapters"));
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
}

void LayoutCanvas::set(std::vector<LayoutRow> rows, LayoutSettings settings) {
    if (rows == rows_ && settings == settings_) return;
    if (!(settings == settings_)) layouts_.clear();
    if (!(settings == settings_)) folded_.clear();
    unions_.clear();
    rows_ = std::move(rows);
    settings_ = settings;
    factors_ = 1;
    for (const LayoutRow& row : rows_)
        if (drawn(row)) factors_ = std::max(factors_, row.num_factors);
    setMinimumWidth(px(20 + 104 + (38 + kGap) * double(factors_ + 1)));
    updateGeometry();
    resize(width(), sizeHint().height());
    update();
}

void LayoutCanvas::setCaption(const QString& caption) {
    caption_ = caption;
    update();
}

void LayoutCanvas::setNotice(const QString& words) {
    notice_ = words;
    update();
}

void LayoutCanvas::setSelected(std::optional<AdapterId> adapter) {
    selected_ = adapter;
    update();
}

const BlockLayout& LayoutCanvas::layoutOf(const LayoutRow& row, int64_t factor) {
    const Key key{row.in, row.block_size, factor};
    const auto it = layouts_.find(key);
    if (it != layouts_.end()) return it->second;
    return layouts_[key] = factor_layout(row.in, row.block_size, factor, settings_.cell, settings_.convention);
}

const BlockLayout& LayoutCanvas::foldedOf(const LayoutRow& row) {
    const std::pair key{row.in, row.group};
    const auto it = folded_.find(key);
    if (it != folded_.end()) return it->second;
    return folded_[key] = folded_layout(row.in, row.group, settings_.cell);
}

const BlockLayout& LayoutCanvas::unionOf(int64_t factor) {
    const auto it = unions_.find(factor);
    if (it != unions_.end()) return it->second;
    std::vector<BlockLayout> layouts;
    for (const LayoutRow& row : rows_)
        if (drawn(row) && factor < row.num_factors) layouts.push_back(layoutOf(row, factor));
    return unions_[factor] = layouts.empty() ? BlockLayout{} : union_layout(layouts);
}

// As large as the columns allow, between readable and page-filling.
double LayoutCanvas::thumbnail() const {
    const double columns = double(factors_) + 1;
    return std::clamp((width() - px(20) - textWidth() - px(kGap) * (columns - 1)) / columns, double(px(38)),
                      double(px(176)));
}

double LayoutCanvas::textWidth() const { return px(width() < px(360) ? 104 : width() < px(560) ? 116 : 164); }

double LayoutCanvas::rowHeight() const { return std::max(thumbnail(), double(px(84))) + px(kGap); }
double LayoutCanvas::columnX(int64_t column) const {
    return px(12) + textWidth() + double(column) * (thumbnail() + px(kGap));
}

QRectF LayoutCanvas::cellRect(size_t row, int64_t column) const {
    return {columnX(column), px(kTop) + double(row) * rowHeight(), thumbnail(), thumbnail()};
}

QSize LayoutCanvas::sizeHint() const {
    return {px(360), int(std::ceil(px(kTop) + double(rows_.size() + 1) * rowHeight() + px(4)))};
}

void LayoutCanvas::drawLayout(QPainter& painter, const QRectF& rect, const BlockLayout& layout, const QColor& color,
                              int64_t border) {
    const Colors& c = colorsOf(this);
    painter.fillRect(rect, c.field);
    const auto n = int(layout.tiles);
    if (n > 0) {
        QImage image(n, n, QImage::Format_RGB32);
        for (int y = 0; y < n; ++y) {
            auto* line = reinterpret_cast<QRgb*>(image.scanLine(y));
            for (int x = 0; x < n; ++x) {
                const float useful = layout.useful[size_t(y) * size_t(n) + size_t(x)];
                line[x] = (useful > 0 ? blend(c.field, color, 0.4 + 0.6 * double(useful)) : c.field).rgb();
            }
        }
        painter.drawImage(rect, image);
        // Tile lines while they can be told apart; then the adapter's own blocks, so that one block visibly splits.
        const double pitch = rect.width() / n;
        const auto lines = [&](double step, const QColor& pen) {
            painter.setPen(QPen(pen, 1));
            for (double at = step; at < rect.width() - 0.5; at += step) {
                painter.drawLine(QPointF(rect.left() + at, rect.top()), QPointF(rect.left() + at, rect.bottom()));
                painter.drawLine(QPointF(rect.left(), rect.top() + at), QPointF(rect.right(), rect.top() + at));
            }
        };
        if (pitch >= 4) lines(pitch, c.hairline);
        const double block = rect.width() * double(border) / double(std::max<int64_t>(1, layout.dim));
        if (border > settings_.cell && block >= 8) lines(block, blend(c.field, c.ink, 0.2));
    }
    painter.setPen(QPen(c.border, 1));
    painter.setBrush(Qt::NoBrush);
    painter.drawRect(rect.adjusted(-0.5, -0.5, 0.5, 0.5));
}

// A [rank, in] as a wide strip over B [out, rank] as a tall one, to the scale of the thumbnail.
void LayoutCanvas::drawLowRank(QPainter& painter, const QRectF& rect, const LayoutRow& row) {
    const Colors& c = colorsOf(this);
    const double scale = rect.width() / double(std::max<int64_t>({row.in, row.out, 1}));
    const double thick = std::max(2.0, double(row.rank) * scale);
    painter.fillRect(rect, c.field);
    painter.fillRect(QRectF(rect.left(), rect.top(), double(row.in) * scale, thick), c.prefill);
    painter.fillRect(QRectF(rect.left(), rect.top() + thick + px(4), thick,
                            std::min(double(row.out) * scale, rect.height() - thick - px(4))),
                     blend(c.field, c.prefill, 0.65));
    if (rect.width() >= px(110)) {
        painter.setPen(c.muted);
        painter.setFont(uiFont(10.5));
        painter.drawText(rect.adjusted(thick + px(8), thick + px(6), -px(4), -px(4)),
                         Qt::AlignLeft | Qt::AlignTop | Qt::TextWordWrap, tr("no blocks:\ntwo thin products"));
    }
    painter.setPen(QPen(c.border, 1));
    painter.drawRect(rect.adjusted(-0.5, -0.5, 0.5, 0.5));
}

void LayoutCanvas::drawText(QPainter& painter, const QRectF& rect, const QString& title, const QStringList& lines,
                            bool selected) {
    const Colors& c = colorsOf(this);
    painter.setFont(uiFont(13, 600));
    painter.setPen(selected ? c.accent : c.text);
    painter.drawText(QRectF(rect.left(), rect.top(), rect.width(), px(18)), Qt::AlignLeft | Qt::AlignVCenter,
                     QFontMetricsF(painter.font()).elidedText(title, Qt::ElideRight, rect.width()));
    painter.setFont(uiFont(11));
    double y = rect.top() + px(20);
    for (const QString& line : lines) {
        painter.setPen(line.startsWith(QStringLiteral("✗")) ? c.error : c.muted);
        painter.drawText(QRectF(rect.left(), y, rect.width(), px(15)), Qt::AlignLeft | Qt::AlignVCenter,
                         QFontMetricsF(painter.font()).elidedText(line, Qt::ElideRight, rect.width()));
        y += px(15);
    }
}

void LayoutCanvas::drawUnion(QPainter& painter) {
    const Colors& c = colorsOf(this);
    int64_t with_blocks = 0;
    for (const LayoutRow& row : rows_) with_blocks += drawn(row) ? 1 : 0;
    QStringList lines{with_blocks > 0 ? tr("%1 with blocks").arg(count(with_blocks)) : tr("none has blocks")};
    if (with_blocks > 0) lines << tr("common block %1").arg(settings_.cell);
    double density = 0, useful = 0;
    int64_t tiles = 0, drawn_factors = 0;
    for (int64_t f = 0; f < factors_; ++f) {
        const BlockLayout& layout = unionOf(f);
        if (layout.tiles == 0) continue;
        drawLayout(painter, cellRect(0, f), layout, blend(c.panel, c.ink, 0.75), 0);
        density += layout.density();
        useful += layout.useful_share();
        tiles += layout.nonzero_tiles();
        ++drawn_factors;
    }
    if (drawn_factors > 0) {
        lines << tr("%1 tiles, %2").arg(count(tiles), percentText(density / double(drawn_factors)))
              << tr("%1 useful").arg(percentText(useful / double(drawn_factors)));
    }
    if (with_blocks > 0) {
        const QRectF folded = cellRect(0, factors_);
        painter.fillRect(folded, c.field);
        painter.setPen(QPen(c.border, 1));
        painter.drawRect(folded.adjusted(-0.5, -0.5, 0.5, 0.5));
        painter.setPen(c.faint);
        painter.setFont(uiFont(11));
        painter.drawText(
            folded, Qt::AlignCenter | Qt::TextWordWrap,
            settings_.strategy == AdapterStrategy::common_block ? tr("does not run") : tr("no union needed"));
    }
    drawText(painter, QRectF(px(12), cellRect(0, 0).top(), textWidth() - px(8), rowHeight()), tr("union"), lines,
             false);
}

void LayoutCanvas::drawRow(QPainter& painter, size_t index) {
    const Colors& c = colorsOf(this);
    const LayoutRow& row = rows_[index];
    // Short words: they stand in a narrow column.
    QStringList lines{row.geometry};
    if (!row.problem.isEmpty()) {
        lines << QStringLiteral("✗ ") + row.problem;
    } else if (row.block_size > 0) {
        const int64_t blocks = row.in / row.block_size;
        // Values, not bytes: the file's factors against what the fold keeps.
        lines << tr("%1 blocks a factor").arg(count(blocks))
              << tr("%1 → %2").arg(count(row.num_factors * row.in * row.block_size), count(row.in * row.group))
              << tr("|RᵀR − I| = %1").arg(row.orthogonality_error, 0, 'g', 2);
        for (int64_t f = 0; f < row.num_factors; ++f)
            drawLayout(painter, cellRect(index + 1, f), layoutOf(row, f), c.prefill, row.block_size);
        drawLayout(painter, cellRect(index + 1, factors_), foldedOf(row), c.decode, row.group);
    } else if (row.rank > 0) {
        lines << tr("A %1×%2").arg(row.rank).arg(row.in) << tr("B %1×%2").arg(row.out).arg(row.rank)
              << tr("%1 values").arg(count(row.rank * (row.in + row.out)));
        drawLowRank(painter, cellRect(index + 1, 0), row);
    } else {
        lines << tr("leaves this as it is");
    }
    drawText(painter, QRectF(px(12), cellRect(index + 1, 0).top(), textWidth() - px(8), rowHeight()), row.name, lines,
             selected_ == row.id);
}

QString LayoutCanvas::columnTitle(int64_t column) const {
    const bool factors_run = settings_.strategy == AdapterStrategy::common_block, wide = thumbnail() >= px(90);
    if (column < factors_)
        return factors_run && wide ? tr("factor %1, as it runs").arg(column) : tr("factor %1").arg(column);
    return wide ? foldedWords() : tr("folded");
}

QString LayoutCanvas::foldedWords() const {
    switch (settings_.strategy) {
        case AdapterStrategy::folded:
            return tr("folded, as it runs");
        case AdapterStrategy::common_block:
            return tr("folded: does not run");
        case AdapterStrategy::sequential:
            return tr("folded, a pass each");
        case AdapterStrategy::merged:
            return tr("folded, in the weights");
    }
    return {};
}

void LayoutCanvas::paintEvent(QPaintEvent* event) {
    QPainter painter(this);
    const Colors& c = colorsOf(this);
    painter.fillRect(event->rect(), c.panel);
    if (rows_.empty()) {
        painter.setFont(uiFont(12));
        painter.setPen(c.muted);
        painter.drawText(QRectF(rect()).adjusted(px(20), px(20), -px(20), -px(20)),
                         Qt::AlignHCenter | Qt::AlignTop | Qt::TextWordWrap, notice_);
        return;
    }
    painter.setFont(uiFont(11));
    painter.setPen(c.muted);
    for (int64_t f = 0; f <= factors_; ++f)
        painter.drawText(QRectF(columnX(f), px(3), thumbnail() + px(kGap), px(20)), Qt::AlignLeft | Qt::AlignVCenter,
                         columnTitle(f));
    if (!caption_.isEmpty()) {
        painter.setPen(c.faint);
        painter.drawText(QRectF(px(12), px(3), textWidth() - px(8), px(20)), Qt::AlignLeft | Qt::AlignVCenter,
                         caption_);
    }
    if (event->rect().top() < cellRect(1, 0).top()) drawUnion(painter);
    for (size_t i = 0; i < rows_.size(); ++i) {
        const double top = cellRect(i + 1, 0).top();
        if (top + rowHeight() >= event->rect().top() && top <= event->rect().bottom()) drawRow(painter, i);
    }
}

void LayoutCanvas::resizeEvent(QResizeEvent* event) {
    QWidget::resizeEvent(event);
    const int wanted = sizeHint().height();
    if (height() != wanted && event->size().width() != event->oldSize().width()) {
        setMinimumHeight(wanted);
        updateGeometry();
    }
}

void LayoutCanvas::changeEvent(QEvent* event) {
    if (event->type() == QEvent::FontChange) {
        setMinimumHeight(sizeHint().height());
        updateGeometry();
    }
    QWidget::changeEvent(event);
}

void LayoutCanvas::mousePressEvent(QMouseEvent* event) {
    const auto row = int64_t(std::floor((event->position().y() - px(kTop)) / rowHeight())) - 1;
    if (row < 0 || row >= int64_t(rows_.size())) return emit chosen(std::nullopt);
    emit chosen(rows_[size_t(row)].id);
}

bool LayoutCanvas::event(QEvent* event) {
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    if (const QString words = describe(help->pos()); !words.isEmpty())
        QToolTip::showText(help->globalPos(), plainTooltip(words), this);
    return true;
}

QString LayoutCanvas::describe(const QPoint& at) {
    for (size_t r = 0; r <= rows_.size() && !rows_.empty(); ++r) {
        const LayoutRow* row = r > 0 ? &rows_[r - 1] : nullptr;
        if (at.x() < columnX(0) && at.y() >= cellRect(r, 0).top() && at.y() < cellRect(r, 0).top() + rowHeight())
            return row ? tr("%1 %2\nvalues: numbers in the file's factors → numbers that the folded rotation keeps\n"
                            "|RᵀR − I|: how far the rotation is from orthogonal, the largest over its blocks")
                             .arg(row->name, row->geometry)
                       : tr("All adapters under one common block size.\ntiles: those that any adapter uses\ndensity: "
                            "their share of all tiles\nuseful: the mean share of such a tile's entries that an adapter "
                            "uses");
        if (row && !drawn(*row)) continue;
        for (int64_t f = 0; f <= factors_; ++f) {
            const QRectF rect = cellRect(r, f);
            if (!rect.contains(at)) continue;
            if (f == factors_)
                return row ? tr("%1, %2\n%3 dense groups of %4 × %4, one product")
                                 .arg(row->name, foldedWords(), count(row->in / row->group), count(row->group))
                       : settings_.strategy == AdapterStrategy::common_block
                           ? tr("The step ran the factors, under the common block size.")
                           : tr("Each adapter runs in its own groups: no common layout is needed.");
            if (row && f >= row->num_factors) continue;
            const BlockLayout& layout = row ? layoutOf(*row, f) : unionOf(f);
            if (layout.tiles == 0) continue;
            const auto tile = [&](double offset, double side) {
                return std::clamp<int64_t>(int64_t(offset / side * double(layout.tiles)), 0, layout.tiles - 1);
            };
            const int64_t x = tile(at.x() - rect.left(), rect.width()), y = tile(at.y() - rect.top(), rect.height());
            return tr("%1, factor %2\ntile row %3, column %4 of %5: %6 of its entries used\n%7 non-zero tiles, density "
                      "%8, useful %9")
                .arg(row ? row->name : tr("union"))
                .arg(f)
                .arg(y)
                .arg(x)
                .arg(layout.tiles)
                .arg(percentText(double(layout.useful[size_t(y * layout.tiles + x)])))
                .arg(count(layout.nonzero_tiles()))
                .arg(percentText(layout.density()))
                .arg(percentText(layout.useful_share()));
        }
    }
    return {};
}

QString LayoutCanvas::csv() {
    QString out = QStringLiteral("adapter,geometry,factor,tiles_per_side,nonzero_tiles,density,useful_share\n");
    const auto line = [&](const QString& name, const QString& geometry, int64_t factor, const BlockLayout& l) {
        out += toQ(csv_cell(toStd(name))) + QLatin1Char(',') + toQ(csv_cell(toStd(geometry))) +
               QStringLiteral(",%1,%2,%3,%4,%5\n")
                   .arg(factor)
                   .arg(l.tiles)
                   .arg(l.nonzero_tiles())
                   .arg(l.density(), 0, 'g', 9)
                   .arg(l.useful_share(), 0, 'g', 9);
    };
    for (int64_t f = 0; f < factors_; ++f)
        if (unionOf(f).tiles > 0) line(tr("union"), {}, f, unionOf(f));
    for (const LayoutRow& row : rows_)
        for (int64_t f = 0; drawn(row) && f < row.num_factors; ++f) line(row.name, row.geometry, f, layoutOf(row, f));
    return out;
}

}  // namespace spartan
