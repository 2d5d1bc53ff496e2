// The unified pool drawn page by page in address order: fill by owner, a letter where cells are large enough, several
// pages to a cell where there are more pages than room.
#pragma once

#include "ui/page_map.h"
#include "ui/panel.h"

#include <QWidget>

namespace spartan {

class PageGrid : public QWidget {
    Q_OBJECT
public:
    explicit PageGrid(const ViewContext& context, QWidget* parent = nullptr);
    // `pages` is read at once and not kept.
    void set(const PageMap& pages);
    QSize sizeHint() const override;

    struct Cell {
        PageOwner owner = PageOwner::free;  // the owner of most of its used pages
        int32_t first = 0, pages = 0, used = 0;
        uint64_t id = 0;  // when one owner has all of its used pages
        bool one_owner = true;
        bool operator==(const Cell&) const = default;
    };
    const std::vector<Cell>& cells() const { return cells_; }
    QString describe(const Cell& cell) const;

protected:
    void paintEvent(QPaintEvent*) override;
    void resizeEvent(QResizeEvent*) override;
    void mousePressEvent(QMouseEvent* event) override;
    bool event(QEvent* event) override;

private:
    void layOut();
    int cellAt(const QPointF& position) const;

    ViewContext context_;
    PageMap pages_;
    std::vector<Cell> cells_;
    int columns_ = 1;
    double pitch_ = 8;
};

}  // namespace spartan
