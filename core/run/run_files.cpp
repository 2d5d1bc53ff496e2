#include "core/run/run_files.h"

#include "core/base/text.h"
#include "core/run/run_dir.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace spartan {
namespace {

constexpr std::array<const char*, 3> kNames{"requests.jsonl", "tokens.jsonl", "steps.jsonl"};
constexpr size_t kBufferBytes = 1 << 20;

void append_line(std::string& buffer, const Json& json) {
    buffer += json.dump(-1, ' ', false, Json::error_handler_t::replace);
    buffer += '\n';
}

}  // namespace

void TokensInFlight::add(const StepRecord& step) {
    for (const StepRow& row : step.rows) {
        if (row.token < 0) continue;
        Tokens& tokens = by_request_[uint64_t(row.request)];
        tokens.us.push_back(step.end_us);
        tokens.ids.push_back(row.token);
    }
}

TokensInFlight::Tokens TokensInFlight::take(RequestId id) {
    auto node = by_request_.extract(uint64_t(id));
    return node ? std::move(node.mapped()) : Tokens{};
}

RunWriter::~RunWriter() {
    for (const int fd : fd_)
        if (fd >= 0) ::close(fd);
}

Result<void> RunWriter::open() {
    for (size_t i = 0; i < fd_.size(); ++i) {
        const std::string path = (std::filesystem::path(dir_) / kNames[i]).string();
        fd_[i] = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd_[i] < 0) return Error{path, "", std::strerror(errno), "a file that can be written"};
    }
    return {};
}

void RunWriter::add(const StepRecord& step) {
    if (!error_.empty()) return;
    in_flight_.add(step);
    for (const StepRow& row : step.rows) {
        if (row.token < 0) continue;
        buffer_[tokens] += '[' + std::to_string(uint64_t(row.request)) + ',' + std::to_string(step.end_us) + ',' +
                           std::to_string(row.token) + "]\n";
    }
    for (const RequestRecord& request : step.finished) {
        // Tokens are in the steps already; they are written again only where the request tells another story.
        const auto seen = in_flight_.take(request.id);
        RequestRecord bare = request;
        bare.token_us.clear();
        bare.output.clear();
        Json json = request_to_json(bare);
        if (request.token_us != seen.us) json["token_us"] = request.token_us;
        if (request.output != seen.ids) json["output"] = request.output;
        append_line(buffer_[requests], json);
    }
    append_line(buffer_[steps], step_to_json(step));
    const auto full = [](const std::string& buffer) { return buffer.size() > kBufferBytes; };
    if (std::any_of(buffer_.begin(), buffer_.end(), full)) flush();
}

void RunWriter::fail(File file, const std::string& reason) {
    if (error_.empty()) error_ = (std::filesystem::path(dir_) / kNames[file]).string() + ": " + reason;
}

void RunWriter::write_out(File file) {
    std::string& buffer = buffer_[file];
    size_t done = 0;
    while (done < buffer.size()) {
        const ssize_t n = ::write(fd_[file], buffer.data() + done, buffer.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            fail(file, std::strerror(errno));
            break;
        }
        done += size_t(n);
        bytes_ += n;
    }
    buffer.clear();
}

void RunWriter::flush() {
    if (!error_.empty()) return;
    for (const File file : {requests, tokens, steps}) {  // all three, whichever fails: each keeps what still fits
        struct stat s {};
        if (::fstat(fd_[file], &s) == 0 && s.st_nlink == 0) fail(file, "the file was removed");
        write_out(file);
    }
}

void RunWriter::sync() {
    flush();
    for (const File file : {requests, tokens, steps})
        if (error_.empty() && ::fsync(fd_[file]) != 0) fail(file, std::strerror(errno));
}

Result<LineReader> LineReader::open(const std::string& path) {
    TRY_ASSIGN(file, InputFile::open(path));
    return LineReader(std::move(file));
}

Result<bool> LineReader::next(std::string& line) {
    line.clear();
    for (;;) {
        const size_t end = buffer_.find('\n', at_);
        if (end != std::string::npos) {
            line.append(buffer_, at_, end - at_);
            at_ = end + 1;
            ++line_;
            return true;
        }
        line.append(buffer_, at_, std::string::npos);
        if (int64_t(line.size()) > kMaxLineBytes)
            return Error{file_->path(), "line " + std::to_string(line_ + 1), "more than " + format_bytes(kMaxLineBytes),
                         "shorter lines"};
        const int64_t count = std::min(int64_t(kBufferBytes), file_->size() - offset_);
        if (count == 0) return false;
        buffer_.resize(size_t(count));
        TRY_VOID(file_->read(offset_, buffer_.data(), count));
        offset_ += count;
        at_ = 0;
    }
}

}  // namespace spartan
