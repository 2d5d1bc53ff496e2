// One prompt through the base and up to six adapters, answered in parallel by one batch and streamed side by side.
#pragma once

#include "core/tokenizer/tokenizer.h"
#include "ui/panel.h"
#include "ui/session.h"

#include <QStringList>

#include <memory>
#include <optional>
#include <vector>

class QComboBox;
class QDoubleSpinBox;
class QHBoxLayout;
class QLabel;
class QLineEdit;
class QPlainTextEdit;
class QPushButton;
class QSpinBox;
class QTimer;

namespace spartan {

// Words of `text` that are not part of the longest common subsequence with `reference`: (start, length) in characters.
std::vector<std::pair<int, int>> changedWords(const QString& text, const QString& reference);

class PlaygroundView : public Panel {
    Q_OBJECT
public:
    static constexpr int kMaxAdapters = 6;

    PlaygroundView(Session& session, QWidget* parent = nullptr);

    void refresh(const RunModel& model, const TimeController& time) override;
    void setColumns(const std::vector<int>& keys);  // library keys of adapters; the base is always column 0
    QPlainTextEdit& prompt() { return *prompt_; }
    QString answer(int column) const;
    int columnCount() const { return int(columns_.size()); }
    bool generating() const;

public slots:
    void send();
    void stop();

signals:
    void message(const QString& text, bool isError);
    void finished();

protected:
    void styleChanged() override;

private:
    class Column;

    void rebuildColumns();
    void chooseDefaultColumns();
    void takeRecords(const std::vector<StepRecordPtr>& records);
    void submitAll();
    void updateControls();
    void updateDiff();
    void countPrompt();
    static Result<std::vector<Token>> encodePrompt(const Model& model, const std::string& system,
                                                   const std::string& prompt);

    Session& session_;
    QPlainTextEdit* prompt_;
    QLabel* facts_;
    QPushButton *send_, *stop_, *add_;
    QWidget* settings_;
    QPlainTextEdit* system_;
    QDoubleSpinBox *temperature_, *top_p_;
    QSpinBox *top_k_, *max_tokens_;
    QLineEdit *seed_, *stop_strings_;
    QComboBox* compare_;
    QHBoxLayout* row_;
    std::vector<Column*> columns_;
    QTimer* diff_timer_;
    QTimer* count_timer_;
    QThreadPool pool_;
    uint64_t count_request_ = 0;
    bool chosen_by_hand_ = false, waiting_for_engine_ = false;
    int most_in_one_step_ = 0;
};

}  // namespace spartan
