#include "core/adapter/peft_folder.h"

#include "core/adapter/peft_tensor_name.h"
#include "core/base/text.h"
#include "core/model/float_rows.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <tuple>

namespace spartan {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = 16 << 20;
constexpr const char* kOldOftInstead =
    "OFT of PEFT 0.14 or later; merge it into its base with PEFT 0.13's merge_and_unload() and use that as the model, "
    "or "
    "train it again";
constexpr size_t kMaxProblems = 20;  // more say nothing new

bool exists(const std::string& path) {
    std::error_code ignored;
    return fs::exists(path, ignored);
}

Result<void> check_files(const std::string& dir) {
    std::error_code code;
    const fs::file_status status = fs::status(dir, code);
    if (!fs::exists(status)) return Error{dir, "", "no such folder", "a PEFT adapter's folder"};
    if (!fs::is_directory(status)) return Error{dir, "", "a file", "a PEFT adapter's folder"};
    if (!exists(dir + "/adapter_config.json"))
        return Error{dir, "adapter_config.json", "no such file",
                     "a PEFT adapter's folder (adapters with a name of their own lie in a folder below)"};
    if (exists(dir + "/adapter_model.safetensors")) return {};
    if (exists(dir + "/adapter_model.bin"))
        return Error{
            dir, "adapter_model.bin", "a pickle, which can run code and is never opened",
            "adapter_model.safetensors: load it once in PEFT and save_pretrained(DIR, safe_serialization=True)"};
    return Error{dir, "adapter_model.safetensors", "no such file", "the adapter's tensors in one file"};
}

std::string shape_of(const SafetensorsEntry& e) { return "shape " + shape_text(e.shape); }

class Grouper {
public:
    explicit Grouper(PeftFolder& folder) : folder_(folder) {}

    void run() {
        for (const SafetensorsEntry& entry : folder_.file->entries()) add(entry);
        for (auto& [key, module] : modules_) {
            complete(module);
            folder_.modules.push_back(std::move(module));
        }
        const bool any = std::any_of(folder_.modules.begin(), folder_.modules.end(), [](const PeftModule& m) {
            return m.adapts() || m.at(TensorRole::copy) || m.at(TensorRole::token_rows);
        });
        if (any) check_saved_modules();
        if (!any && folder_.problems.empty()) problem(path(), "", "no adapted module", "at least one");
    }

private:
    const std::string& path() const { return folder_.file->path(); }

    void problem(std::string file, std::string field, std::string found, std::string expected) {
        if (folder_.problems.size() < kMaxProblems)
            folder_.problems.push_back({std::move(file), std::move(field), std::move(found), std::move(expected)});
    }
    void problem(const SafetensorsEntry& e, std::string found, std::string expected) {
        problem(path(), shorten(e.name, 200), std::move(found), std::move(expected));
    }

    void add(const SafetensorsEntry& entry) {
        const TensorName name = parse_tensor_name(entry.name);
        switch (name.kind) {
            case TensorName::Kind::ignored:
                return;
            case TensorName::Kind::refused:
                problem(entry, shorten(name.reason, 200), name.instead);
                return;
            case TensorName::Kind::part:
                break;
        }
        const ModuleName where = *parse_module_name(name.module);
        PeftModule& module = modules_[{where.layer, where.kind, where.projection, where.norm}];
        module.name = name.module;
        module.where = where;
        const SafetensorsEntry*& slot = module.tensors[size_t(name.role)];
        if (slot) return problem(entry, "the same part as " + shorten(slot->name, 200), "one tensor for each part");
        slot = &entry;
    }

