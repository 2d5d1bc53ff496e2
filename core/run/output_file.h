// A file that is written piece by piece and appears under its name only when it is whole.
#pragma once

#include "core/base/file.h"
#include "core/base/result.h"

#include <optional>
#include <string>
#include <string_view>

namespace spartan {

class OutputFile {
public:
    // Creates a temporary file beside `path`. "-" is standard output; that, a pipe and a device such as /dev/null are
    // written as it comes.
    static Result<OutputFile> create(const std::string& path);
    static Result<void> check(const std::string& path);  // whether create() would succeed; leaves nothing
    ~OutputFile();  // without commit(): the temporary file is removed, `path` keeps what it held
    OutputFile(OutputFile&&) noexcept;
    OutputFile& operator=(OutputFile&&) = delete;

    void write(std::string_view text);
    Result<void> commit();  // fsync and rename; the first error of any write

private:
    OutputFile() = default;
    void flush();

    std::string path_, buffer_;
    std::optional<ReplacementFile> file_;  // none for what is written as it comes
    int fd_ = -1;                          // file_'s, standard output's, or one of our own
    bool owns_fd_ = false;
    int errno_ = 0;
};

}  // namespace spartan
