// A Hugging Face folder: config.json, one or several safetensors files, tokenizer and chat template.
#include "core/base/json.h"
#include "core/base/text.h"
#include "core/model/float_rows.h"
#include "core/model/fused.h"
#include "core/model/hf_config.h"
#include "core/model/layout.h"
#include "core/model/safetensors.h"
#include "core/model/source.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <unordered_map>

namespace spartan {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxShards = 1000;
constexpr int64_t kMaxConfigBytes = 16 << 20;

bool exists(const std::string& path) {
    std::error_code ignored;
    return fs::exists(path, ignored);
}

// "name" for models/name, models/name/ and the cache's models--org--name/snapshots/REVISION.
std::string title_of(const std::string& path) {
    std::error_code failed;
    fs::path full = fs::absolute(path, failed).lexically_normal();
    if (failed) full = path;
    if (!full.has_filename()) full = full.parent_path();
    for (const fs::path& part : full) {
        const std::string text = part.string();
        if (text.starts_with("models--")) return text.substr(text.rfind("--") + 2);
    }
    return full.filename().string();
}

struct Shards {
    std::vector<std::shared_ptr<const SafetensorsFile>> files;
    std::string index_path;  // of the only file when there is no index
};

// A file that lies in the folder itself: an index must not reach anywhere else.
bool is_plain_name(const std::string& name) {
    return !name.empty() && name != "." && name != ".." && name.find_first_of("/\\") == std::string::npos &&
           name.find('\0') == std::string::npos;
}

Result<std::map<std::string, std::vector<std::string>>> read_index(const std::string& path) {
    TRY_ASSIGN(json, read_json_file(path));
    Fields f(json, path);
    f.require("weight_map");
    const Json* map = f.object("weight_map");
    f.ignore("metadata");
    TRY_VOID(f.finish_known_only());
    std::map<std::string, std::vector<std::string>> tensors_of;
    for (const auto& [tensor, file] : map->items()) {
        const std::string field = "weight_map." + shorten(tensor, 200);
        if (!file.is_string() || !is_plain_name(file.get_ref<const std::string&>()))
            return Error{path, field, describe(file), "the name of a file beside the index"};
        tensors_of[file.get<std::string>()].push_back(tensor);
    }
    if (tensors_of.empty()) return Error{path, "weight_map", "no tensors", "at least one"};
    if (tensors_of.size() > kMaxShards)
        return Error{path, "weight_map", std::to_string(tensors_of.size()) + " files",
                     "at most " + std::to_string(kMaxShards)};
    return tensors_of;
}

Result<Shards> open_shards(const std::string& dir, const std::string& index_path) {
    TRY_ASSIGN(tensors_of, read_index(index_path));
    Shards shards{{}, index_path};
    std::unordered_map<std::string_view, const std::string*> home;  // of each tensor
    for (const auto& [name, tensors] : tensors_of) {
        const std::string path = dir + "/" + name;
        if (!exists(path)) return Error{index_path, "weight_map", "no file " + path, "every file of the index"};
        TRY_ASSIGN(file, SafetensorsFile::open(path));
        for (const SafetensorsEntry& e : file->entries())
            if (const auto [it, is_new] = home.emplace(e.name, &name); !is_new)
                return Error{path, shorten(e.name, 200), "the tensor also in " + *it->second,
                             "each tensor in one file"};
        for (const std::string& tensor : tensors)
            if (!file->find(tensor))
                return Error{path, shorten(tensor, 200), "no such tensor", "the tensors that " + index_path + " names"};
        shards.files.push_back(file);
    }
    return shards;
}

Result<Shards> open_weights(const std::string& dir) {
    const std::string single = dir + "/model.safetensors", index = single + ".index.json";
    if (exists(single)) {
        TRY_ASSIGN(file, SafetensorsFile::open(single));
        return Shards{{file}, single};
    }
    if (exists(index)) return open_shards(dir, index);
    if (exists(dir + "/pytorch_model.bin") || exists(dir + "/pytorch_model.bin.index.json"))
        return Error{dir, "pytorch_model.bin", "a pickle, which is never opened",
                     "model.safetensors (save_pretrained writes it)"};
    return Error{dir, "", "no model.safetensors and no model.safetensors.index.json", "one of them"};
}

TensorSource make_source(const std::shared_ptr<InputFile>& file, const SafetensorsEntry& e) {
    TensorSource t;
    t.name = e.name;
    t.shape = e.shape;
    t.dtype = e.dtype;
    t.bytes = e.bytes;
    const std::optional<GgufType> type = float_type(e.dtype);
    if (!type) return t;
    const int64_t row_bytes = t.row_bytes(), cols = t.cols(), begin = e.begin;
    t.read_stored = [=](int64_t first, int64_t count, std::byte* out) {
        return file->read(begin + first * row_bytes, out, count * row_bytes);
    };
    t.read_rows = [=, read = t.read_stored](int64_t first, int64_t count, float* out) -> Result<void> {
        std::vector<std::byte> stored(size_t(count * row_bytes));
        TRY_VOID(read(first, count, stored.data()));
        dequantise_row(*type, stored.data(), count * cols, out);
        return {};
    };
    return t;
}

// Compares stored bytes and stops at the first difference.
Result<bool> same_content(const TensorSource& a, const TensorSource& b) {
    if (a.shape != b.shape || a.dtype != b.dtype || !a.read_stored || !b.read_stored) return false;
    const int64_t step = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, a.row_bytes()));
    std::vector<std::byte> x(size_t(step * a.row_bytes())), y(x.size());
    for (int64_t first = 0; first < a.rows(); first += step) {
        const int64_t count = std::min(step, a.rows() - first);
        TRY_VOID(a.read_stored(first, count, x.data()));
        TRY_VOID(b.read_stored(first, count, y.data()));
        if (std::memcmp(x.data(), y.data(), size_t(count * a.row_bytes())) != 0) return false;
    }
    return true;
}

