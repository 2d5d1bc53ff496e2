#include "app/spartan/session.h"
#include "core/base/text.h"

#include <filesystem>
#include <memory>

#include <unistd.h>

namespace spartan {
namespace {

namespace fs = std::filesystem;

// A folder that is filled under another name and appears whole or not at all. One that is there already, and empty, may
// be somebody's working directory: it stays, and receives what was made.
class NewFolder {
public:
    static Result<NewFolder> create(const std::string& path) {
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
    NewFolder(NewFolder&& o) noexcept
        : path_(std::move(o.path_)), temporary_(std::move(o.temporary_)), exists_(o.exists_) {
        o.temporary_.clear();
    }
    NewFolder& operator=(NewFolder&&) = delete;
    ~NewFolder() {
        std::error_code ignored;
        if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
    }

    std::string inside(const std::string& name) const { return (temporary_ / name).string(); }
    Result<void> commit() {
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

private:
    NewFolder() = default;
    fs::path path_, temporary_;
    bool exists_ = false;
};

Result<void> make_adapters(const GlobalOptions& options, const std::string& model,
                           const std::vector<std::string>& specs, const std::string& out, Progress& progress) {
    TRY_ASSIGN(requests, parse_adapter_arguments(specs, ""));
    TRY_ASSIGN(opened, open_model(model, options.seed_or()));
    TRY_ASSIGN(folder, NewFolder::create(out));
    ProgressLine line;
    for (size_t i = 0; i < requests.size(); ++i) {
        if (progress.cancelled()) return Error{"", "", "", "", true};
        line.show("Writing " + requests[i].name + ", " + std::to_string(i + 1) + " of " +
                  std::to_string(requests.size()));
        const AdapterRequest& r = requests[i];
        TRY_VOID(write_synthetic_adapter(r.spec, r.index_in_spec, r.global_index, options.seed_or(), opened.config,
                                         opened.name, folder.inside(r.name)));
    }
    line.clear();
    TRY_VOID(folder.commit());
    print(std::to_string(requests.size()) + " adapters in " + for_output(out) + "\n");
    return {};
}

}  // namespace

void add_make_adapters(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command = add_command(
        app, "make-adapters", "Random adapters of known geometry as PEFT folders, for tests and measurements",
        {"spartan make-adapters --model synthetic:llama-2-7b --spec synthetic:boft:12:b=16,m=2,b=32,m=1 --out adapters",
         "spartan make-adapters --model demo --spec synthetic:lora:4:r=8,r=16 --out adapters --seed 7"});
    auto model = std::make_shared<ModelOptions>();
    auto specs = std::make_shared<std::vector<std::string>>();
    auto out = std::make_shared<std::string>();
    add_model_option(command, *model);
    add_repeatable(command, "--spec", *specs, "synthetic:KIND:COUNT:SIZES (boft, oft, lora); may be repeated")
        ->type_name("SPEC")
        ->required();
    command->add_option("--out", *out, "A new or empty folder; gets one folder per adapter")
        ->type_name("FOLDER")
        ->check(not_empty("a new or empty folder"))
        ->required();
    command->callback([&options, &action, model, specs, out] {
        for (const std::string& spec : *specs)
            if (spec.rfind("synthetic:", 0) != 0)
                throw CLI::ValidationError("--spec",
                                           "found " + shorten(spec, 100) + ", expected synthetic:KIND:COUNT:SIZES");
        check_adapter_arguments("--spec", *specs);
        action = [&options, model, specs, out] {
            return perform(
                [&](Progress& progress) { return make_adapters(options, model->model, *specs, *out, progress); });
        };
    });
}

}  // namespace spartan
