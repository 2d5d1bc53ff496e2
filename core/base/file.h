// Reading files that may be damaged, huge, changing or not files at all; writing files so that old or new survives.
#pragma once

#include "core/base/result.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace spartan {

// A regular file held open and read by position. A file that shrinks or is replaced while it is read gives an error,
// never SIGBUS: nothing is mapped.
class InputFile {
public:
    static Result<std::shared_ptr<InputFile>> open(const std::string& path);  // refuses FIFOs, devices, directories
    ~InputFile();
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;

    const std::string& path() const { return path_; }
    int64_t size() const { return size_; }
    // Fills exactly `size` bytes from `offset`; may be called from several threads.
    Result<void> read(int64_t offset, void* out, int64_t size) const;
    // An error when size, mtime or inode differ from when it was opened.
    Result<void> check_unchanged() const;

private:
    InputFile() = default;
    std::string path_;
    int fd_ = -1;
    int64_t size_ = 0, mtime_ns_ = 0;
    uint64_t inode_ = 0;
};

Result<std::string> read_text_file(const std::string& path, int64_t max_bytes = 256 << 20);

// Temporary file beside it, fsync, rename: `path` holds the old content or the new, never a mix.
Result<void> write_file_atomically(const std::string& path, std::string_view content);

// The same in pieces, for writers that do not hold all of their content. The destructor removes what was not committed.
class ReplacementFile {
public:
    // Refuses paths at which something other than a regular file lies. A link's target is what gets replaced, not the
    // link; the new file has the old one's permissions.
    static Result<ReplacementFile> create(const std::string& path);
    ~ReplacementFile();
    ReplacementFile(ReplacementFile&&) noexcept;
    ReplacementFile& operator=(ReplacementFile&&) = delete;

    int fd() const { return fd_; }
    Result<void> commit();  // fsync and rename

private:
    ReplacementFile() = default;
    std::string path_, target_, temporary_;
    int fd_ = -1;
};

// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::string_view bytes);
Result<std::string> sha256_of_file(const std::string& path);

// $XDG_CACHE_HOME/spartanserve and $XDG_DATA_HOME/spartanserve/runs with the usual fallbacks; not created.
std::string cache_dir();
std::string runs_dir();

}  // namespace spartan