// transformers 5 ties the output to the embedding only when the file holds no output of its own that differs.
Result<void> settle_tying(OpenedModel& opened, std::vector<TensorSource>& tensors) {
    if (!opened.config.tied_embeddings) return {};
    const auto named = [&](const char* name) {
        return std::find_if(tensors.begin(), tensors.end(), [&](const TensorSource& t) { return t.name == name; });
    };
    const auto head = named("lm_head.weight"), embedding = named("model.embed_tokens.weight");
    if (head == tensors.end() || embedding == tensors.end()) return {};
    TRY_ASSIGN(same, same_content(*head, *embedding));
    if (same) {
        tensors.erase(head);
        return {};
    }
    opened.config.tied_embeddings = false;
    opened.warnings.push_back(
        "tie_word_embeddings is set, but lm_head.weight differs from the embedding: it is used, as transformers 5 "
        "does");
    return {};
}

// What only text needs: a model runs on ids without it, so a fault here is a warning.
void open_text_parts(OpenedModel& opened, const std::string& dir) {
    const std::string tokenizer_path = dir + "/tokenizer.json";
    if (exists(tokenizer_path)) {
        if (auto tokenizer = read_tokenizer_json(tokenizer_path)) {
            opened.tokenizer = *tokenizer;
        } else {
            opened.tokenizer_error = tokenizer.error().message();
            opened.warnings.push_back("runs on ids only: " + opened.tokenizer_error);
        }
    } else if (exists(dir + "/tokenizer.model")) {
        opened.tokenizer_error = Error{dir, "tokenizer.model", "SentencePiece only", "tokenizer.json"}.message();
        opened.warnings.push_back("runs on ids only: " + opened.tokenizer_error);
    }
    ChatSource source;
    if (auto found = read_chat_source(dir))
        source = *found;
    else
        opened.warnings.push_back("chat template left out: " + found.error().message());
    opened.chat_template = ChatTemplate::make(std::move(source));
}

Result<Json> read_config_file(const std::string& path) {
    return read_json_file(path, {.max_bytes = kMaxConfigBytes, .big_integers_as_double = true});
}

Result<ModelConfig> read_config(const std::string& dir, std::vector<std::string>& warnings) {
    const std::string path = dir + "/config.json", generation = dir + "/generation_config.json";
    if (!exists(path)) {
        const bool adapter = exists(dir + "/adapter_config.json");
        return Error{dir, "config.json", adapter ? "an adapter's folder" : "no such file",
                     "a model folder with config.json"};
    }
    TRY_ASSIGN(json, read_config_file(path));
    TRY_ASSIGN(config, read_hf_config(json, path, warnings));
    if (exists(generation)) {
        TRY_ASSIGN(generation_json, read_config_file(generation));
        TRY_VOID(apply_generation_config(generation_json, generation, config, warnings));
    }
    return config;
}

}  // namespace

Result<OpenedModel> open_hf_folder(const std::string& path) {
    OpenedModel opened;
    opened.path = path;
    opened.name = title_of(path);
    opened.source = "safetensors";
    TRY_ASSIGN(config, read_config(path, opened.warnings));
    opened.config = config;
    TRY_ASSIGN(shards, open_weights(path));
    std::vector<TensorSource> tensors;
    for (const auto& file : shards.files) {
        opened.files.push_back(file->file());
        opened.file_bytes += file->file()->size();
        for (const SafetensorsEntry& e : file->entries()) {
            opened.parameters += e.elements();
            tensors.push_back(make_source(file->file(), e));
        }
    }
    opened.dtype = most_common_dtype(tensors);
    TRY_VOID(settle_tying(opened, tensors));
    TRY_ASSIGN(whole, split_fused(opened.config, std::move(tensors), shards.index_path));
    match_tensors(opened, std::move(whole), shards.index_path);
    open_text_parts(opened, path);
    return opened;
}

}  // namespace spartan
