#include "ui/session.h"

#include "core/base/memory.h"
#include "core/engine/cuda_backend.h"
#include "ui/live_run.h"
#include "ui/text.h"
#include "ui/worker.h"

#include <QDir>
#include <QFileInfo>
#include <QUndoCommand>

#include <algorithm>
#include <set>
#include <utility>

namespace spartan {

namespace {

constexpr size_t kMaxDropped = 20'000;

std::string nameFromPath(const QString& path) {
    std::string out;
    for (const QChar ch : QFileInfo(path).fileName()) {
        const bool plain = ch.unicode() < 128 && (ch.isLetterOrNumber() || ch == u'.' || ch == u'_' || ch == u'-');
        out += plain ? char(ch.unicode()) : '-';
    }
    if (out.size() > 60) out.resize(60);
    return out.empty() ? "adapter" : out;
}

enum class PathKind { adapter, model, workload, recording, adapters_folder, unknown };

// By names alone: what a path is, and the path that stands for it.
PathKind kindOf(const QString& path, QString* resolved = nullptr) {
    if (resolved) *resolved = path;
    const QFileInfo info(path);
    const QString name = info.fileName();
    if (info.isDir()) {
        if (name.endsWith(QLatin1String(".wbrun")) || QFileInfo::exists(path + QStringLiteral("/run.json")))
            return PathKind::recording;
        if (QFileInfo::exists(path + QStringLiteral("/adapter_config.json"))) return PathKind::adapter;
        if (QFileInfo::exists(path + QStringLiteral("/config.json"))) return PathKind::model;
        return PathKind::unknown;
    }
    if (name.endsWith(QLatin1String(".gguf"), Qt::CaseInsensitive)) return PathKind::model;
    const QString folder = info.absolutePath();
    if (name == QLatin1String("adapter_config.json") || name == QLatin1String("adapter_model.safetensors")) {
        if (resolved) *resolved = folder;
        return PathKind::adapter;
    }
    if (name == QLatin1String("run.json")) {
        if (resolved) *resolved = folder;
        return PathKind::recording;
    }
    if (name == QLatin1String("config.json") || name == QLatin1String("model.safetensors.index.json") ||
        name == QLatin1String("model.safetensors")) {
        if (resolved) *resolved = folder;
        return PathKind::model;
    }
    if (name.endsWith(QLatin1String(".json"))) return PathKind::workload;
    return PathKind::unknown;
}

QString plural(qsizetype n, const QString& one, const QString& many) {
    return n == 1 ? QStringLiteral("1 ") + one : QStringLiteral("%1 ").arg(n) + many;
}

}  // namespace

// --- Fit and drops

ModelFit judgeFit(int64_t needed_bytes, int64_t available_bytes) {
    // Some is left for the pool, the workspace and everybody else on the machine.
    using V = ModelFit::Verdict;
    const double share = available_bytes > 0 ? double(needed_bytes) / double(available_bytes) : 2;
    return {needed_bytes, available_bytes, share <= 0.7 ? V::fits : share <= 0.95 ? V::tight : V::wont_fit};
}

QString ModelFit::words() const {
    const QString verdicts[] = {Session::tr("fits"), Session::tr("tight"), Session::tr("will not fit")};
    return Session::tr("needs %1 of %2 available: %3")
        .arg(bytesText(needed_bytes), bytesText(available_bytes), verdicts[size_t(verdict)]);
}

QString DropSummary::words() const {
    QStringList parts;
    if (!adapters.isEmpty()) parts << plural(adapters.size(), Session::tr("adapter"), Session::tr("adapters"));
    if (!models.isEmpty())
        parts << (models.size() == 1 ? Session::tr("1 model")
                                     : Session::tr("%1 models, the first is opened").arg(models.size()));
    if (!workloads.isEmpty()) parts << plural(workloads.size(), Session::tr("workload"), Session::tr("workloads"));
    if (!recordings.isEmpty()) parts << plural(recordings.size(), Session::tr("recording"), Session::tr("recordings"));
    if (!refused.isEmpty()) parts << Session::tr("%1 left out (%2)").arg(refused.size()).arg(refused.first());
    return parts.join(QStringLiteral(", "));
}

DropSummary judgeDrop(const QStringList& paths) {
    DropSummary s;
    for (const QString& path : paths) {
        QString resolved;
        switch (kindOf(path, &resolved)) {
            case PathKind::adapter:
                if (!s.adapters.contains(resolved)) s.adapters << resolved;
                break;
            case PathKind::model:
                if (!s.models.contains(resolved)) s.models << resolved;
                break;
            case PathKind::workload:
                s.workloads << resolved;
                break;
            case PathKind::recording:
                s.recordings << resolved;
                break;
            default: {
                // A folder of adapters: one level down, by names.
                const QFileInfo info(path);
                QStringList inside;
                if (info.isDir())
                    for (const QString& name : QDir(path).entryList(QDir::Dirs | QDir::NoDotAndDotDot))
                        if (size_t(inside.size()) < kMaxDropped &&
                            kindOf(path + QLatin1Char('/') + name) == PathKind::adapter)
                            inside << path + QLatin1Char('/') + name;
                if (!inside.isEmpty())
                    s.adapters << inside;
                else
                    s.refused << Session::tr("%1: %2").arg(
                        info.fileName(), !info.exists() ? Session::tr("not there")
                                         : info.isDir()
                                             ? Session::tr("neither adapter_config.json nor config.json in it")
                                             : Session::tr("not a kind of file that is opened here"));
            }
        }
    }
    return s;
}

// --- Undo

class AddAdaptersCommand : public QUndoCommand {
public:
    AddAdaptersCommand(Session& session, std::vector<LibraryEntry> entries, const QString& what)
        : QUndoCommand(what), session_(session), entries_(std::move(entries)) {
        for (const LibraryEntry& e : entries_) keys_.push_back(e.key);
    }
    void redo() override {
        session_.library_.append(std::exchange(entries_, {}));
        session_.rejoin(keys_);
    }
    void undo() override {
        for (const int key : keys_) session_.leaveEngine(key);
        for (auto& [row, entry] : session_.library_.take(keys_)) entries_.push_back(std::move(entry));
    }

private:
    Session& session_;
    std::vector<int> keys_;
    std::vector<LibraryEntry> entries_;  // while they are not in the library
};

class RemoveAdaptersCommand : public QUndoCommand {
public:
    RemoveAdaptersCommand(Session& session, std::vector<int> keys)
        : QUndoCommand(Session::tr("remove %1")
                           .arg(plural(qsizetype(keys.size()), Session::tr("adapter"), Session::tr("adapters")))),
          session_(session),
          keys_(std::move(keys)) {}
    void redo() override {
        for (const int key : keys_) session_.leaveEngine(key);
        taken_ = session_.library_.take(keys_);
    }
    void undo() override {
        session_.library_.restore(taken_);
        taken_.clear();
        session_.rejoin(keys_);
    }

private:
    Session& session_;
    std::vector<int> keys_;
    std::vector<std::pair<int, LibraryEntry>> taken_;
};

// --- Life

Session::Session(QObject* parent)
    : QObject(parent), adapter_progress_(std::make_shared<Progress>()), recovery_(recover_device) {
    loaders_.setMaxThreadCount(2);
    adapters_.setMaxThreadCount(1);
    runs_.setMaxThreadCount(4);  // a run that is being cancelled must not hold up the next one
    clock_.start();
    reads_timer_.setSingleShot(true);
    reads_timer_.setInterval(40);
    connect(&reads_timer_, &QTimer::timeout, this, &Session::applyReads);
    // Asking for GPUs opens the driver, which takes a while.
    runInWorker(loaders_, this, all_devices,
                [this](std::vector<DeviceInfo> devices) { devices_ = std::move(devices); });
}

Session::~Session() {
    starts_.clear();
    if (model_progress_) model_progress_->cancel = true;
    if (opening_) opening_->cancel = true;
    adapter_progress_->cancel = true;
    if (live_) retireLive();
    adapters_.waitForDone();
    runs_.waitForDone();
    loaders_.waitForDone();
}

bool Session::busy() const {
    return live_ || engines_ > 0 || run_state_ != RunState::idle || model_state_ == ModelState::opening ||
           model_state_ == ModelState::loading || opening_ || reading_ > 0;
}

// --- Base model

struct Session::OpenModelResult {
    std::optional<OpenedModel> opened;
    Precision precision = DType::f32;
    int cuda_device = -1;
    DeviceInfo device;
    ModelFit fit;
    Error error;
};

double Session::modelProgress() const {
    if (!model_progress_) return 0;
    const auto total = double(model_progress_->total.load());
    return total > 0 ? std::min(1.0, double(model_progress_->done.load()) / total) : 0;
}

void Session::setModelState(ModelState state) {
    model_state_ = state;
    emit modelChanged();
    emit activity();
}

void Session::openModel(const QString& path, const QString& dtype, bool evenIfItWontFit) {
    cancelModelLoad();
    const uint64_t request = ++model_request_;
    setModelState(ModelState::opening);
    runInWorker(
        loaders_, this,
        [path = toStd(path), dtype = toStd(dtype), keep = keep_quantised_, wanted = toStd(device_)] {
            OpenModelResult r;
            auto device = choose_device(wanted);
            auto type = choose_dtype(dtype, device && *device >= 0);
            auto opened = open_model(path);
            if (!device || !type || !opened) {
                r.error = !device ? device.error() : !type ? type.error() : opened.error();
                return r;
            }
            r.cuda_device = *device;
            r.device = device_info(*device);
            r.precision = {*type, keep};
            r.fit = judgeFit(weight_bytes_needed(*opened, r.precision), r.device.available_bytes);
            r.opened = std::move(*opened);
            return r;
        },
        [this, path, dtype, evenIfItWontFit, request](OpenModelResult result) {
            if (request == model_request_) modelOpened(path, dtype, evenIfItWontFit, std::move(result));
        });
}

void Session::modelOpened(const QString& path, const QString& dtype, bool force, OpenModelResult result) {
    if (!result.opened) return failModel(path, result.error);
    if (!result.opened->problems.empty()) {
        Error e = make_error(result.opened->problems.front());
        e.file = toStd(path);
        return failModel(path, e);
    }
    fit_ = result.fit;
    if (result.fit.verdict == ModelFit::Verdict::wont_fit && !force) {
        setModelState(model_ ? ModelState::ready : ModelState::none);
        emit fitQuestion(path, dtype, result.fit.words());
        return;
    }
    if (result.fit.verdict == ModelFit::Verdict::tight)
        emit message(toQ(result.opened->name) + QLatin1Char(' ') + result.fit.words(), false);
    startLoading(std::move(result));
}

void Session::startLoading(OpenModelResult result) {
    setModelState(ModelState::loading);
    model_progress_ = std::make_shared<Progress>();
    const uint64_t request = model_request_;
    const QString path = toQ(result.opened->path);
    auto shared = std::make_shared<OpenedModel>(std::move(*result.opened));
    runInWorker(
        loaders_, this,
        [shared, precision = result.precision, progress = model_progress_] {
            return load_model(std::move(*shared), precision, std::max(1, QThread::idealThreadCount()), *progress);
        },
        [this, request, path, cuda_device = result.cuda_device,
         device = result.device](Result<std::shared_ptr<const Model>> loaded) {
            if (request != model_request_) return;
            model_progress_.reset();
            if (!loaded) return failModel(path, loaded.error());
            model_path_ = path;
            cuda_device_ = cuda_device;
            model_device_ = device;
            adoptModel(std::move(*loaded));
        });
}

void Session::failModel(const QString& path, const Error& error) {
    // What was loaded before stays loaded: a file that is refused changes nothing.
    setModelState(model_ ? ModelState::ready : ModelState::none);
    if (error.cancelled) return emit message(tr("Loading was cancelled."), false);
    LibraryEntry row;
    row.key = library_.nextKey();
    row.kind = LibraryEntry::Kind::model;
    row.state = LibraryEntry::State::failed;
    row.where = LibraryEntry::Where::failed;
    row.name = toStd(QFileInfo(path).fileName());
    if (row.name.empty()) row.name = toStd(path);
    row.source = toStd(path);
    row.error = error.message();
    library_.append({row});
    emit message(oneLine(row.error), true);
}

void Session::cancelModelLoad() {
    if (model_progress_) model_progress_->cancel = true;
    if (model_state_ != ModelState::opening && model_state_ != ModelState::loading) return;
    ++model_request_;  // the answer of the cancelled work is not waited for
    model_progress_.reset();
    setModelState(model_ ? ModelState::ready : ModelState::none);
    emit message(tr("Loading was cancelled."), false);
}

void Session::adoptModel(std::shared_ptr<const Model> model) {
    if (live_) retireLive();
    std::vector<int> old;
    for (const LibraryEntry& e : library_.entries())
        if (e.kind == LibraryEntry::Kind::model &&
            (e.state == LibraryEntry::State::ready || e.source == model->info.path))
            old.push_back(e.key);
    library_.take(old);
    model_ = std::move(model);
    LibraryEntry row;
    row.key = library_.nextKey();
    row.kind = LibraryEntry::Kind::model;
    row.state = LibraryEntry::State::ready;
    row.where = LibraryEntry::Where::host;
    row.name = model_->info.name;
    row.source = model_->info.path;
    row.geometry = std::string("base · ") + name_of(model_->dtype);
    if (model_->kept_bytes > 0) row.geometry += " · weights as stored";
    row.targets = model_->info.source;
    row.bytes = model_->weight_bytes;
    row.warnings = model_->info.warnings;
    library_.restore({{0, row}});
    setModelState(ModelState::ready);
    readAgain();
}

void Session::unloadModel() {
    if (!model_) return;
    cancelModelLoad();
    if (live_) retireLive();
    std::vector<int> keys;
    for (const LibraryEntry& e : library_.entries())
        if (e.kind == LibraryEntry::Kind::model && e.state == LibraryEntry::State::ready) keys.push_back(e.key);
    library_.take(keys);
    model_.reset();
    model_path_.clear();
    fit_.reset();
    setModelState(ModelState::none);
    readAgain();
}

// --- Adapters

std::string Session::freeName(const std::string& wanted) const {
    if (!library_.hasName(wanted)) return wanted;
    for (int i = 2;; ++i)
        if (std::string name = wanted + "-" + std::to_string(i); !library_.hasName(name)) return name;
}

void Session::addPaths(const QStringList& paths) {
    runInWorker(
        loaders_, this, [paths] { return judgeDrop(paths); },
        [this](const DropSummary& drop) {
            std::set<std::string> there;
            std::set<std::string> names;
            for (const LibraryEntry& e : library_.entries())
                if (e.kind == LibraryEntry::Kind::adapter) there.insert(e.source), names.insert(e.name);
            std::vector<LibraryEntry> entries;
            int twice = 0;
            for (const QString& path : drop.adapters) {
                if (entries.size() >= kMaxDropped) break;
                LibraryEntry e;
                e.source = toStd(QFileInfo(path).absoluteFilePath());
                if (!there.insert(e.source).second) {
                    ++twice;
                    continue;
                }
                const std::string wanted = nameFromPath(path);
                e.name = wanted;
                for (int i = 2; !names.insert(e.name).second; ++i) e.name = wanted + "-" + std::to_string(i);
                e.request.name = e.name;
                e.request.dir = e.source;
                entries.push_back(std::move(e));
            }
            for (const QString& reason : drop.refused) {
                LibraryEntry e;
                e.state = LibraryEntry::State::failed;
                e.where = LibraryEntry::Where::failed;
                e.name = toStd(reason.section(QLatin1Char(':'), 0, 0));
                e.source = e.name;
                e.error = toStd(reason.section(QLatin1Char(':'), 1).trimmed());
                entries.push_back(std::move(e));
            }
            if (twice > 0)
                emit message(tr("%1 already in the library").arg(plural(twice, tr("adapter is"), tr("adapters are"))),
                             false);
            const qsizetype added = qsizetype(entries.size());
            if (added > 0)
                addEntries(std::move(entries), tr("add %1").arg(plural(added, tr("adapter"), tr("adapters"))));
            if (!drop.models.isEmpty()) openModel(drop.models.first());
            if (!drop.workloads.isEmpty()) emit workloadDropped(drop.workloads.first());
            if (!drop.recordings.isEmpty()) openRecording(drop.recordings.first());
        });
}

void Session::addAdapterArguments(const QStringList& arguments, const QString& baseDir) {
    std::vector<std::string> list;
    for (const QString& a : arguments) list.push_back(toStd(a));
    // Parsing looks at no file, so it is quick enough for here.
    auto parsed = parse_adapter_arguments(list, toStd(baseDir));
    if (!parsed) return emit message(oneLine(parsed.error().message()), true);
    std::vector<LibraryEntry> entries;
    size_t spec = 0;
    int64_t last_index = -1;
    for (AdapterRequest& r : *parsed) {
        LibraryEntry e;
        e.name = r.name;
        if (r.dir.empty()) {
            while (spec < list.size() && list[spec].rfind("synthetic:", 0) != 0) ++spec;
            if (r.index_in_spec <= last_index) do
                    ++spec;
                while (spec < list.size() && list[spec].rfind("synthetic:", 0) != 0);
            last_index = r.index_in_spec;
            e.source = spec < list.size() ? list[spec] : "synthetic";
        } else {
            e.source = r.dir;
        }
        if (library_.hasName(e.name)) {
            if (const auto same =
                    std::find_if(library_.entries().begin(), library_.entries().end(),
                                 [&](const LibraryEntry& l) { return l.name == e.name && l.source == e.source; });
                same != library_.entries().end())
                continue;
            e.name = freeName(e.name);
            r.name = e.name;
        }
        e.request = std::move(r);
        entries.push_back(std::move(e));
    }
    const qsizetype added = qsizetype(entries.size());
    if (added > 0) addEntries(std::move(entries), tr("add %1").arg(plural(added, tr("adapter"), tr("adapters"))));
}

void Session::addEntries(std::vector<LibraryEntry> entries, const QString& what) {
    for (LibraryEntry& e : entries) e.key = library_.nextKey();
    undo_.push(new AddAdaptersCommand(*this, std::move(entries), what));
}

void Session::removeAdapters(const std::vector<int>& keys) {
    std::vector<int> adapters;
    for (const int key : keys) {
        const LibraryEntry* e = library_.find(key);
        if (!e) continue;
        if (e->kind == LibraryEntry::Kind::adapter)
            adapters.push_back(key);
        else if (e->state == LibraryEntry::State::failed)
            library_.take({key});
        else
            emit message(tr("The base is unloaded from the model menu at the top left."), false);
    }
    if (!adapters.empty()) undo_.push(new RemoveAdaptersCommand(*this, adapters));
}

void Session::readAgain() {
    ++adapter_generation_;
    adapter_progress_->cancel = true;
    adapter_progress_ = std::make_shared<Progress>();
    adapters_.clear();
    reads_.clear();
    reading_ = 0;
    std::vector<int> keys;
    for (const LibraryEntry& e : library_.entries())
        if (e.kind == LibraryEntry::Kind::adapter && !(e.request.dir.empty() && e.request.spec.count == 0))
            keys.push_back(e.key);
    readEntries(keys);
}

void Session::rejoin(const std::vector<int>& keys) {
    std::vector<int> unread;
    for (const int key : keys) {
        const LibraryEntry* e = library_.find(key);
        if (e && e->state == LibraryEntry::State::ready && e->adapter && e->base == model_)
            joinEngine(*e);
        else
            unread.push_back(key);
    }
    readEntries(unread);
}

void Session::readEntries(const std::vector<int>& keys) {
    std::vector<int> readable;
    for (const int key : keys) {
        const LibraryEntry* e = library_.find(key);
        // A refused drop has nothing to read, and what is generated needs the base's shapes.
        if (e && e->kind == LibraryEntry::Kind::adapter && !(e->request.dir.empty() && e->request.spec.count == 0))
            readable.push_back(key);
    }
    library_.changeMany(readable, [&](LibraryEntry& e) {
        const bool waits = !model_ && e.request.dir.empty();
        e.state = waits ? LibraryEntry::State::waiting : LibraryEntry::State::reading;
        e.where = LibraryEntry::Where::disk;
        e.adapter.reset();
        e.error.clear();
    });
    for (const int key : readable) {
        const LibraryEntry* e = library_.find(key);
        if (e->state != LibraryEntry::State::reading) continue;
        ++reading_;
        runInWorker(
            adapters_, this,
            [key, generation = adapter_generation_, request = e->request, model = model_, progress = adapter_progress_,
             form = cuda_device_ >= 0 ? AdapterForm::skew : AdapterForm::folded] {
                AdapterRead read;
                read.key = key;
                read.generation = generation;
                if (model) {
                    const auto loaded = load_adapter(request, *model, kLibrarySeed, *progress, form);
                    if (loaded)
                        read.adapter = *loaded;
                    else
                        read.error = loaded.error();
                } else {
                    const auto info = inspect_adapter(request.dir);
                    if (info)
                        read.info = *info;
                    else
                        read.error = info.error();
                }
                return read;
            },
            [this](AdapterRead read) {
                reads_.push_back(std::move(read));
                if (!reads_timer_.isActive()) reads_timer_.start();
            });
    }
    emit activity();
}

void Session::applyReads() {
    std::map<int, AdapterRead> reads;
    for (AdapterRead& r : std::exchange(reads_, {})) {
        if (r.generation != adapter_generation_) continue;  // for a base that is no longer there
        --reading_;
        const int key = r.key;
        reads[key] = std::move(r);
    }
    std::vector<int> keys;
    for (const auto& [key, read] : reads) keys.push_back(key);
    library_.changeMany(keys, [&](LibraryEntry& e) {
        const AdapterRead& r = reads[e.key];
        if (r.adapter) {
            e.adapter = r.adapter;
            e.base = model_;
            e.state = LibraryEntry::State::ready;
            e.where = LibraryEntry::Where::host;
            e.geometry = r.adapter->geometry();
            e.targets = r.adapter->targets();
            e.bytes = r.adapter->bytes();
            e.warnings = r.adapter->warnings;
        } else if (r.info && r.info->problems.empty()) {
            e.state = LibraryEntry::State::waiting;
            e.geometry = name_of(r.info->kind);
            e.bytes = r.info->bytes;
            e.warnings = r.info->warnings;
        } else if (!r.error.cancelled) {
            e.state = LibraryEntry::State::failed;
            e.where = LibraryEntry::Where::failed;
            e.error = r.info ? r.info->problems.front() : r.error.message();
        }
    });
    for (const auto& [key, read] : reads)
        if (const LibraryEntry* e = library_.find(key); e && e->state == LibraryEntry::State::ready) joinEngine(*e);
}

void Session::joinEngine(const LibraryEntry& entry) {
    if (!live_ || live_->ids.count(entry.key) || !entry.adapter) return;
    const auto id = live_->engine->add_adapter(entry.adapter);
    if (!id) return emit message(oneLine(id.error().message()), true);
    live_->ids[entry.key] = *id;
    live_->header.adapters.push_back(runAdapterOf(*id, *entry.adapter));
    if (showing_live_) run_model_.setHeader(live_->header);
    live_->run_json["adapters"].push_back(adapterJson(*id, *entry.adapter));
    runInWorker(
        loaders_, this,
        [live = live_, adapters = live_->run_json["adapters"]] {
            return live->recorder->recording() ? live->recorder->amend({{"adapters", adapters}}) : Result<void>();
        },
        [this](const Result<void>& amended) {
            if (!amended) emit message(oneLine(amended.error().message()), true);
        });
}

void Session::leaveEngine(int key) {
    if (!live_) return;
    const auto found = live_->ids.find(key);
    if (found == live_->ids.end()) return;
    // Requests in flight finish first; new ones are refused at once.
    if (const auto removed = live_->engine->remove_adapter(found->second, false); !removed)
        emit message(oneLine(removed.error().message()), true);
    live_->ids.erase(found);
}

std::optional<AdapterId> Session::liveId(int key) const {
    if (!live_) return {};
    const auto found = live_->ids.find(key);
    if (found == live_->ids.end()) return {};
    return found->second;
}

const LibraryEntry* Session::entryOf(AdapterId id) const {
    if (!live_) return nullptr;
    for (const auto& [key, live_id] : live_->ids)
        if (live_id == id) return library_.find(key);
    return nullptr;
}

// --- Runs

QStringList Session::whyNotRun(const Workload& workload) const {
    QStringList why;
    if (model_state_ == ModelState::opening || model_state_ == ModelState::loading)
        why << tr("The base model is still loading");
    if (!model_ && why.isEmpty())
        why << tr("No base model is loaded: drop one in, or take synthetic:tiny from the model menu");
    if (reading_ > 0) why << tr("%1 still being read").arg(plural(reading_, tr("adapter is"), tr("adapters are")));
    if (run_state_ != RunState::idle) why << tr("A run is in progress");
    if (workload.assignment.kind == "single" && library_.readyAdapters() == 0)
        why << tr("The workload asks for one adapter and none is ready");
    return why;
}

void Session::setRunState(RunState state) {
    if (state == run_state_) return;
    run_state_ = state;
    emit runStateChanged();
    emit activity();
}

int64_t Session::plannedRequests() const {
    // A trace's length is known once its plan is made.
    const int64_t reported = live_ && live_->workload ? live_->reported().total : 0;
    return reported > 0 ? reported : run_model_.header().planned_requests;
}

void Session::run(const Workload& workload) {
    if (!whyNotRun(workload).isEmpty()) return;
    setRunState(RunState::starting);
    startLive(workload, [this](const QString& error) {
        if (error.isEmpty()) return;
        setRunState(RunState::idle);
        emit message(error, true);
    });
}

void Session::startLive(std::optional<Workload> workload, std::function<void(const QString& error)> done) {
    starts_.push_back({std::move(workload), std::move(done)});
    startNext();
}

void Session::startNext() {
    while (!starts_.empty()) {
        if (live_ && !failing_ && !starts_.front().workload) {  // any engine will do
            const Start start = std::move(starts_.front());
            starts_.pop_front();
            start.done({});
            continue;
        }
        if (live_) retireLive();
        if (engines_ > 0) return;  // engineGone() comes back here
        Start start = std::move(starts_.front());
        starts_.pop_front();
        makeLive(std::move(start));
    }
}

struct Session::Started {
    std::optional<Result<std::shared_ptr<LiveRun>>> live;  // none: the device stays lost
    std::string lost;
};

void Session::makeLive(Start start) {
    if (!model_) return start.done(tr("No base model is loaded."));
    auto bridge = std::make_shared<EngineBridge>();
    connect(bridge.get(), &EngineBridge::recordsReady, this, &Session::activity);
    LiveRunPlan plan;
    plan.model = model_;
    plan.cuda_device = cuda_device_;
    plan.workload = start.workload;
    plan.phase_times = phase_times_wanted_;
    phase_times_ = phase_times_wanted_ || (plan.workload && plan.workload->engine.phase_times);
    plan.program = program_;
    plan.listener = bridge->listener();
    for (const LibraryEntry& e : library_.entries())
        if (e.kind == LibraryEntry::Kind::adapter && e.state == LibraryEntry::State::ready)
            plan.adapters.push_back({e.key, e.adapter, e.request});
    ++engines_;
    runInWorker(
        loaders_, this,
        [plan = std::move(plan), recovery = device_lost_ ? recovery_ : Recovery()] {
            Started started;
            if (recovery)
                if (const auto recovered = recovery(plan.cuda_device); !recovered) {
                    started.lost = recovered.error().message();
                    return started;
                }
            started.live = startLiveRun(plan);
            return started;
        },
        [this, bridge, start = std::move(start)](Started started) { liveMade(start, std::move(started), bridge); });
}

void Session::liveMade(const Start& start, Started started, std::shared_ptr<EngineBridge> bridge) {
    if (!started.live) {
        const QString why = oneLine(started.lost);
        start.done(tr("The device stays lost to this program: %1").arg(why));
        emit restartNeeded(why);
        return engineGone();
    }
    device_lost_ = false;
    lost_workload_.reset();
    auto& live = *started.live;
    if (!live) {
        start.done(oneLine(live.error().message()));
        return engineGone();
    }
    if ((*live)->model != model_) {
        takeDown(std::move(*live));
        return start.done(tr("The base model was changed meanwhile."));
    }
    adoptLive(std::move(*live), std::move(bridge));
    start.done({});
    startNext();
}

void Session::engineGone() {
    --engines_;
    startNext();
}

void Session::adoptLive(std::shared_ptr<LiveRun> live, std::shared_ptr<EngineBridge> bridge) {
    const bool workload = live->workload.has_value();
    failing_ = told_trouble_ = false;
    live_ = std::move(live);
    watchdog_ = live_->engine->watchdog();
    bridge_ = std::move(bridge);
    progress_marks_.clear();
    // A playground session does not push a finished run off the screen.
    if (workload || run_model_.empty() || run_model_.header().workload_name.empty()) {
        run_model_.reset(live_->header);
        time_.reset();
        showing_live_ = true;
        emit runShown();
    } else {
        showing_live_ = false;
    }
    // Adapters that became ready while the engine was being made.
    for (const LibraryEntry& e : library_.entries())
        if (e.kind == LibraryEntry::Kind::adapter && e.state == LibraryEntry::State::ready) joinEngine(e);
    if (workload) {
        setRunState(RunState::running);
        runInWorker(
            runs_, this, [mine = live_] { return runLive(*mine); },
            [this, mine = live_](const Result<RunOutcome>& outcome) { runEnded(mine, outcome); });
    }
    emit activity();
}

void Session::runEnded(const std::shared_ptr<LiveRun>& live, const Result<RunOutcome>& outcome) {
    const bool mine = live_ == live;
    const EngineStatus status = live->engine->status();
    const bool failed = status.state == EngineState::failed;
    if (mine) {
        pump();  // the last records
        if (!outcome || !outcome->failure.empty())
            run_model_.setFailure(outcome ? outcome->failure : outcome.error().message());
        if (bridge_) bridge_->disconnect(this);
        bridge_.reset();
        live_.reset();
        showing_live_ = false;
        setRunState(RunState::idle);
        updateFigures();
    }
    const QString dir = toQ(live->dir);
    if (!outcome) {
        emit message(oneLine(outcome.error().message()), true);
    } else if (failed) {
        device_lost_ = true;
    } else if (!outcome->failure.empty()) {
        emit message(tr("The run ended early: %1").arg(oneLine(outcome->failure)), true);
    } else if (!outcome->write_error.empty()) {
        emit message(tr("The recording is not complete: %1").arg(oneLine(outcome->write_error)), true);
    } else if (outcome->num_failed > 0) {
        emit message(tr("%1 requests failed; the first: %2")
                         .arg(outcome->num_failed)
                         .arg(outcome->failures.empty() ? QString() : oneLine(outcome->failures.front())),
                     true);
    }
    takeDown(live);
    emit runFinished(dir, outcome && !outcome->cancelled && outcome->failure.empty());
    if (failed && mine) tellFailure(live->workload, status.failure);
}

void Session::retireLive() {
    if (!live_) return;
    pump();
    if (!live_) return;
    if (bridge_) bridge_->disconnect(this);
    bridge_.reset();
    showing_live_ = false;
    std::shared_ptr<LiveRun> live = std::exchange(live_, nullptr);
    if (live->workload) {
        live->progress.cancel = true;  // runEnded() takes it down
        setRunState(RunState::idle);
    } else {
        takeDown(std::move(live));
    }
    updateFigures();
}

void Session::takeDown(std::shared_ptr<LiveRun> live) {
    runInWorker(
        loaders_, this, [live = std::move(live)]() mutable { return finishLiveRun(std::move(live)); },
        [this](const std::string& problem) {
            if (!problem.empty()) emit message(oneLine(problem), true);
            engineGone();
        });
}

// --- After a failure

// Of an engine that no workload runs on: run_workload() finds out by itself.
void Session::noticeFailure() {
    if (!live_ || live_->workload || failing_) return;
    if (live_->engine->status().state != EngineState::failed) return;
    failing_ = device_lost_ = true;
    runInWorker(
        loaders_, this,
        [live = live_] {
            live->recorder->flush();
            return live->engine->status().failure;
        },
        [this, live = live_](const std::string& why) {
            if (live_ != live) return;
            pump();  // the last records: every request has ended
            if (showing_live_) run_model_.setFailure(why);
            retireLive();
            tellFailure({}, why);
        });
}

// Nothing can be done about it from inside the program, which goes on if the device does.
void Session::noticeSilence() {
    const QString now = watchdog_ ? toQ(watchdog_->silence()) : QString();
    const bool changed = now.isEmpty() != silence_.isEmpty();
    silence_ = now;
    if (changed) emit silenceChanged(!now.isEmpty());
}

void Session::flushRecording() {
    if (live_) live_->recorder->flush();
}

void Session::tellFailure(std::optional<Workload> workload, const std::string& why) {
    lost_workload_ = std::move(workload);
    emit engineFailed(oneLine(why));
}

void Session::startAgain() {
    if (lost_workload_ && run_state_ == RunState::idle) {
        const Workload workload = *lost_workload_;
        if (const QStringList why = whyNotRun(workload); !why.isEmpty())
            return emit message(why.join(QStringLiteral("; ")), true);
        return run(workload);
    }
    ensureEngine([this](const QString& error) {
        if (error.isEmpty())
            emit message(tr("The engine runs again."), false);
        else
            emit message(error, true);
    });
}

void Session::setPhaseTimes(bool on) {
    phase_times_ = phase_times_wanted_ = on;
    if (live_) live_->engine->time_phases(on);
}

Json Session::restartState() const {
    Json adapters = Json::array();
    for (const LibraryEntry& e : library_.entries())
        if (e.kind == LibraryEntry::Kind::adapter && !(e.request.dir.empty() && e.request.spec.count == 0))
            adapters.push_back({{"name", e.name},
                                {"source", e.source},
                                {"folder", e.request.dir},
                                {"index", e.request.index_in_spec},
                                {"global_index", e.request.global_index}});
    Json state{{"device", toStd(device_)}, {"keep_quantised", keep_quantised_}, {"adapters", std::move(adapters)}};
    state["run"] = lost_workload_.has_value();
    if (model_) state["model"] = {{"path", toStd(model_path_)}, {"dtype", name_of(model_->dtype)}};
    return state;
}

void Session::restore(const Json& state) {
    Fields f(state, "the session");
    setDevice(toQ(f.string("device", "auto")));
    setKeepQuantised(f.boolean("keep_quantised"));
    std::vector<LibraryEntry> entries;
    if (const Json* list = f.array("adapters"))
        for (const Json& one : *list) {
            Fields a(one, "the session", "adapters");
            LibraryEntry e;
            e.name = a.string("name");
            e.source = a.string("source");
            e.request.name = e.name;
            e.request.dir = a.string("folder");
            e.request.index_in_spec = a.integer("index", 0, 0);
            e.request.global_index = a.integer("global_index", 0, 0);
            if (e.request.dir.empty()) {
                const auto spec = parse_synthetic_spec(e.source);
                if (!spec) return emit message(oneLine(spec.error().message()), true);
                e.request.spec = *spec;
            }
            if (const auto read = a.finish(); !read) return emit message(oneLine(read.error().message()), true);
            entries.push_back(std::move(e));
        }
    const Json* model = f.object("model");
    if (const auto read = f.finish_known_only(); !read) return emit message(oneLine(read.error().message()), true);
    if (!entries.empty()) addEntries(std::move(entries), tr("restore the session"));
    if (!model) return;
    Fields m(*model, "the session", "model");
    const std::string path = m.string("path"), dtype = m.string("dtype", "auto");
    if (const auto read = m.finish(); !read) return emit message(oneLine(read.error().message()), true);
    openModel(toQ(path), toQ(dtype), true);
}

void Session::ensureEngine(std::function<void(const QString& error)> done) {
    if (live_ && !failing_) return done({});
    if (!model_) return done(tr("No base model is loaded."));
    startLive({}, std::move(done));
}

Engine* Session::engine() { return live_ ? live_->engine.get() : nullptr; }

EngineStatus Session::engineStatus() const { return live_ ? live_->engine->status() : EngineStatus(); }

void Session::hold() {
    if (run_state_ != RunState::running || !live_) return;
    live_->engine->hold();
    setRunState(RunState::held);
}

void Session::release() {
    if (run_state_ != RunState::held || !live_) return;
    live_->engine->release();
    setRunState(RunState::running);
}

void Session::stop() {
    if (!live_ || (run_state_ != RunState::running && run_state_ != RunState::held)) return;
    live_->progress.cancel = true;
    setRunState(RunState::finishing);
}

double Session::runProgress() const {
    const int64_t planned = plannedRequests();
    if (!showing_live_ || planned <= 0) return 0;
    // Between finished requests the tokens that have come count too, so that one long batch does not look stuck.
    double part = 0;
    for (const auto& [id, q] : run_model_.openRequests())
        if (q.max_tokens > 0) part += double(q.output_tokens) / double(q.max_tokens);
    return std::clamp((double(run_model_.counts().finished()) + part) / double(planned), 0.0, 1.0);
}

std::optional<double> Session::etaSeconds() const {
    if (run_state_ != RunState::running || progress_marks_.size() < 2) return {};
    const auto& [t0, p0] = progress_marks_.front();
    const auto& [t1, p1] = progress_marks_.back();
    if (t1 - t0 < 1000 || p1 <= p0) return {};
    const double per_ms = (p1 - p0) / double(t1 - t0);
    return std::max(0.0, (1 - p1) / per_ms / 1000.0);
}

void Session::pump() {
    if (bridge_) {
        const std::vector<StepRecordPtr> records = bridge_->take();
        if (!records.empty()) {
            if (showing_live_)
                for (const StepRecordPtr& r : records) run_model_.append(r);
            emit recordsArrived(records);
            tellTroubles(records);
        }
    }
    noticeFailure();
    checkProgress();
    const qint64 now = clock_.elapsed();
    if (now - figures_at_ms_ >= 200) {
        figures_at_ms_ = now;
        noticeSilence();
        updateFigures();
        if (const QString error = recordingError(); error != told_error_) {
            told_error_ = error;
            if (!error.isEmpty())
                emit message(
                    tr("The recording stopped, the run goes on: %1. What was written so far is kept.").arg(error),
                    true);
        }
    }
}

// Once a run: the steps themselves say it every time.
void Session::tellTroubles(const std::vector<StepRecordPtr>& records) {
    for (const StepRecordPtr& r : records) {
        if (r->trouble.empty() || told_trouble_) continue;
        told_trouble_ = true;
        emit message(tr("Step %1: %2. The run goes on.").arg(count(r->step), oneLine(r->trouble)), true);
    }
}

void Session::checkProgress() {
    const qint64 now = clock_.elapsed();
    if (run_state_ == RunState::held) progress_marks_.clear();  // held time is not working time
    if (run_state_ != RunState::running) return;
    if (!progress_marks_.empty() && now - progress_marks_.back().first < 250) return;
    progress_marks_.emplace_back(now, runProgress());
    while (progress_marks_.size() > 60) progress_marks_.pop_front();
}

void Session::updateFigures() {
    const StepRecordPtr last = run_model_.record(run_model_.lastStep());
    std::set<AdapterId> in_batch;
    const bool running = live_ && showing_live_ && last && (last->running > 0);
    if (running)
        for (const StepRow& row : last->rows) in_batch.insert(row.adapter);
    std::map<std::string, AdapterId> by_name;
    for (const RunAdapter& a : run_model_.header().adapters) by_name[a.name] = a.id;
    library_.changeFigures([&](LibraryEntry& e) {
        if (e.state != LibraryEntry::State::ready) return false;
        const auto found = by_name.find(e.name);
        const bool base = e.kind == LibraryEntry::Kind::model;
        LibraryEntry::Where where = LibraryEntry::Where::host;
        int64_t requests = 0;
        double p99 = -1;
        if (base || found != by_name.end()) {
            const AdapterId id = base ? AdapterId::base : found->second;
            if (running && in_batch.count(id))
                where = LibraryEntry::Where::batch;
            else if (live_ && showing_live_ && run_model_.pagesOf(id) > 0)
                where = LibraryEntry::Where::pool;
            if (const auto totals = run_model_.adapterTotals().find(id); totals != run_model_.adapterTotals().end()) {
                requests = totals->second.requests;
                if (totals->second[Metric::ttft].n() > 0) p99 = totals->second[Metric::ttft].quantile(0.99);
            }
        }
        if (where == e.where && requests == e.requests && p99 == e.p99_ms) return false;
        e.where = where;
        e.requests = requests;
        e.p99_ms = p99;
        return true;
    });
}

// --- Recordings

QString Session::recordingDir() const {
    return showing_live_ && live_ ? toQ(live_->dir) : toQ(run_model_.header().dir);
}

QString Session::writingDir() const { return live_ ? toQ(live_->dir) : QString(); }

int64_t Session::recordedBytes() const { return live_ ? live_->recorder->bytes_written() : -1; }

QString Session::recordingError() const { return live_ ? oneLine(live_->recorder->write_error()) : QString(); }

double Session::openingProgress() const {
    if (!opening_) return -1;
    const auto total = double(opening_->total.load());
    return total > 0 ? std::min(1.0, double(opening_->done.load()) / total) : 0;
}

void Session::cancelOpening() {
    if (opening_) opening_->cancel = true;
    opening_.reset();
    ++opening_request_;
}

void Session::openRecording(const QString& dir) {
    cancelOpening();
    opening_ = std::make_shared<Progress>();
    const uint64_t request = opening_request_;
    emit activity();
    struct Opened {
        std::shared_ptr<RunModel> model;
        Error error;
        bool ok = false;
    };
    runInWorker(
        loaders_, this,
        [path = toStd(dir), progress = opening_] {
            Opened out;
            auto info = open_run(path);
            if (!info) {
                out.error = info.error();
                return out;
            }
            out.model = std::make_shared<RunModel>();
            out.model->reset(headerOf(info->json, info->dir));
            const auto read = read_steps(*info, *progress, [&](StepRecordPtr r) { out.model->append(r); });
            out.ok = bool(read);
            if (!read) out.error = read.error();
            // What came before the damage is worth seeing; the message says where it ends.
            if (!read && !read.error().cancelled && !out.model->empty()) {
                out.model->setFailure(read.error().message());
                out.ok = true;
            }
            return out;
        },
        [this, request, dir](Opened opened) {
            if (request != opening_request_) return;
            opening_.reset();
            if (!opened.ok) {
                if (!opened.error.cancelled) emit message(oneLine(opened.error.message()), true);
                return;
            }
            if (run_state_ != RunState::idle)
                return emit message(tr("A run is in progress: stop it before opening a recording."), true);
            showing_live_ = false;
            run_model_ = std::move(*opened.model);
            time_.reset();
            if (!run_model_.failure().empty()) emit message(oneLine(run_model_.failure()), true);
            updateFigures();
            emit runShown();
        });
}

}  // namespace spartan