    // Shape [n0, n1, …]; a negative size stands for "any".
    bool has_shape(const SafetensorsEntry& e, const std::vector<int64_t>& shape, const char* expected) {
        bool same = e.shape.size() == shape.size();
        for (size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || e.shape[i] == shape[i];
        if (!same) problem(e, shape_of(e), expected);
        return same;
    }

    bool requires_part(const PeftModule& m, TensorRole role, const char* what) {
        if (m.at(role)) return true;
        problem(path(), m.name, std::string("no ") + what, "a complete group of tensors");
        return false;
    }

    // Parts of another kind of adapter than the config says.
    void refuse_foreign(const PeftModule& m, std::initializer_list<TensorRole> allowed) {
        for (size_t i = 0; i < kNumTensorRoles; ++i) {
            const TensorRole role{uint8_t(i)};
            const bool is_own = role == TensorRole::bias || role == TensorRole::copy || role == TensorRole::token_rows;
            if (!m.at(role) || is_own || std::count(allowed.begin(), allowed.end(), role)) continue;
            problem(*m.at(role), "a part of another kind of adapter",
                    std::string("parts of ") + name_of(folder_.config.kind));
        }
    }

    void complete(PeftModule& m) {
        if (const SafetensorsEntry* bias = m.at(TensorRole::bias); bias && has_shape(*bias, {-1}, "[out]")) {
            m.out = bias->shape[0];
            if (!folder_.config.keeps_bias && !warned_bias_) {
                folder_.warnings.push_back("the file holds biases although the config says bias none; they are used");
                warned_bias_ = true;
            }
        }
        complete_table(m);
        if (!m.adapts()) return;
        switch (folder_.config.kind) {
            case AdapterKind::boft:
                complete_boft(m);
                break;
            case AdapterKind::oft:
                complete_oft(m);
                break;
            case AdapterKind::lora:
            case AdapterKind::dora:
                complete_lora(m);
                break;
        }
        check_lists(m);
    }

    // Rows that replace the base's: how many the config says.
    void complete_table(PeftModule& m) {
        const std::vector<int64_t>* ids = folder_.config.tokens_of(m.name);
        if (const SafetensorsEntry* rows = m.at(TensorRole::token_rows)) {
            if (!ids) return problem(*rows, "trained tokens", "their ids in trainable_token_indices of the config");
            const auto count = int64_t(ids->size());
            if (has_shape(*rows, {count, -1}, ("[" + std::to_string(count) + ", hidden]").c_str()) && m.adapts())
                problem(*rows, "trained tokens of a module that is adapted as well", "one or the other");
        }
        if (const SafetensorsEntry* copy = m.at(TensorRole::copy))
            has_shape(*copy,
                      m.where.kind == ModuleName::Kind::norm ? std::vector<int64_t>{-1} : std::vector<int64_t>{-1, -1},
                      m.where.kind == ModuleName::Kind::norm ? "[n]" : "[vocab, hidden]");
    }

    // What the config names and the file does not hold: PEFT starts such modules from the base's.
    void check_saved_modules() {
        const PeftConfig& c = folder_.config;
        for (const std::string& name : c.saved) {
            const bool found = std::any_of(folder_.modules.begin(), folder_.modules.end(), [&](const PeftModule& m) {
                return m.at(TensorRole::copy) && m.name.ends_with(name);
            });
            if (!found)
                add_problem({c.file, "modules_to_save",
                             "\"" + shorten(name, 80) + "\", of which the file holds no copy",
                             "embed_tokens, lm_head or norms with their tensors"});
        }
        for (const auto& entry : c.tokens) {  // no structured binding: clang 14 cannot capture one
            if (has_token_rows(&entry.second)) continue;
            // A head with the embedding's ids has no rows of its own where the base ties the two (tables.cpp).
            const std::vector<int64_t>* of_embedding = c.tokens_of("model.embed_tokens");
            const bool shares = c.tokens_of("lm_head") == &entry.second && of_embedding &&
                                *of_embedding == entry.second && has_token_rows(of_embedding);
            if (!shares)
                add_problem({c.file, "trainable_token_indices",
                             "tokens of \"" + shorten(entry.first, 80) + "\" without rows",
                             "embed_tokens or lm_head with a trainable_tokens_delta in the file"});
        }
    }

    bool has_token_rows(const std::vector<int64_t>* ids) const {
        return std::any_of(folder_.modules.begin(), folder_.modules.end(), [&](const PeftModule& m) {
            return m.at(TensorRole::token_rows) && folder_.config.tokens_of(m.name) == ids;
        });
    }

    void complete_boft(PeftModule& m) {
        refuse_foreign(m, {TensorRole::boft_r, TensorRole::boft_s});
        if (!requires_part(m, TensorRole::boft_r, "boft_R") || !requires_part(m, TensorRole::boft_s, "boft_s")) return;
        const SafetensorsEntry& r = *m.at(TensorRole::boft_r);
        const SafetensorsEntry& s = *m.at(TensorRole::boft_s);
        if (!has_shape(r, {-1, -1, -1, -1}, "[factors, blocks, b, b]") || !has_shape(s, {-1, 1}, "[out, 1]")) return;
        const int64_t factors = r.shape[0], blocks = r.shape[1], b = r.shape[2];
        if (r.shape[3] != b || b < 1 || blocks < 1 || factors < 1)
            return problem(r, shape_of(r), "[factors, blocks, b, b], none of them 0");
        const bool closed = factors == 1 || (factors < 32 && b % 2 == 0 && blocks % (int64_t(1) << (factors - 1)) == 0);
        if (!closed) return problem(r, shape_of(r), "an even b and a number of blocks divisible by 2^(factors - 1)");
        m.b = b;
        m.m = factors;
        m.in = blocks * b;
        m.out = s.shape[0];
        check_boft_config(r, m, blocks);
    }

    void check_boft_config(const SafetensorsEntry& r, const PeftModule& m, int64_t blocks) {
        const PeftConfig& c = folder_.config;
        if (c.boft_block_size > 0 && c.boft_block_size != m.b)
            problem(r, "blocks of " + std::to_string(m.b),
                    std::to_string(c.boft_block_size) + " (boft_block_size of the config)");
        if (c.boft_block_num > 0 && c.boft_block_num != blocks)
            problem(r, std::to_string(blocks) + " blocks",
                    std::to_string(c.boft_block_num) + " (boft_block_num of the config)");
        if (m.m == c.boft_factors) return;
        if (m.m != 1)
            return problem(r, std::to_string(m.m) + " factors",
                           std::to_string(c.boft_factors) + " (boft_n_butterfly_factor of the config)");
        if (warned_factors_) return;
        warned_factors_ = true;
        folder_.warnings.push_back(
            "the config says " + std::to_string(c.boft_factors) +
            " butterfly factors but the tensors hold 1, as PEFT saves without its CUDA extension; 1 is used");
    }

    // PEFT 0.14 and 0.15: BOFT's mathematics with one factor. Before, R acted on outputs and came without s.
    void complete_old_oft(PeftModule& m) {
        refuse_foreign(m, {TensorRole::old_oft_r, TensorRole::old_oft_s});
        const PeftConfig& c = folder_.config;
        const SafetensorsEntry* s = m.at(TensorRole::old_oft_s);
        if (!m.at(TensorRole::old_oft_r)) return problem(*s, "no oft_r beside it", "both");
        const SafetensorsEntry& r = *m.at(TensorRole::old_oft_r);
        if (!s || !c.has_oft_block_size)
            return problem(r, "OFT of PEFT 0.7 to 0.13, which rotates outputs", kOldOftInstead);
        if (!has_shape(r, {-1, -1, -1}, "[blocks, b, b]") || !has_shape(*s, {-1, 1}, "[out, 1]")) return;
        if (r.shape[0] < 1 || r.shape[1] < 1 || r.shape[1] != r.shape[2])
            return problem(r, shape_of(r), "[blocks, b, b], none of them 0");
        if (c.oft_block_share && r.shape[0] != 1)
            return problem(r, shape_of(r), "one block, as block_share of the config says");
        m.b = r.shape[1];
        m.m = 1;
        m.in = c.oft_block_share ? -1 : r.shape[0] * m.b;
        m.out = s->shape[0];
        warn_of_adjusted(r.shape[0], m.b);
    }

    void complete_oft(PeftModule& m) {
        if (m.at(TensorRole::old_oft_r) || m.at(TensorRole::old_oft_s)) return complete_old_oft(m);
        const bool is_embedding = m.where.kind == ModuleName::Kind::embedding;
        const TensorRole role = is_embedding ? TensorRole::oft_embedding_r : TensorRole::oft_r;
        refuse_foreign(m, {role});
        if (!requires_part(m, role, "oft_R")) return;
        if (!folder_.config.has_oft_block_size)
            return add_problem(
                {folder_.config.file, "oft_block_size", "nothing", "this key, as PEFT 0.14 and later write it"});
        const SafetensorsEntry& r = *m.at(role);
        if (!has_shape(r, {-1, -1}, "[blocks, b (b - 1) / 2]")) return;
        const int64_t values = r.shape[1];
        constexpr const char* kExpected = "[blocks, b (b - 1) / 2] for a whole b of at least 2";
        if (r.shape[0] < 1 || values < 1) return problem(r, shape_of(r), kExpected);
        auto b = int64_t((1 + std::sqrt(1 + 8 * double(values))) / 2);
        while (b > 1 && b * (b - 1) / 2 > values) --b;
        while (b * (b + 1) / 2 <= values) ++b;
        if (b * (b - 1) / 2 != values) return problem(r, shape_of(r), kExpected);
        m.b = b;
        m.m = 1;
        const PeftConfig& c = folder_.config;
        if (c.oft_block_share) {
            if (r.shape[0] != 1) return problem(r, shape_of(r), "one row, as block_share of the config says");
        } else {
            if (r.shape[0] > (int64_t(1) << 40) / b) return problem(r, shape_of(r), "fewer blocks");
            m.in = r.shape[0] * b;
        }
        warn_of_adjusted(r.shape[0], b);
    }

    // PEFT takes the nearest divisor where the width is not divisible, and keeps the config.
    void warn_of_adjusted(int64_t rows, int64_t b) {
        const PeftConfig& c = folder_.config;
        if (c.oft_block_size > 0 && c.oft_block_size != b && !warned_factors_) {
            warned_factors_ = true;
            folder_.warnings.push_back("the config says blocks of " + std::to_string(c.oft_block_size) +
                                       " but the tensors hold blocks of " + std::to_string(b) +
                                       ", as PEFT saves where the width is not divisible; the tensors' size is used");
        }
        if (c.oft_r > 0 && !c.oft_block_share && c.oft_r != rows && !warned_factors_) {
            warned_factors_ = true;
            folder_.warnings.push_back("the config says " + std::to_string(c.oft_r) + " blocks but the tensors hold " +
                                       std::to_string(rows) + "; the tensors' number is used");
        }
    }

    void complete_lora(PeftModule& m) {
        const bool dora = folder_.config.kind == AdapterKind::dora;
        if (m.where.kind == ModuleName::Kind::embedding) return complete_embedding_lora(m, dora);
        refuse_foreign(m, {TensorRole::lora_a, TensorRole::lora_b,
                           folder_.config.lora_bias ? TensorRole::lora_b_bias : TensorRole::lora_b,
                           dora ? TensorRole::magnitude : TensorRole::lora_b});
        if (!requires_part(m, TensorRole::lora_a, "lora_A") || !requires_part(m, TensorRole::lora_b, "lora_B")) return;
        const SafetensorsEntry& a = *m.at(TensorRole::lora_a);
        const SafetensorsEntry& b = *m.at(TensorRole::lora_b);
        if (!has_shape(a, {-1, -1}, "[r, in]") ||
            !has_shape(b, {-1, a.shape[0]}, ("[out, " + std::to_string(a.shape[0]) + "]").c_str()))
            return;
        if (a.shape[0] < 1 || a.shape[1] < 1 || b.shape[0] < 1)
            return problem(a, shape_of(a), "[r, in], none of them 0");
        m.r = a.shape[0];
        m.in = a.shape[1];
        m.out = b.shape[0];
        const std::string out = "[" + std::to_string(m.out) + "]";
        if (folder_.config.lora_bias && requires_part(m, TensorRole::lora_b_bias, "lora_B.bias"))
            has_shape(*m.at(TensorRole::lora_b_bias), {m.out}, out.c_str());
        if (dora && requires_part(m, TensorRole::magnitude, "lora_magnitude_vector"))
            has_shape(*m.at(TensorRole::magnitude), {m.out}, out.c_str());
        check_rank(a, m);
    }

    void complete_embedding_lora(PeftModule& m, bool dora) {
        refuse_foreign(m, {TensorRole::lora_embedding_a, TensorRole::lora_embedding_b,
                           dora ? TensorRole::magnitude : TensorRole::lora_embedding_b});
        if (!requires_part(m, TensorRole::lora_embedding_a, "lora_embedding_A") ||
            !requires_part(m, TensorRole::lora_embedding_b, "lora_embedding_B"))
            return;
        const SafetensorsEntry& a = *m.at(TensorRole::lora_embedding_a);
        const SafetensorsEntry& b = *m.at(TensorRole::lora_embedding_b);
        if (!has_shape(a, {-1, -1}, "[r, vocab]") ||
            !has_shape(b, {-1, a.shape[0]}, ("[hidden, " + std::to_string(a.shape[0]) + "]").c_str()))
            return;
        if (a.shape[0] < 1 || a.shape[1] < 1 || b.shape[0] < 1)
            return problem(a, shape_of(a), "[r, vocab], none of them 0");
        m.r = a.shape[0];
        m.in = a.shape[1];
        m.out = b.shape[0];
        if (dora && requires_part(m, TensorRole::magnitude, "lora_magnitude_vector"))
            has_shape(*m.at(TensorRole::magnitude), {m.out}, ("[" + std::to_string(m.out) + "]").c_str());
        check_rank(a, m);
    }

    void check_rank(const SafetensorsEntry& a, const PeftModule& m) {
        const PeftConfig& c = folder_.config;
        const auto rank = find_pattern(c.rank_pattern, m.name, c.file, "rank_pattern");
        if (!rank) return add_problem(rank.error());
        const int64_t expected = *rank ? **rank : c.r;
        if (expected != m.r)
            problem(a, "rank " + std::to_string(m.r),
                    std::to_string(expected) + (*rank ? " (rank_pattern of the config)" : " (r of the config)"));
        const auto alpha = find_pattern(c.alpha_pattern, m.name, c.file, "alpha_pattern");
        if (!alpha) add_problem(alpha.error());
    }

    void add_problem(const Error& error) {
        for (const Error& known : folder_.problems)
            if (known.message() == error.message()) return;
        if (folder_.problems.size() < kMaxProblems) folder_.problems.push_back(error);
    }

    // Tensors whose module the config does not select: PEFT drops them without a word.
    void check_lists(const PeftModule& m) {
        const PeftConfig& c = folder_.config;
        const bool is_tied_head = c.ties_weights && m.where.kind == ModuleName::Kind::head && c.targets &&
                                  matches_list(*c.targets, "model.embed_tokens");
        if (c.targets && !is_tied_head && !matches_list(*c.targets, m.name))
            add_problem({c.file, "target_modules", "a list without " + m.name, "every module that the tensors adapt"});
        if (c.excluded && matches_list(*c.excluded, m.name))
            add_problem(
                {c.file, "exclude_modules", m.name + ", which has tensors", "no module that the tensors adapt"});
        if (!c.layers || std::count(c.layers->begin(), c.layers->end(), m.where.layer)) return;
        const std::string missing = m.where.layer < 0 ? m.name : "layer " + std::to_string(m.where.layer);
        add_problem({c.file, "layers_to_transform", "a list without " + missing, "every layer that the tensors adapt"});
    }

    PeftFolder& folder_;
    std::map<std::tuple<int, ModuleName::Kind, Projection, NormRole>, PeftModule> modules_;
    bool warned_bias_ = false, warned_factors_ = false;
};

}  // namespace

bool PeftModule::adapts() const {
    for (size_t i = 0; i < kNumTensorRoles; ++i)
        if (const auto role = TensorRole{uint8_t(i)};
            tensors[i] && role != TensorRole::bias && role != TensorRole::copy && role != TensorRole::token_rows)
            return true;
    return false;
}

Result<PeftFolder> read_peft_folder(const std::string& dir) {
    TRY_VOID(check_files(dir));
    PeftFolder folder;
    folder.dir = dir;
    const std::string config_path = dir + "/adapter_config.json";
    TRY_ASSIGN(text, read_text_file(config_path, kMaxConfigBytes));
    TRY_ASSIGN(json, parse_json(text, config_path));
    TRY_ASSIGN(config, parse_peft_config(json, config_path));
    TRY_ASSIGN(file, SafetensorsFile::open(dir + "/adapter_model.safetensors"));
    folder.config_bytes = std::move(text);
    folder.config = std::move(config);
    folder.file = std::move(file);
    folder.bytes = int64_t(folder.config_bytes.size()) + folder.file->file()->size();
    folder.warnings = folder.config.warnings;
    if (folder.config.problem) folder.problems.push_back(*folder.config.problem);
    Grouper(folder).run();
    return folder;
}

}  // namespace spartan
