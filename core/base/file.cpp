#include "core/base/file.h"

#include "core/base/sha256.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <utility>

namespace spartan {
namespace {

std::string reason(int error_number) { return std::generic_category().message(error_number); }

int64_t mtime_ns(const struct stat& info) {
    return int64_t(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

const char* kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISFIFO(mode)) return "a named pipe";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
    if (S_ISSOCK(mode)) return "a socket";
    return "something else";
}

struct Fd {
    int fd;
    explicit Fd(int number) : fd(number) {}
    ~Fd() {
        if (fd >= 0) ::close(fd);
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
};

Result<void> write_all(int fd, const std::string& path, std::string_view content) {
    size_t done = 0;
    while (done < content.size()) {
        const ssize_t n = ::write(fd, content.data() + done, std::min<size_t>(content.size() - done, 1 << 30));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return Error{path, "", "cannot write: " + reason(n < 0 ? errno : ENOSPC), ""};
        done += size_t(n);
    }
    return {};
}

// A link's target is what gets replaced, not the link.
std::string resolve_links(const std::string& path) {
    char* real = ::realpath(path.c_str(), nullptr);
    if (!real) return path;
    std::string resolved = real;
    std::free(real);
    return resolved;
}

std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

// A new file beside `path`; `name` receives its path. Numbers are tried in turn so that no state is kept between calls.
int create_temporary(const std::string& path, std::string& name) {
    for (int serial = 0; serial < 1000; ++serial) {
        name = path + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(serial);
        const int fd = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) return fd;
    }
    return -1;
}

std::string home_dir() {
    if (const char* home = std::getenv("HOME"); home && home[0] == '/') return home;
    if (const passwd* user = ::getpwuid(::getuid()); user && user->pw_dir && user->pw_dir[0] == '/')
        return user->pw_dir;
    return "/tmp";
}

// The XDG rule: a relative path in the variable counts as unset.
std::string xdg_dir(const char* variable, const char* fallback) {
    if (const char* dir = std::getenv(variable); dir && dir[0] == '/') return dir;
    return home_dir() + fallback;
}

}  // namespace

Result<std::shared_ptr<InputFile>> InputFile::open(const std::string& path) {
    if (path.empty()) return Error{"", "path", "an empty path", "the path of a file"};
    if (path.find('\0') != std::string::npos) return Error{path, "", "a path with a zero byte", "the path of a file"};
    struct stat info {};
    // Looking before opening: opening some devices has effects.
    if (::stat(path.c_str(), &info) != 0) return Error{path, "", "cannot open: " + reason(errno), ""};
    if (!S_ISREG(info.st_mode)) return Error{path, "", kind_of(info.st_mode), "a regular file"};
    std::shared_ptr<InputFile> file(new InputFile);
    file->path_ = path;
    // Without O_NONBLOCK a pipe that has taken the file's place meanwhile would hang here.
    file->fd_ = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (file->fd_ < 0) return Error{path, "", "cannot open: " + reason(errno), ""};
    if (::fstat(file->fd_, &info) != 0) return Error{path, "", "cannot read: " + reason(errno), ""};
    if (!S_ISREG(info.st_mode)) return Error{path, "", kind_of(info.st_mode), "a regular file"};
    file->size_ = info.st_size;
    file->mtime_ns_ = mtime_ns(info);
    file->inode_ = info.st_ino;
    return file;
}

InputFile::~InputFile() {
    if (fd_ >= 0) ::close(fd_);
}

Result<void> InputFile::read(int64_t offset, void* out, int64_t size) const {
    auto* bytes = static_cast<char*>(out);
    for (int64_t done = 0; done < size;) {
        const ssize_t n = ::pread(fd_, bytes + done, size_t(std::min<int64_t>(size - done, 1 << 30)), offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return Error{path_, "", "cannot read: " + reason(errno), ""};
        if (n == 0)
            return Error{path_, "", "the file ends at byte " + std::to_string(offset + done),
                         std::to_string(offset + size) + " bytes or more"};
        done += n;
    }
    return {};
}

Result<void> InputFile::check_unchanged() const {
    struct stat open_info {
    }, path_info{};
    if (::fstat(fd_, &open_info) != 0) return Error{path_, "", "cannot read: " + reason(errno), ""};
    const bool changed = open_info.st_size != size_ || mtime_ns(open_info) != mtime_ns_;
    const bool replaced = ::stat(path_.c_str(), &path_info) != 0 || path_info.st_ino != inode_;
    if (!changed && !replaced) return {};
    return Error{path_, "", "the file was changed while it was read", "a file that stays as it is"};
}

Result<std::string> read_text_file(const std::string& path, int64_t max_bytes) {
    TRY_ASSIGN(file, InputFile::open(path));
    if (file->size() > max_bytes)
        return Error{path, "", std::to_string(file->size()) + " bytes",
                     "at most " + std::to_string(max_bytes) + " bytes"};
    std::string text(size_t(file->size()), '\0');
    TRY_VOID(file->read(0, text.data(), file->size()));
    return text;
}

Result<ReplacementFile> ReplacementFile::create(const std::string& path) {
    if (path.empty() || path.find('\0') != std::string::npos)
        return Error{path, "path", "an empty path or a zero byte", "the path of a file"};
    ReplacementFile file;
    file.path_ = path;
    file.target_ = resolve_links(path);
    struct stat info {};
    const bool exists = ::stat(file.target_.c_str(), &info) == 0;
    if (exists && !S_ISREG(info.st_mode)) return Error{path, "", kind_of(info.st_mode), "a regular file"};
    file.fd_ = create_temporary(file.target_, file.temporary_);
    if (file.fd_ < 0) {
        file.temporary_.clear();
        return Error{path, "", "cannot write: " + reason(errno), ""};
    }
    if (exists && ::fchmod(file.fd_, info.st_mode & 07777) != 0 && errno != EPERM)
        return Error{path, "", "cannot write: " + reason(errno), ""};
    return file;
}

ReplacementFile::ReplacementFile(ReplacementFile&& o) noexcept
    : path_(std::move(o.path_)),
      target_(std::move(o.target_)),
      temporary_(std::exchange(o.temporary_, {})),
      fd_(std::exchange(o.fd_, -1)) {}

ReplacementFile::~ReplacementFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Result<void> ReplacementFile::commit() {
    if (::fsync(fd_) != 0 || ::rename(temporary_.c_str(), target_.c_str()) != 0)
        return Error{path_, "", "cannot write: " + reason(errno), ""};
    temporary_.clear();
    // Some file systems cannot sync a folder; the new content is in place either way.
    const Fd folder(::open(folder_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.fd >= 0) ::fsync(folder.fd);
    return {};
}

Result<void> write_file_atomically(const std::string& path, std::string_view content) {
    TRY_ASSIGN(file, ReplacementFile::create(path));
    TRY_VOID(write_all(file.fd(), path, content));
    return file.commit();
}

std::string sha256_hex(std::string_view bytes) {
    Sha256 sha;
    sha.update(bytes);
    return to_hex(sha.finish());
}

Result<std::string> sha256_of_file(const std::string& path) {
    TRY_ASSIGN(file, InputFile::open(path));
    Sha256 sha;
    std::vector<char> buffer(1 << 20);
    for (int64_t offset = 0; offset < file->size();) {
        const int64_t n = std::min<int64_t>(int64_t(buffer.size()), file->size() - offset);
        TRY_VOID(file->read(offset, buffer.data(), n));
        sha.update(buffer.data(), size_t(n));
        offset += n;
    }
    TRY_VOID(file->check_unchanged());
    return to_hex(sha.finish());
}

std::string cache_dir() { return xdg_dir("XDG_CACHE_HOME", "/.cache") + "/spartanserve"; }
std::string runs_dir() { return xdg_dir("XDG_DATA_HOME", "/.local/share") + "/spartanserve/runs"; }

}  // namespace spartan
