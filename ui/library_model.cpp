#include "ui/library_model.h"

#include "ui/text.h"

#include <algorithm>

namespace spartan {

namespace {

QString stateText(const LibraryEntry& e) {
    switch (e.state) {
        case LibraryEntry::State::waiting:
            return QObject::tr("waits for a base");
        case LibraryEntry::State::reading:
            return e.percent >= 0 ? QObject::tr("reading %1 %").arg(e.percent) : QObject::tr("reading");
        case LibraryEntry::State::failed:
            return e.error.empty() ? QObject::tr("failed") : QObject::tr("failed: %1").arg(oneLine(e.error, 400));
        case LibraryEntry::State::ready:
            return QString::fromLatin1(wordOf(e.where));
    }
    return {};
}

QString tooltipOf(const LibraryEntry& e) {
    QString text = toQ(e.name) + QLatin1Char('\n') + oneLine(e.source);
    if (!e.geometry.empty()) text += QLatin1Char('\n') + toQ(e.geometry);
    if (!e.targets.empty()) text += QObject::tr(" on ") + toQ(e.targets);
    if (e.bytes > 0) text += QObject::tr("\n%1 in memory").arg(bytesText(e.bytes));
    if (e.adapter && e.adapter->orthogonality_error > 0)
        text += QObject::tr("\nlargest |RᵀR − I| %1").arg(e.adapter->orthogonality_error, 0, 'g', 2);
    if (e.p99_ms >= 0)
        text += QObject::tr("\ntime to first token p99 %1 (%2 requests)").arg(msText(e.p99_ms), count(e.requests));
    for (const std::string& w : e.warnings) text += QObject::tr("\nwarning: ") + oneLine(w);
    if (!e.error.empty()) text += QLatin1Char('\n') + oneLine(e.error, 2000);
    return plainTooltip(text);
}

}  // namespace

const char* wordOf(LibraryEntry::Where where) {
    static const char* const words[] = {"disk", "host", "moving", "pool", "in batch", "failed"};
    return words[size_t(where)];
}

QString iconOf(LibraryEntry::Where where) {
    static const char16_t icons[] = {u'○', u'◐', u'⇄', u'●', u'◉', u'✗'};
    return QString(QChar(icons[size_t(where)]));
}

LibraryModel::LibraryModel(QObject* parent) : QAbstractTableModel(parent) {}

int LibraryModel::rowCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : int(entries_.size()); }
int LibraryModel::columnCount(const QModelIndex& parent) const { return parent.isValid() ? 0 : kColumns; }

QVariant LibraryModel::data(const QModelIndex& index, int role) const {
    if (!index.isValid() || index.row() >= rowCount() || index.column() >= kColumns) return {};
    const LibraryEntry& e = entries_[size_t(index.row())];
    const auto column = Column(index.column());
    switch (role) {
        case Qt::DisplayRole:
            switch (column) {
                case kName:
                    return oneLine(e.name, 200);
                case kKind:
                    if (e.state == LibraryEntry::State::failed) return tr("refused");
                    if (e.state == LibraryEntry::State::waiting)
                        return e.geometry.empty() ? tr("waits for a base") : tr("%1 · waits").arg(toQ(e.geometry));
                    return toQ(e.geometry);
                case kTargets:
                    return toQ(e.targets);
                case kSize:
                    return e.bytes > 0 ? bytesText(e.bytes) : QString();
                case kRequests:
                    return e.requests > 0 ? count(e.requests) : QString();
                case kP99:
                    return e.p99_ms >= 0 ? msText(e.p99_ms) : QString();
                case kWhere:
                    return iconOf(e.where) + QLatin1Char(' ') + stateText(e);
                case kColumns:
                    break;
            }
            return {};
        case Qt::ToolTipRole:
            return tooltipOf(e);
        case Qt::AccessibleTextRole:
            return column == kWhere ? stateText(e) : data(index, Qt::DisplayRole);
        case Qt::TextAlignmentRole:
            return int(Qt::AlignVCenter |
                       (column == kSize || column == kRequests || column == kP99 ? Qt::AlignRight : Qt::AlignLeft));
        case kKeyRole:
            return e.key;
        case kStateRole:
            return int(e.state);
        case kWhereRole:
            return int(e.where);
        case kEntryKindRole:
            return int(e.kind);
        case kSortRole:
            switch (column) {
                case kSize:
                    return qlonglong(e.bytes);
                case kRequests:
                    return qlonglong(e.requests);
                case kP99:
                    return e.p99_ms;
                case kWhere:
                    return int(e.where);
                default:
                    return data(index, Qt::DisplayRole).toString().toCaseFolded();
            }
        default:
            return {};
    }
}

