#include "ui/views/page_grid.h"

#include "ui/run_model.h"
#include "ui/text.h"

#include <QHelpEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QToolTip>

#include <algorithm>
#include <array>
#include <cmath>

namespace spartan {

namespace {

QColor colorOf(PageOwner owner, const Colors& c) {
    switch (owner) {
        case PageOwner::kv:
            return c.decode;
        case PageOwner::adapter:
            return c.prefill;
        case PageOwner::transient:
            return c.transfer;
        case PageOwner::free:
            break;
    }
    return c.field;
}

const char* letterOf(PageOwner owner) {
    return owner == PageOwner::kv ? "K" : owner == PageOwner::adapter ? "A" : owner == PageOwner::transient ? "T" : "";
}

}  // namespace

PageGrid::PageGrid(const ViewContext& context, QWidget* parent) : QWidget(parent), context_(context) {
    setMinimumSize(80, 60);
    setAccessibleName(tr("Page map of the pool"));
    connect(&context_.selection, &Selection::changed, this, [this] { update(); });
}

QSize PageGrid::sizeHint() const { return {px(360), px(280)}; }

void PageGrid::set(const PageMap& pages) {
    pages_ = pages;
    layOut();
    update();
}

void PageGrid::resizeEvent(QResizeEvent*) { layOut(); }

// The largest square cells that show every page; below the smallest size that can be told apart, several pages a cell.
void PageGrid::layOut() {
    cells_.clear();
    const int n = pages_.size();
    if (n == 0 || width() < 4 || height() < 4) return;
    const double smallest = px(5), largest = px(16);
    pitch_ = std::clamp(std::floor(std::sqrt(double(width()) * height() / n)), smallest, largest);
    const auto room = [&] { return int64_t(width() / pitch_) * int64_t(height() / pitch_); };
    while (pitch_ > smallest && room() < n) pitch_ -= 1;
    columns_ = std::max(1, int(width() / pitch_));
    const int64_t cells = std::max<int64_t>(1, std::min<int64_t>(n, room()));
    const auto per_cell = int32_t((n + cells - 1) / cells);

    // Rounding up leaves cells over: those that remain grow into the room.
    const int64_t needed = (n + per_cell - 1) / per_cell;
    while (pitch_ < largest && int64_t(width() / (pitch_ + 1)) * int64_t(height() / (pitch_ + 1)) >= needed)
        pitch_ += 1;
    columns_ = std::max(1, int(width() / pitch_));

    const auto& all = pages_.cells();
    for (int32_t first = 0; first < n; first += per_cell) {
        Cell cell;
        cell.first = first;
        cell.pages = std::min(per_cell, n - first);
        std::array<int32_t, 4> counts{};
        bool any = false;
        for (int32_t i = first; i < first + cell.pages; ++i) {
            const PageCell& page = all[size_t(i)];
            ++counts[size_t(page.owner)];
            if (page.owner == PageOwner::free) continue;
            if (any && page.id != cell.id) cell.one_owner = false;
            cell.id = page.id;
            any = true;
        }
        cell.used = cell.pages - counts[size_t(PageOwner::free)];
        for (const PageOwner owner : {PageOwner::kv, PageOwner::adapter, PageOwner::transient})
            if (counts[size_t(owner)] > (cell.owner == PageOwner::free ? 0 : counts[size_t(cell.owner)]))
                cell.owner = owner;
        cells_.push_back(cell);
    }
}

void PageGrid::paintEvent(QPaintEvent*) {
    QPainter painter(this);
    const Colors& c = colorsOf(this);
    const double side = pitch_ > 3 ? pitch_ - 1 : pitch_;
    const bool letters = pitch_ >= px(14);
    painter.setFont(uiFont(9));
    const auto selected = context_.selection.adapter();
    for (size_t i = 0; i < cells_.size(); ++i) {
        const Cell& cell = cells_[i];
        const QRectF rect(double(int(i) % columns_) * pitch_, std::floor(double(i) / columns_) * pitch_, side, side);
        const double filled = double(cell.used) / cell.pages;
        QColor color =
            cell.owner == PageOwner::free ? c.field : blend(c.field, colorOf(cell.owner, c), 0.35 + 0.65 * filled);
        const bool mine =
            selected && cell.owner == PageOwner::adapter && cell.one_owner && cell.id == uint64_t(*selected);
        painter.fillRect(rect, mine ? c.text : color);
        if (letters && cell.owner != PageOwner::free) {
            painter.setPen(c.panel);
            painter.drawText(rect, Qt::AlignCenter, QLatin1String(letterOf(cell.owner)));
        }
    }
}

int PageGrid::cellAt(const QPointF& position) const {
    const int column = int(position.x() / pitch_), row = int(position.y() / pitch_);
    if (column < 0 || column >= columns_ || row < 0) return -1;
    const int64_t i = int64_t(row) * columns_ + column;
    return i < int64_t(cells_.size()) ? int(i) : -1;
}

QString PageGrid::describe(const Cell& cell) const {
    const RunModel& model = context_.model;
    QString text = cell.pages == 1 ? tr("page %1").arg(count(cell.first))
                                   : tr("pages %1 to %2, %3 used")
                                         .arg(count(cell.first), count(cell.first + cell.pages - 1), count(cell.used));
    text += QLatin1Char('\n');
    const auto owner = [&]() -> QString {
        switch (cell.owner) {
            case PageOwner::kv:
                return cell.one_owner ? tr("KV of request %1").arg(count(int64_t(cell.id)))
                                      : tr("KV of several requests");
            case PageOwner::adapter:
                return cell.one_owner ? tr("adapter %1").arg(oneLine(model.adapterName(AdapterId(cell.id)), 64))
                                      : tr("several adapters");
            case PageOwner::transient:
                return tr("transient");
            case PageOwner::free:
                return tr("free");
        }
        return {};
    };
    text += owner() + QStringLiteral(" · ") + bytesText(int64_t(cell.pages) * model.header().page_bytes);
    return text;
}

void PageGrid::mousePressEvent(QMouseEvent* event) {
    const int i = cellAt(event->position());
    if (i < 0) return;
    const Cell& cell = cells_[size_t(i)];
    if (cell.owner == PageOwner::adapter && cell.one_owner) context_.selection.setAdapter(AdapterId(cell.id));
}

bool PageGrid::event(QEvent* event) {
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    const int i = cellAt(help->pos());
    if (i >= 0) QToolTip::showText(help->globalPos(), plainTooltip(describe(cells_[size_t(i)])), this);
    return true;
}

}  // namespace spartan
