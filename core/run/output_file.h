// A file that is written piece by piece and appears under its name only when it is whole.
#pragma once

#include "core/base/result.h"

#include <string>
#include <string_view>

namespace spartan {

class OutputFile {
public:
    // Creates a temporary file beside `path`. "-" is standard output, which is written as it comes.
    static Result<OutputFile> create(const std::string& path);
    ~OutputFile();  // without commit(): the temporary file is removed, `path` keeps what it held
    OutputFile(OutputFile&&) noexcept;
    OutputFile& operator=(OutputFile&&) = delete;

    void write(std::string_view text);
    Result<void> commit();  // fsync and rename; the first error of any write

private:
    OutputFile() = default;
    void flush();

    std::string path_, temporary_, buffer_;
    int fd_ = -1;
    int errno_ = 0;
};

}  // namespace spartan
