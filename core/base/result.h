// A value or an Error, for failures a user can cause. Names follow std::expected (C++23).
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace spartan {

// One failure in words: which file, which field of it, what was found and what was expected. Empty parts are left out.
struct Error {
    std::string file;        // path, flag or "" when neither applies
    std::string field;       // JSON path, tensor name, column, …
    std::string found;       // what was there
    std::string expected;    // what would work
    bool cancelled = false;  // the user asked for it: nothing to report

    // "file: field: found X, expected Y", one line, control characters escaped.
    std::string message() const;
};

// A failure that is one sentence only.
Error make_error(std::string sentence);

template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : v_(std::move(value)) {}
    Result(Error error) : v_(std::move(error)) {}

    bool has_value() const { return v_.index() == 0; }
    explicit operator bool() const { return has_value(); }
    T& operator*() & { return std::get<0>(v_); }
    const T& operator*() const& { return std::get<0>(v_); }
    T&& operator*() && { return std::get<0>(std::move(v_)); }
    T* operator->() { return &std::get<0>(v_); }
    const T* operator->() const { return &std::get<0>(v_); }
    const Error& error() const { return std::get<1>(v_); }

private:
    std::variant<T, Error> v_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}
    bool has_value() const { return !error_; }
    explicit operator bool() const { return has_value(); }
    const Error& error() const { return *error_; }

private:
    std::optional<Error> error_;
};

// Leaves the calling function with the error of `expr`, if it has one.
#define TRY_VOID(expr)                                                           \
    do {                                                                         \
        if (auto try_result_ = (expr); !try_result_) return try_result_.error(); \
    } while (0)

// NOLINTBEGIN(bugprone-macro-parentheses): a declared name cannot stand in parentheses.
// Declares `name` as the value of `expr`, or leaves the calling function with its error.
#define TRY_ASSIGN(name, expr)                          \
    auto name##_result_ = (expr);                       \
    if (!name##_result_) return name##_result_.error(); \
    auto& name = *name##_result_
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace spartan
