// What is loaded and what runs: base model, adapters, the engine with its recording. All slow work happens in workers;
// the window only asks and is told. One engine lives for one recording: a workload's run, or a playground session.
#pragma once

#include "core/model/model.h"
#include "core/run/device_info.h"
#include "core/run/run_dir.h"
#include "core/run/runner.h"
#include "core/run/workload.h"
#include "ui/engine_bridge.h"
#include "ui/library_model.h"
#include "ui/run_model.h"
#include "ui/time_controller.h"

#include <QElapsedTimer>
#include <QObject>
#include <QString>
#include <QStringList>
#include <QThreadPool>
#include <QTimer>
#include <QUndoStack>

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

namespace spartan {

struct LiveRun;

// Memory that a base model needs against what the machine has, before anything is loaded.
struct ModelFit {
    enum class Verdict : uint8_t { fits, tight, wont_fit };
    int64_t needed_bytes = 0, available_bytes = 0;
    Verdict verdict = Verdict::fits;
    QString words() const;  // "needs 0.54 GB of 12.1 GB: fits"
};
ModelFit judgeFit(int64_t needed_bytes, int64_t available_bytes);

// What a drop holds, judged by names alone.
struct DropSummary {
    QStringList adapters, models, workloads, recordings, refused;
    bool any() const {
        return !adapters.isEmpty() || !models.isEmpty() || !workloads.isEmpty() || !recordings.isEmpty();
    }
    QString words() const;  // "2 adapters, 1 model" or why not
};
DropSummary judgeDrop(const QStringList& paths);

class Session : public QObject {
    Q_OBJECT
public:
    enum class ModelState { none, opening, loading, ready };
    enum class RunState { idle, starting, running, held, finishing };

    explicit Session(QObject* parent = nullptr);
    ~Session() override;  // stops what runs, keeps what is recorded; at most about two seconds

    // --- Base model
    ModelState modelState() const { return model_state_; }
    const std::shared_ptr<const Model>& model() const { return model_; }
    const std::optional<ModelFit>& fit() const { return fit_; }
    QString modelPath() const { return model_path_; }
    double modelProgress() const;  // 0…1 while loading
    void openModel(const QString& path, const QString& dtype = QStringLiteral("auto"), bool evenIfItWontFit = false);
    void cancelModelLoad();
    void unloadModel();
    // Whether models loaded from now on keep quantised weights as their file has them: the same answers in less memory.
    bool keepsQuantised() const { return keep_quantised_; }
    void setKeepQuantised(bool keep) { keep_quantised_ = keep; }

    // What computes: "auto" (a usable GPU, else the CPU), "cpu" or "cuda:N"; holds for models opened from now on.
    const QString& device() const { return device_; }
    void setDevice(const QString& device) { device_ = device; }
    const std::vector<DeviceInfo>& devices() const { return devices_; }  // empty until a worker has looked
    int cudaDevice() const { return cuda_device_; }                      // that the model was opened for; -1: the CPU
    const DeviceInfo& modelDevice() const { return model_device_; }      // that the model was opened for

    // --- Adapters
    LibraryModel& library() { return library_; }
    QUndoStack& undoStack() { return undo_; }
    void addPaths(const QStringList& paths);  // files and folders of any kind, sorted out in a worker
    void addAdapterArguments(const QStringList& arguments, const QString& baseDir);  // NAME=DIR or synthetic:…
    void removeAdapters(const std::vector<int>& keys);
    bool readingAdapters() const { return reading_ > 0; }
    std::optional<AdapterId> liveId(int key) const;  // in the engine that is alive
    const LibraryEntry* entryOf(AdapterId id) const;

    // Times of a GPU's phases, which slow its steps: off until somebody asks, then from the next step on.
    bool phaseTimes() const { return phase_times_; }
    void setPhaseTimes(bool on);

    // --- After an engine has failed (engineFailed says why): what is loaded is still there.
    // Goes on from it: makes the device usable again, and runs the workload once more that was running. Where the
    // device stays lost to this process, restartNeeded() comes instead.
    void startAgain();
    // What another process needs to go on from here, and going on from it; problems come as messages. The workload is
    // the window's.
    Json restartState() const;
    void restore(const Json& state);
    using Recovery = std::function<Result<void>(int cuda_device)>;
    void setRecovery(Recovery recovery) { recovery_ = std::move(recovery); }  // for tests

    // --- Runs
    RunState runState() const { return run_state_; }
    bool recordingRun() const { return run_state_ != RunState::idle; }
    QStringList whyNotRun(const Workload& workload) const;  // empty: it can run
    void run(const Workload& workload);
    void hold();
    void release();
    void stop();
    double runProgress() const;  // 0…1
    std::optional<double> etaSeconds() const;
    int64_t plannedRequests() const;

    // The playground's engine: the running workload's when there is one, else one of its own. Calls done(error) when an
    // engine is there.
    void ensureEngine(std::function<void(const QString& error)> done);
    Engine* engine();  // null: none alive
    EngineStatus engineStatus() const;
    // "step 812 has been running on cuda:0 for 31 s without an answer"; empty: the device answers. An engine that is
    // being taken down counts too.
    const QString& silence() const { return silence_; }
    void flushRecording();  // everything up to now is on disk when it returns

