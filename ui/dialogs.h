// The few dialogs: shortcuts, about, synthetic adapters, recordings. Everything else is said in place.
#pragma once

#include "core/run/runner.h"

#include <QAbstractTableModel>
#include <QDialog>
#include <QString>
#include <QThreadPool>

#include <optional>
#include <vector>

class QTableView;
class QPushButton;
class QLabel;

namespace spartan {

struct ShortcutLine {
    QString keys, words;
};
std::vector<ShortcutLine> shortcutLines();
QDialog* makeShortcutSheet(QWidget* parent);
QDialog* makeAboutBox(QWidget* parent, const ProgramInfo& program, const QString& device);
// "synthetic:boft:8:b=32,m=1", or empty when cancelled.
QString askSyntheticSpec(QWidget* parent);

struct RecordingRow {
    QString dir, name, started, workload, model;
    qint64 bytes = 0;
    bool complete = false;
    bool ended = false;  // also when it was stopped: a recording that is not, broke off
    QString problem;     // why it cannot be read
};
// Reads the run.json of every folder in runs_dir(), newest first. For a worker.
std::vector<RecordingRow> listRecordings();

class RecordingsModel : public QAbstractTableModel {
    Q_OBJECT
public:
    enum Column { kName, kStarted, kWorkload, kModelName, kSize, kState, kColumns };
    explicit RecordingsModel(QObject* parent = nullptr) : QAbstractTableModel(parent) {}
    void set(std::vector<RecordingRow> rows);
    const RecordingRow* row(int row) const {
        return row >= 0 && row < int(rows_.size()) ? &rows_[size_t(row)] : nullptr;
    }
    int rowCount(const QModelIndex& parent = {}) const override { return parent.isValid() ? 0 : int(rows_.size()); }
    int columnCount(const QModelIndex& parent = {}) const override { return parent.isValid() ? 0 : kColumns; }
    QVariant data(const QModelIndex& index, int role) const override;
    QVariant headerData(int section, Qt::Orientation orientation, int role) const override;

private:
    std::vector<RecordingRow> rows_;
};

class RecordingsDialog : public QDialog {
    Q_OBJECT
public:
    // `inUse` is being written and is neither renamed nor deleted.
    explicit RecordingsDialog(const QString& inUse, QWidget* parent = nullptr);
    RecordingsModel& model() { return *model_; }
    void reload();
    // Both return what went wrong, or nothing.
    static QString renameRecording(const QString& dir, const QString& name, QString* newDir = nullptr);
    static QString deleteRecording(const QString& dir);

signals:
    void openRequested(const QString& dir);
    void loaded();

private:
    void update();
    const RecordingRow* current() const;

    QString in_use_;
    RecordingsModel* model_;
    QTableView* table_;
    QPushButton *open_, *rename_, *delete_;
    QLabel* note_;
    QThreadPool pool_;
};

}  // namespace spartan
