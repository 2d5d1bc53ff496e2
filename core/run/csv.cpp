#include "core/run/csv.h"

#include "core/base/text.h"

#include <algorithm>

namespace spartan {
namespace {

constexpr int64_t kChunk = 1 << 18;

std::string shown(int byte) {
    const char c = char(byte);
    return "\"" + escape_control(std::string_view(&c, 1)) + "\"";
}

}  // namespace

Error CsvReader::error_at(int64_t line, int64_t column, std::string found, std::string expected) const {
    return {file_->path(), "line " + std::to_string(line) + ", column " + std::to_string(column), std::move(found),
            std::move(expected)};
}

Result<CsvReader> CsvReader::open(const std::string& path) {
    TRY_ASSIGN(file, InputFile::open(path));
    CsvReader reader(file);
    TRY_ASSIGN(first, reader.peek());
    (void)first;
    const std::string_view start(reader.buffer_);
    if (start.substr(0, 2) == "\xff\xfe" || start.substr(0, 2) == "\xfe\xff")
        return Error{path, "line 1, column 1", "UTF-16", "CSV in UTF-8"};
    if (start.substr(0, 3) == "\xef\xbb\xbf") reader.at_ = 3;
    return reader;
}

Result<int> CsvReader::peek() {
    if (at_ == buffer_.size()) {
        const int64_t count = std::min(kChunk, file_->size() - offset_);
        if (count == 0) {
            TRY_VOID(file_->check_unchanged());
            return -1;
        }
        buffer_.resize(size_t(count));
        TRY_VOID(file_->read(offset_, buffer_.data(), count));
        offset_ += count;
        at_ = 0;
    }
    return int(uint8_t(buffer_[at_]));
}

void CsvReader::take() {
    const auto byte = uint8_t(buffer_[at_++]);
    ++row_bytes_;
    if (byte == '\n') {
        ++line_;
        column_ = 1;
    } else if ((byte & 0xc0) != 0x80) {  // not the continuation of a character
        ++column_;
    }
}

Result<void> CsvReader::append(CsvCell& cell, int byte) {
    if (byte == 0) return error_at(line_, column_, "a NUL byte", "text");
    if (row_bytes_ >= kMaxRowBytes)
        return error_at(line_, column_, "a row longer than " + format_bytes(kMaxRowBytes), "shorter rows");
    cell.text.push_back(char(byte));
    return {};
}

Result<void> CsvReader::quoted_cell(CsvCell& cell) {
    take();  // the opening quote
    for (;;) {
        TRY_ASSIGN(byte, peek());
        if (byte < 0) return error_at(cell.line, cell.column, "a quote that is never closed", "a closing quote");
        if (byte != '"') {
            TRY_VOID(append(cell, byte));
            take();
            continue;
        }
        take();
        TRY_ASSIGN(after, peek());
        if (after == '"') {
            TRY_VOID(append(cell, after));
            take();
            continue;
        }
        if (after >= 0 && after != ',' && after != '\n' && after != '\r')
            return error_at(line_, column_, shown(after) + " after a closing quote", "a comma or the end of the line");
        return {};
    }
}

Result<void> CsvReader::plain_cell(CsvCell& cell) {
    for (;;) {
        TRY_ASSIGN(byte, peek());
        if (byte < 0 || byte == ',' || byte == '\n' || byte == '\r') return {};
        if (byte == '"')
            return error_at(line_, column_, "a quote inside a cell that does not begin with one", "a quoted cell");
        TRY_VOID(append(cell, byte));
        take();
    }
}

Result<bool> CsvReader::next(std::vector<CsvCell>& row) {
    row.clear();
    row_bytes_ = 0;
    TRY_ASSIGN(first, peek());
    if (first < 0) return false;
    for (;;) {
        CsvCell cell;
        cell.line = line_;
        cell.column = column_;
        TRY_ASSIGN(byte, peek());
        TRY_VOID(byte == '"' ? quoted_cell(cell) : plain_cell(cell));
        if (!is_valid_utf8(cell.text))
            return error_at(cell.line, cell.column, "bytes that are not UTF-8", "UTF-8 text");
        row.push_back(std::move(cell));
        TRY_ASSIGN(end, peek());
        if (end == ',') {
            take();
            continue;
        }
        if (end == '\r') {
            take();
            TRY_ASSIGN(newline, peek());
            if (newline != '\n') return error_at(line_, column_, "a carriage return inside a line", "\\r\\n or \\n");
        }
        TRY_ASSIGN(last, peek());
        if (last == '\n') take();
        return true;
    }
}

}  // namespace spartan
