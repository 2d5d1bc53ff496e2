// The row of headline figures above the latency plots: value, unit, sparkline over the visible range.
#pragma once

#include "ui/panel.h"

#include <QWidget>

#include <vector>

namespace spartan {

class TileRow : public QWidget {
    Q_OBJECT
public:
    explicit TileRow(const ViewContext& context, QWidget* parent = nullptr);
    void update();  // from the model, at the controller's range
    QSize sizeHint() const override;

protected:
    void paintEvent(QPaintEvent*) override;
    bool event(QEvent* event) override;

public:
    struct Tile {
        QString label, brief, value, unit, tooltip;  // brief: the label where there is no room for it
        QColor color;
        std::vector<double> spark;
        bool operator==(const Tile&) const = default;
    };
    const std::vector<Tile>& tiles() const { return tiles_; }

private:
    std::vector<Tile> build() const;
    QRectF rectOf(size_t index) const;
    void paintTile(QPainter& painter, const QRectF& rect, const Tile& tile) const;

    ViewContext context_;
    std::vector<Tile> tiles_;
};

}  // namespace spartan
