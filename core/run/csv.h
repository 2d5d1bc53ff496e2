// Reads CSV (RFC 4180) row by row from a file of any size in bounded memory. Strict: what RFC 4180 does not allow is an
// error that names line and column, both counted from 1, columns in characters.
#pragma once

#include "core/base/file.h"
#include "core/base/result.h"

#include <memory>
#include <string>
#include <vector>

namespace spartan {

struct CsvCell {
    std::string text;
    int64_t line = 0, column = 0;  // where it begins
};

class CsvReader {
public:
    static constexpr int64_t kMaxRowBytes = 1 << 20;

    // Refuses UTF-16; skips a UTF-8 byte order mark.
    static Result<CsvReader> open(const std::string& path);

    // The next row; false at the end. Rows end with \n or \r\n; the last may lack it. Refuses an open quote, a quote or
    // text where none may be, a bare \r, NUL, invalid UTF-8 and rows over kMaxRowBytes.
    Result<bool> next(std::vector<CsvCell>& row);

    int64_t line() const { return line_; }
    int64_t file_bytes() const { return file_->size(); }
    Error error_at(int64_t line, int64_t column, std::string found, std::string expected) const;

private:
    explicit CsvReader(std::shared_ptr<InputFile> file) : file_(std::move(file)) {}
    Result<int> peek();  // the next byte, or -1 at the end
    void take();         // steps over it
    Result<void> quoted_cell(CsvCell& cell);
    Result<void> plain_cell(CsvCell& cell);
    Result<void> append(CsvCell& cell, int byte);

    std::shared_ptr<InputFile> file_;
    std::string buffer_;
    size_t at_ = 0;
    int64_t offset_ = 0;  // of the byte after the buffer
    int64_t line_ = 1, column_ = 1, row_bytes_ = 0;
};

}  // namespace spartan
