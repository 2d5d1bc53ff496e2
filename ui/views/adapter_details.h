// One adapter's row, opened: its structure in words, how much it changes which layer, and every warning.
#pragma once

#include "core/adapter/change.h"
#include "ui/library_model.h"

#include <QThreadPool>
#include <QWidget>

#include <memory>
#include <optional>
#include <vector>

class QLabel;
class QToolButton;

namespace spartan {

struct Colors;

// Layers across, what is changed in them down; what is of no layer, such as the embedding, is one wide cell. The
// darker, the larger the change. Each cell has a tooltip with its figure.
class ChangeMap : public QWidget {
    Q_OBJECT
public:
    explicit ChangeMap(QWidget* parent = nullptr);
    void set(std::vector<PartChange> changes);
    void setNotice(const QString& words);  // in place of the map: it is being measured, or why it is not
    const std::vector<PartChange>& changes() const { return changes_; }
    QString describe(const QPoint& position) const;  // of the cell there; empty beside the map
    QRectF cellRect(int layer, ChangedPart part) const;
    QSize sizeHint() const override;

protected:
    void paintEvent(QPaintEvent* event) override;
    bool event(QEvent* event) override;

private:
    double labelWidth() const;
    double rowHeight() const;
    double columnWidth() const;

    std::vector<PartChange> changes_;
    std::vector<ChangedPart> rows_;
    int first_layer_ = 0, layers_ = 0;
    double largest_ = 0;
    QString notice_;
};

class AdapterDetails : public QWidget {
    Q_OBJECT
public:
    explicit AdapterDetails(QWidget* parent = nullptr);
    ~AdapterDetails() override;  // ends a measurement that still runs

    // Shows `entry`, and measures its changes in a worker; the same adapter again changes nothing.
    void open(const LibraryEntry& entry);
    void close();
    std::optional<int> key() const { return key_; }
    ChangeMap& map() { return *map_; }
    QString words() const;
    void restyle(const Colors& colors);  // the parent's: a child learns of a new palette after it

private:
    void measure(const LibraryEntry& entry);
    void showSummary();

    QLabel *title_, *facts_, *summary_, *warnings_;
    QToolButton* close_button_;
    ChangeMap* map_;
    std::optional<int> key_;
    std::shared_ptr<const Adapter> adapter_;
    std::shared_ptr<Progress> progress_;
    QThreadPool pool_;
};

}  // namespace spartan
