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

private:
    struct Tile {
        QString label, value, unit, tooltip;
        QColor color;
        std::vector<double> spark;
        bool operator==(const Tile&) const = default;
    };
    std::vector<Tile> build() const;
    QRectF rectOf(size_t index) const;
    void paintTile(QPainter& painter, const QRectF& rect, const Tile& tile) const;

    ViewContext context_;
    std::vector<Tile> tiles_;
};

}  // namespace spartan
