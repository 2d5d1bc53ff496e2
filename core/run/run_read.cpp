#include "core/run/run_dir.h"
#include "core/run/run_files.h"

#include <filesystem>

namespace spartan {
namespace {

// Reads steps.jsonl, and beside it the lines of the other two files that each step stands for. Those may end early,
// where the recording was cut off; what is there must agree.
class RunReader {
public:
    RunReader(LineReader steps, LineReader requests, LineReader tokens)
        : steps_(std::move(steps)), requests_(std::move(requests)), tokens_(std::move(tokens)) {}

    Result<void> read(Progress& progress, const std::function<void(StepRecordPtr)>& each) {
        progress.total = steps_.file_bytes();
        for (;;) {
            if (progress.cancelled()) return Error{"", "", "", "", true};
            TRY_ASSIGN(more, steps_.next(line_));
            if (!more) return {};
            TRY_ASSIGN(json, parse_json(line_, steps_.place()));
            TRY_ASSIGN(step, step_from_json(json, steps_.place()));
            TRY_VOID(check_times(step));
            TRY_VOID(check_tokens(step));
            in_flight_.add(step);
            TRY_VOID(join_finished(step));
            progress.done = steps_.bytes_read();
            each(std::make_shared<const StepRecord>(std::move(step)));
        }
    }

private:
    // Whoever draws or sums takes differences of these.
    Result<void> check_times(const StepRecord& step) {
        const auto wrong = [&](const char* field, int64_t found, const char* after, int64_t bound) {
            return Error{steps_.place(), field, std::to_string(found),
                         "at least " + std::to_string(bound) + ", " + after};
        };
        if (step.end_us < step.start_us) return wrong("end_us", step.end_us, "its start", step.start_us);
        if (step.end_us < end_us_) return wrong("end_us", step.end_us, "the end of the step before", end_us_);
        end_us_ = step.end_us;
        return {};
    }

    Result<void> check_tokens(const StepRecord& step) {
        for (const StepRow& row : step.rows) {
            if (row.token < 0 || tokens_ended_) continue;
            TRY_ASSIGN(more, tokens_.next(line_));
            tokens_ended_ = !more;
            if (!more) continue;
            TRY_ASSIGN(json, parse_json(line_, tokens_.place()));
            const Json expected{uint64_t(row.request), step.end_us, row.token};
            if (json != expected)
                return Error{tokens_.place(), "", line_.substr(0, 80), expected.dump() + ", as its step says"};
        }
        return {};
    }

    Result<void> join_finished(StepRecord& step) {
        std::vector<RequestRecord> joined;
        for (const RequestRecord& named : step.finished) {
            auto tokens = in_flight_.take(named.id);
            TRY_ASSIGN(more, requests_.next(line_));
            if (!more) break;
            TRY_ASSIGN(json, parse_json(line_, requests_.place()));
            TRY_ASSIGN(record, request_from_json(json, requests_.place()));
            if (record.id != named.id)
                return Error{requests_.place(), "request", std::to_string(uint64_t(record.id)),
                             std::to_string(uint64_t(named.id)) + ", as its step says"};
            if (!json.contains("token_us")) record.token_us = std::move(tokens.us);
            if (!json.contains("output")) record.output = std::move(tokens.ids);
            joined.push_back(std::move(record));
        }
        step.finished = std::move(joined);
        return {};
    }

    LineReader steps_, requests_, tokens_;
    std::string line_;
    bool tokens_ended_ = false;
    int64_t end_us_ = 0;
    TokensInFlight in_flight_;
};

}  // namespace

Result<void> read_steps(const RunInfo& run, Progress& progress, const std::function<void(StepRecordPtr)>& each) {
    const std::filesystem::path dir(run.dir);
    TRY_ASSIGN(steps, LineReader::open((dir / "steps.jsonl").string()));
    TRY_ASSIGN(requests, LineReader::open((dir / "requests.jsonl").string()));
    TRY_ASSIGN(tokens, LineReader::open((dir / "tokens.jsonl").string()));
    return RunReader(std::move(steps), std::move(requests), std::move(tokens)).read(progress, each);
}

Result<std::vector<RequestRecord>> read_requests(const RunInfo& run) {
    std::vector<RequestRecord> all;
    Progress progress;
    TRY_VOID(read_steps(run, progress, [&](StepRecordPtr step) {
        all.insert(all.end(), step->finished.begin(), step->finished.end());
    }));
    return all;
}

}  // namespace spartan
