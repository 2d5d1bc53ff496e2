#include "app/spartan/prompts_file.h"
#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/model/safetensors.h"

#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>

#include <unistd.h>

namespace spartan {
namespace {

struct LogitsOptions {
    ModelOptions model;
    std::string prompts, out;
    int greedy = 0;
};

// Logits and continuations of all prompts, as the engine hands them out on its own thread.
class Collector {
public:
    explicit Collector(int64_t vocab_size) : vocab_size_(vocab_size) {}

    struct Answer {
        std::vector<float> logits;  // [len, vocab]
        std::vector<int64_t> greedy;
        std::string error;
        bool over = false;
    };

    void expect(size_t prompts) { answers_.resize(prompts); }
    void submitted(RequestId id, size_t prompt) {
        const std::lock_guard lock(mutex_);
        prompt_of_[uint64_t(id)] = prompt;
        submitted_.notify_all();
    }
    void take_logits(RequestId id, int64_t first, int64_t count, const float* logits) {
        Answer& a = answer_of(id);
        a.logits.resize(size_t((first + count) * vocab_size_));
        std::copy(logits, logits + count * vocab_size_, a.logits.begin() + std::ptrdiff_t(first * vocab_size_));
    }
    void take_records(const std::vector<StepRecordPtr>& records) {
        for (const StepRecordPtr& record : records)
            for (const RequestRecord& r : record->finished) {
                Answer& a = answer_of(r.id);
                a.greedy.assign(r.output.begin(), r.output.end());
                if (r.finish == FinishReason::error || r.finish == FinishReason::cancelled)
                    a.error = r.error.empty() ? "cancelled" : r.error;
                a.over = true;
            }
    }
    const std::vector<Answer>& answers() const { return answers_; }

private:
    // submit() may return after the engine has begun: its caller still has to say which prompt the id is.
    Answer& answer_of(RequestId id) {
        std::unique_lock lock(mutex_);
        submitted_.wait(lock, [&] { return prompt_of_.count(uint64_t(id)) > 0; });
        return answers_[prompt_of_[uint64_t(id)]];
    }

