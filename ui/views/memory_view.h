// Memory: the pool's pages by owner, and all memory over time as a stack. Moving the cursor in time rewinds the map.
#pragma once

#include "ui/panel.h"
#include "ui/run_model.h"
#include "ui/views/time_plot.h"

#include <array>

namespace spartan {

class PageGrid;

// Base weights, workspace, adapters, transient and KV as a stack in MB, with the capacity as a dashed line. On a GPU
// the stack holds all that its driver says is in use: what others took before, the pool's free pages, and what the
// driver itself took since.
class MemoryTimeline : public TimePlot {
    Q_OBJECT
public:
    explicit MemoryTimeline(const ViewContext& context, QWidget* parent = nullptr);
    void update();
    void restyle(const Colors& colors) override;

private:
    enum Layer { before, base, workspace, adapters, transient, kv, pool_free, driver, layers };
    void drawCapacity(double used);
    std::array<QCPGraph*, layers> stack_{};  // cumulative, the highest drawn first
    QCPItemStraightLine* capacity_;
    QCPItemText* capacity_text_;
};

class MemoryLegend : public QWidget {
    Q_OBJECT
public:
    struct Entry {
        QString name, figure;
        QColor color;
        bool hatched = false;
    };
    explicit MemoryLegend(QWidget* parent = nullptr) : QWidget(parent) {}
    void set(std::vector<Entry> entries);
    const std::vector<Entry>& entries() const { return entries_; }
    QSize sizeHint() const override;

protected:
    void paintEvent(QPaintEvent*) override;
    void resizeEvent(QResizeEvent*) override;

private:
    int columns() const;
    int rows() const;
    std::vector<Entry> entries_;
};

class MemoryView : public Panel {
    Q_OBJECT
public:
    explicit MemoryView(const ViewContext& context, QWidget* parent = nullptr);
    void refresh(const RunModel& model, const TimeController& time) override;
    PageGrid& grid() const { return *grid_; }
    const MemoryLegend& legend() const { return *legend_; }
    const FigureLabel& device() const { return *device_; }  // what the driver says, of a GPU
    MemoryTimeline& timeline() const { return *timeline_; }
    QString csv() const;  // page runs by owner at the cursor

protected:
    void styleChanged() override;

private:
    void showReadouts(const RunModel& model, const StepSummary* step);
    void showDevice(const RunHeader& header, const DeviceMemoryUse& device);

    ViewContext context_;
    PageGrid* grid_;
    MemoryLegend* legend_;
    FigureLabel *readout_, *free_, *device_;
    MemoryTimeline* timeline_;
    uint64_t seen_model_ = 0;
    int64_t seen_step_ = -2;
    bool fetch_ = true;
};

}  // namespace spartan
