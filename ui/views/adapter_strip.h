// One column per adapter, worst p99 first: a bar to its p99 with a tick at its p50. Clicking one highlights it in every
// view. The order stays while the pointer is over the strip, so that nothing moves under it.
#pragma once

#include "ui/panel.h"
#include "ui/run_model.h"

#include <QWidget>

#include <vector>

namespace spartan {

class AdapterStrip : public QWidget {
    Q_OBJECT
public:
    explicit AdapterStrip(const ViewContext& context, QWidget* parent = nullptr);
    void setMetric(Metric metric);
    Metric metric() const { return metric_; }
    void update();
    QSize sizeHint() const override;
    QString csv() const;  // adapter,n,p50_ms,p95_ms,p99_ms

    struct Bar {
        AdapterId id{};
        QString name;
        int64_t n = 0;
        double p50 = 0, p95 = 0, p99 = 0;
        bool operator==(const Bar&) const = default;
    };
    const std::vector<Bar>& bars() const { return bars_; }

protected:
    void paintEvent(QPaintEvent*) override;
    void mousePressEvent(QMouseEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    bool event(QEvent* event) override;

private:
    QRectF rectOf(size_t index) const;
    int indexAt(const QPointF& position) const;
    QString caption() const;
    void select(int index);

    ViewContext context_;
    Metric metric_ = Metric::itl;
    std::vector<Bar> bars_;
};

}  // namespace spartan