    int64_t vocab_size_;
    std::mutex mutex_;
    std::condition_variable submitted_;
    std::map<uint64_t, size_t> prompt_of_;
    std::vector<Answer> answers_;
};

Result<void> check_output(const std::string& path) {
    std::error_code error;
    const std::filesystem::path p(path), parent = p.has_parent_path() ? p.parent_path() : ".";
    if (std::filesystem::is_directory(p, error)) return Error{path, "", "a folder", "a file name"};
    if (std::filesystem::exists(p, error) && !std::filesystem::is_regular_file(p, error))
        return Error{path, "", "something that is no file", "a regular file or a new one"};
    if (!std::filesystem::is_directory(parent, error) || ::access(parent.c_str(), W_OK) != 0)
        return Error{path, "", "no folder " + parent.string() + " that can be written to", "an existing folder"};
    return {};
}

Result<void> check_room(const std::vector<PromptEntry>& prompts, int64_t vocab_size) {
    int64_t rows = 0;
    for (const PromptEntry& p : prompts) rows += int64_t(p.ids.size());
    const int64_t bytes = rows * vocab_size * 4, available = available_memory_bytes();
    if (bytes > available / 2)
        return Error{"--prompts", "",
                     std::to_string(rows) + " positions, which give " + format_bytes(bytes) + " of logits",
                     "at most " + format_bytes(available / 2) + ", half of the available memory"};
    return {};
}

Result<void> submit_all(Engine& engine, const std::vector<PromptEntry>& prompts, const LogitsOptions& o,
                        Collector& collector) {
    for (size_t i = 0; i < prompts.size(); ++i) {
        Request request;
        request.prompt = prompts[i].ids;
        request.adapter = prompts[i].adapter;
        request.sampling.max_tokens = o.greedy;
        request.sampling.ignore_eos = true;
        request.want_logits = true;
        const auto id = engine.submit(std::move(request));
        if (!id) {
            Error e = id.error();
            e.file = o.prompts;
            e.field = prompts[i].place + (e.field.empty() ? "" : ", " + e.field);
            engine.cancel_all();
            return e;
        }
        collector.submitted(*id, i);
    }
    return {};
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
    return std::as_bytes(std::span<const T>(values));
}

Result<void> write_answers(const Collector& collector, const LogitsOptions& o, const std::vector<PromptEntry>& prompts,
                           int64_t vocab_size) {
    std::vector<SafetensorsTensor> tensors;
    for (size_t i = 0; i < prompts.size(); ++i) {
        const auto& a = collector.answers()[i];
        if (!a.over || !a.error.empty())
            return Error{o.prompts, prompts[i].place, a.error.empty() ? "no answer" : a.error, "logits"};
        tensors.push_back(
            {"logits." + std::to_string(i), "F32", {int64_t(prompts[i].ids.size()), vocab_size}, bytes_of(a.logits)});
        if (o.greedy > 0)
            tensors.push_back({"greedy." + std::to_string(i), "I64", {int64_t(a.greedy.size())}, bytes_of(a.greedy)});
    }
    return write_safetensors(o.out, tensors);
}

Result<void> logits(const GlobalOptions& options, const LogitsOptions& o, Progress& progress) {
    TRY_VOID(check_output(o.out));
    std::unique_ptr<Collector> collector;  // before the session, so that it outlives the engine
    TRY_ASSIGN(session, open_session(options, o.model, options.seed_or(), {}, progress,
                                     [&](RequestId id, int64_t first, int64_t count, const float* values) {
                                         collector->take_logits(id, first, count, values);
                                     }));
    TRY_ASSIGN(prompts, read_prompts_file(o.prompts, session));
    const int64_t vocab_size = session.model->config().vocab_size;
    TRY_VOID(check_room(prompts, vocab_size));
    warn(session.warnings);  // a failure is explained in one line, without them
    collector = std::make_unique<Collector>(vocab_size);
    collector->expect(prompts.size());
    session.recorder->add_listener([&](const auto& records) { collector->take_records(records); });
    TRY_VOID(submit_all(*session.engine, prompts, o, *collector));
    while (!session.engine->wait_idle(50)) {
        if (progress.cancelled()) session.engine->cancel_all();
        if (session.engine->status().state == EngineState::failed) break;
        leave_if_silent(*session.engine);
    }
    session.recorder->flush();
    if (progress.cancelled()) return Error{"", "", "", "", true};
    return write_answers(*collector, o, prompts, vocab_size);
}

}  // namespace

void add_logits(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command =
        add_command(app, "logits", "Logits of every prompt position, to compare with another implementation",
                    {"spartan logits --model FOLDER --prompts prompts.json --out logits.safetensors",
                     "spartan logits --model FOLDER --adapter a=DIR --prompts P.json --out O.safetensors --greedy 16"});
    auto o = std::make_shared<LogitsOptions>();
    add_model_option(command, o->model);
    add_adapter_option(command, o->model);
    const auto add_file = [&](const char* flag, std::string& path, const char* description) {
        command->add_option(flag, path, description)
            ->type_name("FILE")
            ->check(not_empty("the path of a file"))
            ->required();
    };
    add_file("--prompts", o->prompts, "{\"prompts\": [{\"ids\": […] | \"text\": …, \"adapter\": NAME}, …]}");
    add_file("--out", o->out, "A safetensors file: logits.I f32 [len, vocab], and greedy.I i64 [N]");
    command->add_option("--greedy", o->greedy, "Also the N most likely next tokens, one after the other")
        ->type_name("N")
        ->check(integer_in(0, 1 << 20));
    command->callback([&options, &action, o] {
        check_adapter_arguments("--adapter", o->model.adapters);
        action = [&options, o] { return perform([&](Progress& progress) { return logits(options, *o, progress); }); };
    });
}

}  // namespace spartan
