#include "core/run/output_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace spartan {
namespace {
constexpr size_t kBufferBytes = 1 << 18;
}

Result<OutputFile> OutputFile::create(const std::string& path) {
    OutputFile file;
    file.path_ = path;
    if (path == "-") {
        file.fd_ = STDOUT_FILENO;
        return file;
    }
    file.temporary_ = path + ".tmp" + std::to_string(::getpid());
    file.fd_ = ::open(file.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file.fd_ < 0) {
        file.temporary_.clear();
        return Error{path, "", std::strerror(errno), "a file that can be written"};
    }
    return file;
}

OutputFile::OutputFile(OutputFile&& o) noexcept
    : path_(std::move(o.path_)),
      temporary_(std::exchange(o.temporary_, {})),
      buffer_(std::move(o.buffer_)),
      fd_(std::exchange(o.fd_, -1)),
      errno_(o.errno_) {}

OutputFile::~OutputFile() {
    if (fd_ >= 0 && fd_ != STDOUT_FILENO) ::close(fd_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
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
    if (!temporary_.empty()) {
        if (errno_ == 0 && ::fsync(fd_) != 0) errno_ = errno;
        if (errno_ == 0 && ::rename(temporary_.c_str(), path_.c_str()) != 0) errno_ = errno;
        if (errno_ == 0) temporary_.clear();
    }
    if (errno_ != 0)
        return Error{path_ == "-" ? "standard output" : path_, "", std::strerror(errno_), "a file that can be written"};
    return {};
}

}  // namespace spartan