QVariant LibraryModel::headerData(int section, Qt::Orientation orientation, int role) const {
    if (orientation != Qt::Horizontal || section < 0 || section >= kColumns) return {};
    static const char* const names[] = {"adapter", "kind", "targets", "size", "requests", "TTFT p99", "where"};
    static const char* const tips[] = {
        "Name of the adapter; a label, unique in the library",
        "Kind and geometry: b block size, m butterfly factors, r rank",
        "Projections that it changes",
        "Bytes in memory, folded",
        "Requests of the run that is shown, warm-up left out",
        "Arrival to first token: 99 % of this adapter's requests in the run that is shown took at most so long",
        "Where it is now: on disk, in host memory, moving, in the pool, in the running batch"};
    if (role == Qt::DisplayRole) return tr(names[section]);
    if (role == Qt::ToolTipRole) return plainTooltip(tr(tips[section]));
    if (role == Qt::TextAlignmentRole)
        return int(Qt::AlignVCenter |
                   (section == kSize || section == kRequests || section == kP99 ? Qt::AlignRight : Qt::AlignLeft));
    return {};
}

Qt::ItemFlags LibraryModel::flags(const QModelIndex& index) const {
    return index.isValid() ? Qt::ItemIsSelectable | Qt::ItemIsEnabled | Qt::ItemNeverHasChildren : Qt::NoItemFlags;
}

int LibraryModel::rowOf(int key) const {
    const auto found = row_.find(key);
    return found == row_.end() ? -1 : found->second;
}

const LibraryEntry* LibraryModel::find(int key) const {
    const int row = rowOf(key);
    return row < 0 ? nullptr : &entries_[size_t(row)];
}

void LibraryModel::reindex() {
    row_.clear();
    for (size_t i = 0; i < entries_.size(); ++i) row_[entries_[i].key] = int(i);
}

void LibraryModel::append(std::vector<LibraryEntry> entries) {
    if (entries.empty()) return;
    const int first = rowCount();
    beginInsertRows({}, first, first + int(entries.size()) - 1);
    for (LibraryEntry& e : entries) {
        if (e.key == 0) e.key = nextKey();
        row_[e.key] = int(entries_.size());
        entries_.push_back(std::move(e));
    }
    endInsertRows();
}

void LibraryModel::restore(const std::vector<std::pair<int, LibraryEntry>>& entries) {
    for (const auto& [row, entry] : entries) {
        const int at = std::clamp(row, 0, rowCount());
        beginInsertRows({}, at, at);
        entries_.insert(entries_.begin() + at, entry);
        reindex();
        endInsertRows();
    }
}

std::vector<std::pair<int, LibraryEntry>> LibraryModel::take(const std::vector<int>& keys) {
    std::vector<std::pair<int, LibraryEntry>> taken;
    for (const int key : keys)
        if (const int row = rowOf(key); row >= 0) taken.emplace_back(row, entries_[size_t(row)]);
    std::sort(taken.begin(), taken.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t end = taken.size(); end > 0;) {  // whole runs of neighbours at once, from the bottom
        size_t begin = end - 1;
        while (begin > 0 && taken[begin - 1].first + 1 == taken[begin].first) --begin;
        const int first = taken[begin].first, last = taken[end - 1].first;
        beginRemoveRows({}, first, last);
        entries_.erase(entries_.begin() + first, entries_.begin() + last + 1);
        reindex();
        endRemoveRows();
        end = begin;
    }
    return taken;
}

