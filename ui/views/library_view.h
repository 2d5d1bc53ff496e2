// The library: base model and adapters as a table, with filter, residency, drop target and the reason of a refusal.
#pragma once

#include "ui/library_model.h"
#include "ui/panel.h"
#include "ui/session.h"

#include <vector>

class QLineEdit;
class QPushButton;
class QTableView;

namespace spartan {

class AdapterDetails;

class LibraryView : public Panel {
    Q_OBJECT
public:
    LibraryView(Session& session, Selection& selection, QWidget* parent = nullptr);

    void refresh(const RunModel& model, const TimeController& time) override;
    QTableView& table() { return *table_; }
    QLineEdit& filterBox() { return *filter_box_; }
    std::vector<int> selectedKeys() const;
    AdapterDetails& details() { return *details_; }
    void openDetails(int key);  // of an adapter

signals:
    void browseRequested();
    void browseModelRequested();
    void generateRequested();
    void demoRequested();
    void playgroundRequested(const std::vector<int>& keys);

protected:
    void styleChanged() override;
    void resizeEvent(QResizeEvent* event) override;

private:
    class DropZone;
    class Reason;

    void showRowMenu(const QPoint& at);
    void fitColumns();
    void updateFacts();
    void updateReason();
    void updateDetails();
    void removeSelected();

    Session& session_;
    Selection& selection_;
    LibraryFilter* filter_;
    QLineEdit* filter_box_;
    QTableView* table_;
    DropZone* zone_;
    Reason* reason_;
    AdapterDetails* details_;
};

}  // namespace spartan