    // --- What is shown
    RunModel& runModel() { return run_model_; }
    TimeController& time() { return time_; }
    bool showingLive() const { return showing_live_; }
    void openRecording(const QString& dir);
    void cancelOpening();
    double openingProgress() const;  // < 0: none is being opened
    QString recordingDir() const;    // of what is shown; empty: none
    QString writingDir() const;      // of the recording that is being written; empty: none
    int64_t recordedBytes() const;   // of that one; -1: none
    QString recordingError() const;

    // Takes what the engine sent since last time; once a tick.
    void pump();
    bool busy() const;  // a worker or an engine is at work: the tick has to go on

    void setProgram(ProgramInfo program) { program_ = std::move(program); }
    const ProgramInfo& program() const { return program_; }

signals:
    void modelChanged();
    void fitQuestion(const QString& path, const QString& dtype, const QString& words);  // will not fit: load anyway?
    void runStateChanged();
    void recordsArrived(const std::vector<spartan::StepRecordPtr>& records);
    void runShown();  // another run is in the run model
    void runFinished(const QString& dir, bool complete);
    void engineFailed(const QString& why);
    void restartNeeded(const QString& why);
    void silenceChanged(bool silent);
    void workloadDropped(const QString& path);
    void message(const QString& text, bool isError);
    void activity();  // something began: the tick has to run

private:
    friend class AddAdaptersCommand;
    friend class RemoveAdaptersCommand;
    struct OpenModelResult;
    // What a worker found out about one adapter: loaded, or without a base only looked at.
    struct AdapterRead {
        int key = 0;
        uint64_t generation = 0;
        std::shared_ptr<const Adapter> adapter;
        std::optional<AdapterInfo> info;
        Error error;
    };

    void modelOpened(const QString& path, const QString& dtype, bool force, OpenModelResult result);
    void startLoading(OpenModelResult result);
    void adoptModel(std::shared_ptr<const Model> model);
    void setModelState(ModelState state);
    void failModel(const QString& path, const Error& error);

    void addEntries(std::vector<LibraryEntry> entries, const QString& what);
    void readEntries(const std::vector<int>& keys);
    void applyReads();
    void readAgain();
    void rejoin(const std::vector<int>& keys);  // rows that came back by undo or redo
    void joinEngine(const LibraryEntry& entry);
    void leaveEngine(int key);
    std::string freeName(const std::string& wanted) const;

    // An engine that is wanted as soon as no other is left: two would not find room on one device.
    struct Start {
        std::optional<Workload> workload;
        std::function<void(const QString& error)> done;
    };
    struct Started;
    void startLive(std::optional<Workload> workload, std::function<void(const QString& error)> done);
    void startNext();
    void makeLive(Start start);
    void liveMade(const Start& start, Started started, std::shared_ptr<EngineBridge> bridge);
    void engineGone();
    void noticeFailure();
    void noticeSilence();
    void tellFailure(std::optional<Workload> workload, const std::string& why);
    void tellTroubles(const std::vector<StepRecordPtr>& records);
    void adoptLive(std::shared_ptr<LiveRun> live, std::shared_ptr<EngineBridge> bridge);
    void runEnded(const std::shared_ptr<LiveRun>& live, const Result<RunOutcome>& outcome);
    void retireLive();  // a workload that still runs is cancelled first
    void takeDown(std::shared_ptr<LiveRun> live);
    void setRunState(RunState state);
    void checkProgress();
    void updateFigures();

    QThreadPool loaders_;   // models, engines, recordings
    QThreadPool adapters_;  // adapters: one after the other, apart from models
    QThreadPool runs_;      // workloads, each as long as it takes

    LibraryModel library_;
    QUndoStack undo_;
    RunModel run_model_;
    TimeController time_;

    ModelState model_state_ = ModelState::none;
    bool keep_quantised_ = false;
    QString device_ = QStringLiteral("auto");
    std::vector<DeviceInfo> devices_;
    int cuda_device_ = -1;  // that the model was opened for: a GPU's ordinal; -1: the CPU
    DeviceInfo model_device_;
    std::shared_ptr<const Model> model_;
    std::optional<ModelFit> fit_;
    QString model_path_;
    uint64_t model_request_ = 0;  // tells the answer to the newest question from older ones
    std::shared_ptr<Progress> model_progress_;
    uint64_t adapter_generation_ = 0;
    std::shared_ptr<Progress> adapter_progress_;
    int64_t reading_ = 0;
    std::vector<AdapterRead> reads_;  // not yet in the library: they join it a few times a second, not one by one
    QTimer reads_timer_;

    RunState run_state_ = RunState::idle;
    std::shared_ptr<LiveRun> live_;
    std::shared_ptr<EngineBridge> bridge_;
    std::deque<Start> starts_;
    int engines_ = 0;  // alive, being made or being taken down
    bool failing_ = false, device_lost_ = false, told_trouble_ = false;
    bool phase_times_wanted_ = false, phase_times_ = false;  // by the switch; by it or the workload that runs
    std::optional<Workload> lost_workload_;
    std::shared_ptr<const Watchdog> watchdog_;  // of the newest engine
    QString silence_;
    Recovery recovery_;
    bool showing_live_ = false;
    QString told_error_;  // of the recording that is written: said once
    std::shared_ptr<Progress> opening_;
    uint64_t opening_request_ = 0;
    std::deque<std::pair<qint64, double>> progress_marks_;  // (ms, share done) for the ETA
    QElapsedTimer clock_;
    qint64 figures_at_ms_ = 0;
    ProgramInfo program_;
};

}  // namespace spartan
