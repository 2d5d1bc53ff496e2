// A folder that a command makes.
#pragma once

#include "core/base/result.h"

#include <filesystem>
#include <string>

namespace spartan {

// Filled under another name, it appears whole or not at all. One that is there already, and empty, may be somebody's
// working directory: it stays, and receives what was made.
class NewFolder {
public:
    static Result<NewFolder> create(const std::string& path);  // refuses what is there, unless it is an empty folder
    NewFolder(NewFolder&& o) noexcept;
    NewFolder& operator=(NewFolder&&) = delete;
    ~NewFolder();  // removes what was not committed

    std::string inside(const std::string& name) const { return (temporary_ / name).string(); }
    Result<void> commit();

private:
    NewFolder() = default;
    std::filesystem::path path_, temporary_;
    bool exists_ = false;
};

}  // namespace spartan
