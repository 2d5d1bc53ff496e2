// The models and adapters that the window knows, one row each; refused ones stay with their reason.
#pragma once

#include "core/adapter/adapter.h"

#include <QAbstractTableModel>
#include <QSortFilterProxyModel>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace spartan {

struct LibraryEntry {
    enum class Kind : uint8_t { model, adapter };
    enum class State : uint8_t { waiting, reading, ready, failed };
    enum class Where : uint8_t { disk, host, moving, pool, batch, failed };

    int key = 0;  // stays the same through undo and redo
    Kind kind = Kind::adapter;
    State state = State::waiting;
    std::string name;
    std::string source;      // path, or the synthetic spec
    AdapterRequest request;  // how to load it (adapters)
    std::shared_ptr<const Adapter> adapter;
    std::shared_ptr<const Model> base;  // that it was folded for
    std::string geometry, targets;
    int64_t bytes = 0;
    std::string error;  // one line; for failed
    std::vector<std::string> warnings;

    Where where = Where::disk;
    int64_t requests = 0;
    double p99_ms = -1;  // of the time to first token in the run that is shown; < 0: none
    int percent = -1;    // while reading; -1: not known
};

const char* wordOf(LibraryEntry::Where where);
QString iconOf(LibraryEntry::Where where);

class LibraryModel : public QAbstractTableModel {
    Q_OBJECT
public:
    enum Column { kName, kKind, kTargets, kSize, kRequests, kP99, kWhere, kColumns };
    enum Role { kKeyRole = Qt::UserRole, kSortRole, kStateRole, kWhereRole, kEntryKindRole };

    explicit LibraryModel(QObject* parent = nullptr);

    int rowCount(const QModelIndex& parent = {}) const override;
    int columnCount(const QModelIndex& parent = {}) const override;
    QVariant data(const QModelIndex& index, int role) const override;
    QVariant headerData(int section, Qt::Orientation orientation, int role) const override;
    Qt::ItemFlags flags(const QModelIndex& index) const override;

    const std::vector<LibraryEntry>& entries() const { return entries_; }
    const LibraryEntry* find(int key) const;
    int nextKey() { return ++last_key_; }
    void append(std::vector<LibraryEntry> entries);
    // Puts entries back at the rows where they were taken from.
    void restore(const std::vector<std::pair<int, LibraryEntry>>& entries);
    std::vector<std::pair<int, LibraryEntry>> take(const std::vector<int>& keys);  // with their rows, ascending
    void change(int key, const std::function<void(LibraryEntry&)>& edit);
    // Several rows with one dataChanged: whoever listens looks at the whole library.
    void changeMany(const std::vector<int>& keys, const std::function<void(LibraryEntry&)>& edit);
    // Live figures of all rows at once: `edit` returns whether it changed anything. One dataChanged in all.
    void changeFigures(const std::function<bool(LibraryEntry&)>& edit);

    int64_t readyAdapters() const;
    int64_t adapterBytes() const;
    bool hasName(const std::string& name) const;

private:
    int rowOf(int key) const;
    void reindex();

    std::vector<LibraryEntry> entries_;
    std::unordered_map<int, int> row_;
    int last_key_ = 0;
};

// Filter words all have to match name, kind, targets or residency; `p99>200` and `p99<200` compare.
class LibraryFilter : public QSortFilterProxyModel {
    Q_OBJECT
public:
    explicit LibraryFilter(QObject* parent = nullptr);
    void setText(const QString& text);

protected:
    bool filterAcceptsRow(int row, const QModelIndex& parent) const override;
    bool lessThan(const QModelIndex& left, const QModelIndex& right) const override;

private:
    QStringList words_;
};

}  // namespace spartan
