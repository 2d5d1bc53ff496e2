// One panel of the window: a header line (title left, facts right), a body, an empty state, and exports by right-click.
//
// To write a view, derive from Panel, build the widgets in the constructor and hand them to setBody(), fill them in
// refresh(). refresh() comes at most once per 33 ms tick, only while the view is visible and something changed, and
// must take a few milliseconds at most. Recolour in styleChanged() (called once at first, then on every theme or scale
// change).
#pragma once

#include "core/base/ids.h"
#include "ui/plot_export.h"
#include "ui/theme.h"

#include <QString>
#include <QWidget>

#include <functional>
#include <optional>
#include <vector>

class QHBoxLayout;
class QLabel;
class QMenu;
class QStackedLayout;
class QVBoxLayout;

namespace spartan {

class RunModel;
class TimeController;

// What is highlighted in all views at once.
class Selection : public QObject {
    Q_OBJECT
public:
    explicit Selection(QObject* parent = nullptr) : QObject(parent) {}
    std::optional<AdapterId> adapter() const { return adapter_; }
    void setAdapter(std::optional<AdapterId> adapter) {
        if (adapter == adapter_) return;
        adapter_ = adapter;
        emit changed();
    }

signals:
    void changed();

private:
    std::optional<AdapterId> adapter_;
};

// What every view is given; all of it outlives the views.
struct ViewContext {
    RunModel& model;  // views only read it (they need it for TimeController's calls)
    TimeController& time;
    Selection& selection;
    std::function<void()> runDemo;         // for empty states: "Run demo workload"
    std::function<void(bool)> timePhases;  // a GPU's phases, from the next step on
    std::function<bool()> phasesTimed;     // whether that was asked for
};

// An empty pane that says what would be here and how to get it.
class EmptyState : public QWidget {
    Q_OBJECT
public:
    explicit EmptyState(QWidget* parent = nullptr);
    void set(const QString& headline, const QString& hint);
    void addAction(const QString& text, std::function<void()> action);
    void clearActions();

protected:
    void paintEvent(QPaintEvent*) override;
    void changeEvent(QEvent* event) override;
    void resizeEvent(QResizeEvent*) override;

private:
    void restyle();
    QLabel* headline_;
    QLabel* hint_;
    QHBoxLayout* actions_;
};

class Panel : public QWidget {
    Q_OBJECT
public:
    Panel(const QString& id, const QString& title, QWidget* parent = nullptr);

    const QString& id() const { return id_; }  // "latency": file name of a screenshot, name in --view
    const QString& title() const { return title_; }
    virtual void refresh(const RunModel& model, const TimeController& time) = 0;
    // True once after something other than the run or the time changed (theme, size, selection): refresh is due.
    bool takeDirty() { return std::exchange(dirty_, false); }
    void markDirty() { dirty_ = true; }

    int headerHeight() const;
    const std::vector<ExportTarget>& exports() const { return exports_; }

protected:
    void setTitle(const QString& title);
    void setFacts(const QString& facts, const QString& tooltip = {});  // right side of the header, grey, plain text
    void setBody(QWidget* body);
    QHBoxLayout* headerControls() { return controls_; }  // small widgets at the header's right end
    EmptyState* emptyState();
    void showEmpty(bool empty);
    bool showingEmpty() const;
    void addExport(ExportTarget target);  // a right-click on target.widget (and the header) offers it
    virtual void addMenuActions(QMenu&) {}
    virtual void styleChanged() {}

    void paintEvent(QPaintEvent*) override;
    void changeEvent(QEvent* event) override;
    void showEvent(QShowEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    void contextMenuEvent(QContextMenuEvent* event) override;
    bool eventFilter(QObject* object, QEvent* event) override;

private:
    void restyle();
    void keepTitleClear();
    void showMenu(const QPoint& global, const QWidget* over);

    QString id_, title_, facts_;
    bool dirty_ = true, styled_ = false;
    QWidget* header_;
    QHBoxLayout* controls_;
    QVBoxLayout* outer_;
    QStackedLayout* stack_;
    EmptyState* empty_ = nullptr;
    std::vector<ExportTarget> exports_;
};

// A line of text and figures that change often: fixed-width figures, facts that do not fit left out (the tooltip has
// them), plain text always.
class FigureLabel : public QWidget {
    Q_OBJECT
public:
    explicit FigureLabel(QWidget* parent = nullptr) : QWidget(parent) {}
    void setText(const QString& text);
    const QString& text() const { return text_; }
    void setAlignment(Qt::Alignment alignment) { alignment_ = alignment; }
    void setMuted(bool muted) { muted_ = muted; }
    void setSize(double size, int weight = 400);  // of the font at 100 %
    QSize sizeHint() const override;
    QSize minimumSizeHint() const override;

protected:
    void paintEvent(QPaintEvent*) override;
    bool event(QEvent* event) override;

private:
    QString text_;
    Qt::Alignment alignment_ = Qt::AlignLeft | Qt::AlignVCenter;
    bool muted_ = true;
    double size_ = 12;
    int weight_ = 400;
};

}  // namespace spartan
