#include "app/spartan/new_folder.h"

#include <unistd.h>

namespace spartan {

namespace fs = std::filesystem;

Result<NewFolder> NewFolder::create(const std::string& path) {
    std::error_code error;
    const bool exists = fs::exists(path, error);
    if (exists && !(fs::is_directory(path, error) && fs::is_empty(path, error)))
        return Error{path, "", fs::is_directory(path, error) ? "a folder that is not empty" : "a file",
                     "a new or empty folder"};
    NewFolder folder;
    folder.exists_ = exists;
    folder.path_ = fs::path(path).lexically_normal();
    if (!folder.path_.has_filename()) folder.path_ = folder.path_.parent_path();
    const std::string name = ".tmp" + std::to_string(::getpid());
    folder.temporary_ = exists ? folder.path_ / name : fs::path(folder.path_.string() + name);
    if (!fs::create_directory(folder.temporary_, error)) {
        const std::string reason = error ? error.message() : "a file of the temporary name";
        folder.temporary_.clear();
        return Error{path, "", reason, "a folder that can be made"};
    }
    return folder;
}

NewFolder::NewFolder(NewFolder&& o) noexcept
    : path_(std::move(o.path_)), temporary_(std::move(o.temporary_)), exists_(o.exists_) {
    o.temporary_.clear();
}

NewFolder::~NewFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

Result<void> NewFolder::commit() {
    std::error_code error;
    if (!exists_) {
        fs::rename(temporary_, path_, error);
        if (!error) temporary_.clear();
    } else {
        for (const fs::directory_entry& entry : fs::directory_iterator(temporary_, error))
            if (!error) fs::rename(entry.path(), path_ / entry.path().filename(), error);
    }
    if (error) return Error{path_.string(), "", error.message(), "a folder that can be written"};
    return {};
}

}  // namespace spartan
