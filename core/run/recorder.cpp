#include "core/run/recorder.h"

#include "core/base/file.h"
#include "core/run/run_dir.h"
#include "core/run/run_files.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include <sys/stat.h>
#include <unistd.h>

namespace spartan {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr size_t kRing = 4096;
constexpr auto kFlushEvery = std::chrono::seconds(1);
constexpr auto kNap = std::chrono::milliseconds(200);  // longest sleep, so that files are flushed without new records

Result<void> make_private_dir(const std::string& dir, bool& created) {
    std::error_code error;
    if (fs::exists(dir, error)) {
        if (!fs::is_directory(dir, error)) return Error{dir, "", "a file", "a new or empty folder"};
        if (!fs::is_empty(dir, error) || error)
            return Error{dir, "", "a folder that is not empty", "a new or empty folder"};
        return {};
    }
    const fs::path parent = fs::path(dir).parent_path();
    if (!parent.empty()) fs::create_directories(parent, error);
    if (error) return Error{parent.string(), "", error.message(), "a folder that can be made"};
    if (::mkdir(dir.c_str(), 0700) != 0) return Error{dir, "", std::strerror(errno), "a folder that can be made"};
    created = true;
    return {};
}

std::string run_json_of(const std::string& dir) { return (fs::path(dir) / "run.json").string(); }

Result<void> write_run_json(const std::string& path, const Json& json) {
    return write_file_atomically(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void merge(Json& into, const Json& from) {
    for (const auto& [key, value] : from.items()) into[key] = value;
}

}  // namespace

struct Recorder::Impl {
    // The ring: the engine's thread pushes, the recorder's takes.
    std::array<StepRecordPtr, kRing> ring;
    std::atomic<uint64_t> pushed{0}, taken{0};
    std::atomic<bool> asleep{false};

    std::mutex wake_mutex;
    std::condition_variable wake, done;
    uint64_t heard = 0;                        // records written and handed on; under wake_mutex
    uint64_t flush_asked = 0, flush_done = 0;  // under wake_mutex
    bool stop = false;                         // under wake_mutex

    std::mutex listeners_mutex;  // held while listeners run
    std::vector<std::pair<int, Listener>> listeners;
    int next_handle = 1;

    mutable std::mutex writer_mutex;
    std::unique_ptr<RunWriter> writer;
    Json header;
    // Apart from the writer, so that a status line never waits for a slow disk.
    std::atomic<bool> is_recording{false};
    std::atomic<int64_t> bytes_written{0};
    mutable std::mutex error_mutex;
    std::string write_error;

    std::thread thread;

    bool push(const StepRecordPtr& record) {
        const uint64_t at = pushed.load(std::memory_order_relaxed);
        if (at - taken.load(std::memory_order_acquire) == kRing) return false;
        ring[at % kRing] = record;
        pushed.store(at + 1);
        if (asleep.load()) {
            const std::lock_guard lock(wake_mutex);
            wake.notify_one();
        }
        return true;
    }

    std::vector<StepRecordPtr> take_all() {
        std::vector<StepRecordPtr> batch;
        uint64_t at = taken.load(std::memory_order_relaxed);
        const uint64_t end = pushed.load();
        batch.reserve(size_t(end - at));
        for (; at != end; ++at) batch.push_back(std::move(ring[at % kRing]));
        taken.store(at, std::memory_order_release);
        return batch;
    }

    void note_errors() {  // with writer_mutex held
        bytes_written = writer->bytes_written();
        note_error(writer->error());
    }

    void note_error(const std::string& error) {
        const std::lock_guard lock(error_mutex);
        if (write_error.empty()) write_error = error;
    }

    std::string first_error() const {
        const std::lock_guard lock(error_mutex);
        return write_error;
    }

    void write(const std::vector<StepRecordPtr>& batch, bool flush) {
        const std::lock_guard lock(writer_mutex);
        if (!writer) return;
        for (const StepRecordPtr& record : batch) writer->add(*record);
        if (flush) writer->flush();
        note_errors();
    }

    void hand_on(const std::vector<StepRecordPtr>& batch) {
        if (batch.empty()) return;
        const std::lock_guard lock(listeners_mutex);
        for (auto& [handle, listener] : listeners) listener(batch);
    }

    void loop() {
        auto flushed_at = Clock::now();
        for (;;) {
            uint64_t asked = 0;
            bool stopping = false;
            {
                std::unique_lock lock(wake_mutex);
                asleep.store(true);
                wake.wait_for(lock, kNap, [&] {
                    return stop || flush_asked != flush_done || pushed.load() != taken.load(std::memory_order_relaxed);
                });
                asleep.store(false);
                asked = flush_asked;
                stopping = stop;
            }
            const auto batch = take_all();
            const bool due = Clock::now() - flushed_at >= kFlushEvery;
            const bool wanted = [&] {
                const std::lock_guard lock(wake_mutex);
                return asked != flush_done;
            }();
            write(batch, due || wanted || stopping);
            if (due || wanted) flushed_at = Clock::now();
            hand_on(batch);
            {
                const std::lock_guard lock(wake_mutex);
                heard += batch.size();
                flush_done = asked;
            }
            done.notify_all();
            if (stopping && batch.empty()) return;
        }
    }
};

Recorder::Recorder() : impl_(std::make_unique<Impl>()) {
    impl_->thread = std::thread([impl = impl_.get()] { impl->loop(); });
}

Recorder::~Recorder() {
    {
        const std::lock_guard lock(impl_->wake_mutex);
        impl_->stop = true;
    }
    impl_->wake.notify_one();
    impl_->thread.join();
}

Engine::RecordSink Recorder::sink() {
    return [impl = impl_.get()](const StepRecordPtr& record) { return impl->push(record); };
}

int Recorder::add_listener(Listener listener) {
    const std::lock_guard lock(impl_->listeners_mutex);
    impl_->listeners.emplace_back(impl_->next_handle, std::move(listener));
    return impl_->next_handle++;
}

void Recorder::remove_listener(int handle) {
    const std::lock_guard lock(impl_->listeners_mutex);
    std::erase_if(impl_->listeners, [&](const auto& entry) { return entry.first == handle; });
}

Result<void> Recorder::begin(const std::string& dir, Json header) {
    flush();
    const std::lock_guard lock(impl_->writer_mutex);
    if (impl_->writer)
        return Error{dir, "", "a recording that is still open: " + impl_->writer->dir(), "one at a time"};
    bool created = false;
    TRY_VOID(make_private_dir(dir, created));
    Json json{{"schema", kRunSchema}, {"complete", false}};
    merge(json, header);
    json["schema"] = kRunSchema;
    json["complete"] = false;
    auto writer = std::make_unique<RunWriter>(dir);
    Result<void> opened = writer->open();
    if (opened) opened = write_run_json(run_json_of(dir), json);
    if (!opened) {
        std::error_code ignored;
        writer.reset();
        for (const char* name : {"steps.jsonl", "requests.jsonl", "tokens.jsonl", "run.json"})
            fs::remove(fs::path(dir) / name, ignored);
        if (created) fs::remove(dir, ignored);
        return opened.error();
    }
    impl_->writer = std::move(writer);
    impl_->header = std::move(json);
    impl_->bytes_written = 0;
    impl_->is_recording = true;
    const std::lock_guard error_lock(impl_->error_mutex);
    impl_->write_error.clear();
    return {};
}

Result<void> Recorder::amend(const Json& header_patch) {
    const std::lock_guard lock(impl_->writer_mutex);
    if (!impl_->writer) return make_error("no recording is open");
    merge(impl_->header, header_patch);
    return write_run_json(run_json_of(impl_->writer->dir()), impl_->header);
}

Result<void> Recorder::end(Json totals, bool complete) {
    flush();
    const std::lock_guard lock(impl_->writer_mutex);
    if (!impl_->writer) return make_error("no recording is open");
    impl_->writer->sync();
    impl_->note_errors();
    const std::string path = run_json_of(impl_->writer->dir());
    impl_->writer.reset();
    impl_->is_recording = false;
    Json& json = impl_->header;
    const std::string error = impl_->first_error();
    json["complete"] = complete && error.empty();
    if (!totals.is_null()) json["totals"] = std::move(totals);
    if (!error.empty()) json["write_error"] = error;
    const auto written = write_run_json(path, json);
    if (!written) impl_->note_error(written.error().message());
    if (const std::string failed = impl_->first_error(); !failed.empty()) return make_error(failed);
    return {};
}

void Recorder::flush() {
    std::unique_lock lock(impl_->wake_mutex);
    const uint64_t ticket = ++impl_->flush_asked, records = impl_->pushed.load();
    impl_->wake.notify_one();
    impl_->done.wait(lock, [&] { return impl_->flush_done >= ticket && impl_->heard >= records; });
}

bool Recorder::recording() const { return impl_->is_recording; }
int64_t Recorder::bytes_written() const { return impl_->bytes_written; }
std::string Recorder::write_error() const { return impl_->first_error(); }

}  // namespace spartan