void LibraryModel::change(int key, const std::function<void(LibraryEntry&)>& edit) {
    const int row = rowOf(key);
    if (row < 0) return;
    edit(entries_[size_t(row)]);
    emit dataChanged(index(row, 0), index(row, kColumns - 1));
}

void LibraryModel::changeMany(const std::vector<int>& keys, const std::function<void(LibraryEntry&)>& edit) {
    int first = rowCount(), last = -1;
    for (const int key : keys) {
        const int row = rowOf(key);
        if (row < 0) continue;
        edit(entries_[size_t(row)]);
        first = std::min(first, row);
        last = std::max(last, row);
    }
    if (last >= 0) emit dataChanged(index(first, 0), index(last, kColumns - 1));
}

void LibraryModel::changeFigures(const std::function<bool(LibraryEntry&)>& edit) {
    int first = -1, last = -1;
    for (int row = 0; row < rowCount(); ++row) {
        if (!edit(entries_[size_t(row)])) continue;
        if (first < 0) first = row;
        last = row;
    }
    if (first >= 0) emit dataChanged(index(first, kRequests), index(last, kWhere));
}

int64_t LibraryModel::readyAdapters() const {
    return std::count_if(entries_.begin(), entries_.end(), [](const LibraryEntry& e) {
        return e.kind == LibraryEntry::Kind::adapter && e.state == LibraryEntry::State::ready;
    });
}

int64_t LibraryModel::adapterBytes() const {
    int64_t bytes = 0;
    for (const LibraryEntry& e : entries_)
        if (e.kind == LibraryEntry::Kind::adapter) bytes += e.bytes;
    return bytes;
}

bool LibraryModel::hasName(const std::string& name) const {
    return std::any_of(entries_.begin(), entries_.end(),
                       [&](const LibraryEntry& e) { return e.kind == LibraryEntry::Kind::adapter && e.name == name; });
}

LibraryFilter::LibraryFilter(QObject* parent) : QSortFilterProxyModel(parent) {
    setSortRole(LibraryModel::kSortRole);
    setDynamicSortFilter(false);  // rows must not move under the pointer while figures change
}

void LibraryFilter::setText(const QString& text) {
    words_ = text.simplified().toCaseFolded().split(QLatin1Char(' '), Qt::SkipEmptyParts);
    invalidateFilter();
}

bool LibraryFilter::filterAcceptsRow(int row, const QModelIndex& parent) const {
    const QAbstractItemModel* m = sourceModel();
    const auto text = [&](int column) {
        return m->index(row, column, parent).data(Qt::DisplayRole).toString().toCaseFolded();
    };
    for (const QString& word : words_) {
        if (word.startsWith(QLatin1String("p99>")) || word.startsWith(QLatin1String("p99<"))) {
            bool number = false;
            const double limit = QStringView(word).mid(4).toDouble(&number);
            const double p99 = m->index(row, LibraryModel::kP99, parent).data(LibraryModel::kSortRole).toDouble();
            if (number && (p99 < 0 || (word[3] == QLatin1Char('>') ? p99 <= limit : p99 >= limit))) return false;
            continue;
        }
        if (!text(LibraryModel::kName).contains(word) && !text(LibraryModel::kKind).contains(word) &&
            !text(LibraryModel::kTargets).contains(word) && !text(LibraryModel::kWhere).contains(word))
            return false;
    }
    return true;
}

bool LibraryFilter::lessThan(const QModelIndex& left, const QModelIndex& right) const {
    // The base stays on top whichever way the adapters are sorted.
    const int a = left.data(LibraryModel::kEntryKindRole).toInt(), b = right.data(LibraryModel::kEntryKindRole).toInt();
    if (a != b) return (a < b) == (sortOrder() == Qt::AscendingOrder);
    const QVariant x = left.data(sortRole()), y = right.data(sortRole());
    const QPartialOrdering order = QVariant::compare(x, y);
    return order == QPartialOrdering::Less;
}

}  // namespace spartan
