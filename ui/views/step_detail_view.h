// One step in full: time by phase with the bytes it moved, its rows, and why requests are waiting.
#pragma once

#include "ui/panel.h"
#include "ui/run_model.h"

#include <QAbstractTableModel>

class QCheckBox;
class QTableView;

namespace spartan {

// The rows of one step, as the batch had them.
class StepRowsModel : public QAbstractTableModel {
    Q_OBJECT
public:
    explicit StepRowsModel(QObject* parent = nullptr) : QAbstractTableModel(parent) {}
    void set(StepRecordPtr record, const RunModel& model);
    int rowCount(const QModelIndex& parent = {}) const override;
    int columnCount(const QModelIndex& parent = {}) const override;
    QVariant data(const QModelIndex& index, int role) const override;
    QVariant headerData(int section, Qt::Orientation orientation, int role) const override;

    enum Column { request, adapter, phase, tokens, context, token, finish, columns };

private:
    StepRecordPtr record_;
    std::vector<QString> names_;
};

// Horizontal bars with a label, a note and a figure.
class BarList : public QWidget {
    Q_OBJECT
public:
    struct Bar {
        QString label, note, figure, tooltip;
        double value = 0;
        QColor color;
    };
    explicit BarList(QWidget* parent = nullptr) : QWidget(parent) {}
    void set(std::vector<Bar> bars);
    const std::vector<Bar>& bars() const { return bars_; }
    QSize sizeHint() const override;
    QSize minimumSizeHint() const override { return sizeHint(); }

protected:
    void paintEvent(QPaintEvent*) override;
    bool event(QEvent* event) override;

private:
    std::vector<Bar> bars_;
};

class StepDetailView : public Panel {
    Q_OBJECT
public:
    explicit StepDetailView(const ViewContext& context, QWidget* parent = nullptr);
    void refresh(const RunModel& model, const TimeController& time) override;
    const BarList& phases() const { return *phases_; }
    const BarList& waiting() const { return *waiting_; }
    const StepRowsModel& rows() const { return *rows_; }
    QCheckBox& phaseSwitch() const { return *phase_switch_; }

protected:
    void styleChanged() override;

private:
    void showPhases(const StepSummary& step);
    void showWholeStep(const StepSummary& step, std::vector<BarList::Bar>& bars) const;
    void showWaiting(const StepRecord& record, const StepSummary& step);

    ViewContext context_;
    BarList *phases_, *waiting_;
    FigureLabel* waiting_title_;
    QCheckBox* phase_switch_;
    StepRowsModel* rows_;
    QTableView* table_;
    int64_t shown_step_ = -1;
    uint64_t shown_model_ = 0;
};

}  // namespace spartan
