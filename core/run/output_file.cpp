#include "core/run/output_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace spartan {
namespace {

constexpr size_t kBufferBytes = 1 << 18;

// A file can be replaced by another; a terminal, a pipe or /dev/null is what it is.
bool is_stream(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && (S_ISCHR(info.st_mode) || S_ISFIFO(info.st_mode));
}

}  // namespace

Result<OutputFile> OutputFile::create(const std::string& path) {
    OutputFile out;
    out.path_ = path == "-" ? "standard output" : path;
    if (path == "-") {
        out.fd_ = STDOUT_FILENO;
    } else if (is_stream(path)) {
        out.fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
        out.owns_fd_ = true;
        if (out.fd_ < 0) return Error{path, "", std::string("cannot write: ") + std::strerror(errno), ""};
    } else {
        TRY_ASSIGN(file, ReplacementFile::create(path));
        out.fd_ = file.fd();
        out.file_.emplace(std::move(file));
    }
    return out;
}

Result<void> OutputFile::check(const std::string& path) {
    // Opening a pipe only to close it would end its reader.
    if (path == "-" || is_stream(path)) return {};
    TRY_VOID(ReplacementFile::create(path));
    return {};
}

OutputFile::OutputFile(OutputFile&& o) noexcept
    : path_(std::move(o.path_)),
      buffer_(std::move(o.buffer_)),
      file_(std::move(o.file_)),
      fd_(std::exchange(o.fd_, -1)),
      owns_fd_(std::exchange(o.owns_fd_, false)),
      errno_(o.errno_) {}

OutputFile::~OutputFile() {
    if (owns_fd_ && fd_ >= 0) ::close(fd_);
}

void OutputFile::write(std::string_view text) {
    buffer_ += text;
    if (buffer_.size() > kBufferBytes) flush();
}

void OutputFile::flush() {
    size_t done = 0;
    while (errno_ == 0 && done < buffer_.size()) {
        const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
        if (n >= 0)
            done += size_t(n);
        else if (errno != EINTR)
            errno_ = errno;
    }
    buffer_.clear();
}

Result<void> OutputFile::commit() {
    flush();
    if (errno_ != 0) return Error{path_, "", std::string("cannot write: ") + std::strerror(errno_), ""};
    if (file_) return file_->commit();
    return {};
}

}  // namespace spartan
