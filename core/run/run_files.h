// The line files of a RUN_DIR: written by the recorder, read line by line in bounded memory.
#pragma once

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/engine/step_record.h"

#include <array>
#include <optional>
#include <string>
#include <unordered_map>

namespace spartan {

// The tokens of requests that have not finished, as the steps emitted them.
class TokensInFlight {
public:
    struct Tokens {
        std::vector<int64_t> us;
        std::vector<Token> ids;
    };
    void add(const StepRecord& step);
    Tokens take(RequestId id);  // and forgets them

private:
    std::unordered_map<uint64_t, Tokens> by_request_;
};

// Appends records to steps.jsonl, requests.jsonl and tokens.jsonl. After the first failure it writes nothing more.
class RunWriter {
public:
    explicit RunWriter(std::string dir) : dir_(std::move(dir)) {}
    ~RunWriter();
    RunWriter(const RunWriter&) = delete;
    RunWriter& operator=(const RunWriter&) = delete;

    Result<void> open();  // creates the three files
    void add(const StepRecord& step);
    void flush();  // hands what is buffered to the system
    void sync();   // flush and fsync
    const std::string& dir() const { return dir_; }
    const std::string& error() const { return error_; }  // empty: none
    int64_t bytes_written() const { return bytes_; }

private:
    enum File { requests, tokens, steps };  // in the order of flushing: what a step names is there before the step
    void write_out(File file);
    void fail(File file, const std::string& reason);

    std::string dir_, error_;
    std::array<int, 3> fd_{-1, -1, -1};
    std::array<std::string, 3> buffer_;
    int64_t bytes_ = 0;
    TokensInFlight in_flight_;
};

// Whole lines of a file, first to last. A last line without its end is torn: it is dropped.
class LineReader {
public:
    static constexpr int64_t kMaxLineBytes = 64 << 20;
    static Result<LineReader> open(const std::string& path);
    Result<bool> next(std::string& line);
    int64_t line() const { return line_; }  // of the line last read, from 1
    std::string place() const { return file_->path() + ", line " + std::to_string(line_); }
    int64_t bytes_read() const { return offset_; }
    int64_t file_bytes() const { return file_->size(); }

private:
    explicit LineReader(std::shared_ptr<InputFile> file) : file_(std::move(file)) {}
    std::shared_ptr<InputFile> file_;
    std::string buffer_;
    size_t at_ = 0;
    int64_t offset_ = 0, line_ = 0;
};

const char* finish_word(FinishReason reason);  // "length", "eos", …

}  // namespace spartan
