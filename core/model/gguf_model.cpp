// A GGUF file of architecture llama, qwen2, qwen3, gemma or phi3 as a model in Hugging Face's terms.
#include "core/base/text.h"
#include "core/model/family.h"
#include "core/model/float_rows.h"
#include "core/model/fused.h"
#include "core/model/gguf.h"
#include "core/model/gguf_rope.h"
#include "core/model/hf_config.h"
#include "core/model/layout.h"
#include "core/model/source.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstring>
#include <limits>

namespace spartan {
namespace {

// Architectures have the names of families; each file's keys begin with its own.
constexpr const char* kArchitectures[] = {"llama", "qwen2", "qwen3", "gemma", "phi3"};

std::string key_of(const ModelConfig& c, const char* name) { return c.kind + "." + name; }

// ---- sizes ---------------------------------------------------------------------------------------------------------

Result<void> read_sizes(const GgufFile& f, ModelConfig& c) {
    const auto size = [&](int64_t& out, const char* name, int64_t max,
                          std::optional<int64_t> fallback = {}) -> Result<void> {
        TRY_ASSIGN(n, f.integer(key_of(c, name), fallback, 1, max));
        out = n;
        return {};
    };
    TRY_VOID(size(c.max_position, "context_length", ConfigLimits::max_position));
    TRY_VOID(size(c.hidden_size, "embedding_length", ConfigLimits::hidden_size));
    TRY_VOID(size(c.num_layers, "block_count", ConfigLimits::num_layers));
    TRY_VOID(size(c.intermediate_size, "feed_forward_length", ConfigLimits::intermediate_size));
    TRY_VOID(size(c.num_heads, "attention.head_count", ConfigLimits::num_heads));
    TRY_VOID(size(c.num_kv_heads, "attention.head_count_kv", ConfigLimits::num_heads, c.num_heads));
    if (!f.find(key_of(c, "attention.key_length")) && c.hidden_size % c.num_heads != 0)
        return Error{f.path(), key_of(c, "attention.head_count"), std::to_string(c.num_heads),
                     "a divisor of " + key_of(c, "embedding_length") + " " + std::to_string(c.hidden_size)};
    TRY_VOID(size(c.head_dim, "attention.key_length", ConfigLimits::head_dim, c.hidden_size / c.num_heads));
    int64_t value_length = 0;
    TRY_VOID(size(value_length, "attention.value_length", ConfigLimits::head_dim, c.head_dim));
    if (value_length != c.head_dim)
        return Error{f.path(), key_of(c, "attention.value_length"), std::to_string(value_length),
                     "the key_length " + std::to_string(c.head_dim)};
    TRY_ASSIGN(eps, f.number(key_of(c, "attention.layer_norm_rms_epsilon"), {}, 0, 1));
    c.rms_norm_eps = float(eps);
    return {};
}

Result<void> read_vocabulary(const GgufFile& f, ModelConfig& c) {
    const GgufTensor* embedding = f.find_tensor("token_embd.weight");
    if (!embedding || embedding->shape.size() != 2)
        return Error{f.path(), "token_embd.weight",
                     embedding ? "shape " + shape_text(embedding->shape) : "no such tensor",
                     "a matrix [vocabulary, " + std::to_string(c.hidden_size) + "]"};
    TRY_ASSIGN(vocab, f.integer(key_of(c, "vocab_size"), embedding->shape[0], 1, ConfigLimits::vocab_size));
    if (vocab != embedding->shape[0])
        return Error{f.path(), key_of(c, "vocab_size"), std::to_string(vocab),
                     "the rows of token_embd.weight, " + std::to_string(embedding->shape[0])};
    TRY_ASSIGN(tokens, f.array("tokenizer.ggml.tokens", GgufValueType::string));
    if (tokens && tokens->count > uint64_t(vocab))
        return Error{f.path(), "tokenizer.ggml.tokens", std::to_string(tokens->count) + " tokens",
                     "at most the rows of token_embd.weight, " + std::to_string(vocab)};
    c.vocab_size = vocab;
    return {};
}

Result<void> read_end_tokens(const GgufFile& f, ModelConfig& c) {
    for (const char* key : {"eos", "eot", "eom"}) {  // end of sequence, of turn, of message: each ends a generation
        TRY_ASSIGN(id, f.integer(std::string("tokenizer.ggml.") + key + "_token_id", -1, -1, UINT32_MAX));
        if (id < 0 || id == UINT32_MAX) continue;
        if (id >= c.vocab_size)
            return Error{f.path(), std::string("tokenizer.ggml.") + key + "_token_id", std::to_string(id),
                         "less than the vocabulary's " + std::to_string(c.vocab_size)};
        if (!std::count(c.eos.begin(), c.eos.end(), Token(id))) c.eos.push_back(Token(id));
    }
    TRY_ASSIGN(bos, f.integer("tokenizer.ggml.bos_token_id", -1, -1, UINT32_MAX));
    if (bos >= 0 && bos < c.vocab_size) c.bos = Token(bos);
    return {};
}

// ---- what would make it another model ------------------------------------------------------------------------------

// True when a scalar is one of the values that change nothing.
bool is_neutral(const GgufValue& v, std::initializer_list<double> neutral) {
    double n = std::numeric_limits<double>::quiet_NaN();
    if (const auto* u = std::get_if<uint64_t>(&v.value)) n = double(*u);
    if (const auto* i = std::get_if<int64_t>(&v.value)) n = double(*i);
    if (const auto* d = std::get_if<double>(&v.value)) n = *d;
    if (const auto* b = std::get_if<bool>(&v.value)) n = *b ? 1 : 0;
    return std::any_of(neutral.begin(), neutral.end(), [&](double m) { return n == m; });
}

Result<void> refuse_other_models(const GgufFile& f, const ModelConfig& c) {
    struct Key {
        const char* name;
        std::initializer_list<double> neutral;
        const char* expected;
    };
    const double scale = 1 / std::sqrt(double(c.head_dim));
    const Key keys[] = {
        {"expert_count", {0}, "a dense model (0)"},
        {"attention.causal", {1}, "causal attention (true)"},
        {"attention.max_alibi_bias", {0}, "0"},
        {"attention.clamp_kqv", {0}, "0"},
        {"attention.scale", {0, double(float(scale))}, "1/sqrt(head size)"},
        {"logit_scale", {0, 1}, "1"},
        {"embedding_scale", {0, 1}, "1"},
        {"residual_scale", {0, 1}, "1"},
        {"use_parallel_residual", {0}, "false"},
        {"final_logit_softcapping", {0}, "0"},
        {"attn_logit_softcapping", {0}, "0"},
    };
    const auto check = [&](const std::string& name, const Key& key) -> Result<void> {
        if (const GgufValue* v = f.find(name); v && !is_neutral(*v, key.neutral))
            return Error{f.path(), name, "another value", key.expected};
        return {};
    };
    for (const Key& key : keys) TRY_VOID(check(key_of(c, key.name), key));
    if (find_family(c.kind)->windows != WindowRule::every_layer)
        TRY_VOID(check(key_of(c, "attention.sliding_window"), {"", {0, double(c.max_position)}, "full attention (0)"}));
    for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"})
        if (f.find_tensor(name)) return Error{f.path(), name, "longrope", "rope scaling none, linear or yarn"};
    return check("split.count", {"", {0, 1}, "a model in one file"});
}

Result<std::string> read_architecture(const GgufFile& f) {
    TRY_ASSIGN(architecture, f.text("general.architecture", {}));
    if (std::none_of(std::begin(kArchitectures), std::end(kArchitectures),
                     [&](const char* known) { return architecture == known; }))
        return Error{f.path(), "general.architecture", '"' + shorten(architecture, 80) + '"',
                     "llama, qwen2, qwen3, gemma or phi3"};
    TRY_ASSIGN(version, f.integer("general.quantization_version", 2, 0, UINT32_MAX));
    if (version != 2) return Error{f.path(), "general.quantization_version", std::to_string(version), "2"};
    return architecture;
}

// What the architecture alone decides.
void set_switches(const GgufFile& f, OpenedModel& opened, const Family& family) {
    ModelConfig& c = opened.config;
    c.qk_norm = family.qk_norm;
    c.fused_projections = family.fused_projections;
    if (family.norm_adds_one) c.gate_function = GateFunction::gelu_tanh;
    if (family.scales_embedding) c.embedding_multiplier = float(std::sqrt(double(c.hidden_size)));
    c.norm_adds_one = opened.norms_hold_one = family.norm_adds_one;  // llama.cpp's converter has added it
    c.tied_embeddings = !f.find_tensor("output.weight");
    c.qkv_bias = family.qkv_bias || f.find_tensor("blk.0.attn_q.bias");
    c.o_bias = f.find_tensor("blk.0.attn_output.bias") != nullptr;
    c.mlp_bias = f.find_tensor("blk.0.ffn_gate.bias") != nullptr;
}

Result<void> read_windows(const GgufFile& f, const Family& family, ModelConfig& c) {
    if (family.windows != WindowRule::every_layer) return {};
    TRY_ASSIGN(window, f.integer(key_of(c, "attention.sliding_window"), 0, 0, int64_t(1) << 40));
    if (window > 0 && window < c.max_position) c.windows.assign(size_t(c.num_layers), window);
    return {};
}

// ---- tensors -------------------------------------------------------------------------------------------------------

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; a name without a counterpart stays.
std::string hf_name(const std::string& name, bool fused) {
    if (name == "token_embd.weight") return "model.embed_tokens.weight";
    if (name == "output_norm.weight") return "model.norm.weight";
    if (name == "output.weight") return "lm_head.weight";
    constexpr std::pair<std::string_view, std::string_view> parts[] = {
        {"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
        {"attn_qkv", "self_attn.qkv_proj"},  {"attn_q_norm", "self_attn.q_norm"},
        {"attn_k_norm", "self_attn.k_norm"}, {"attn_q", "self_attn.q_proj"},
        {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
        {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"},
        {"ffn_up", "mlp.up_proj"},           {"ffn_down", "mlp.down_proj"},
    };
    const size_t layer_end = name.find('.', 4), part_end = name.rfind('.');
    if (!name.starts_with("blk.") || layer_end == std::string::npos || part_end <= layer_end) return name;
    const std::string_view part = std::string_view(name).substr(layer_end + 1, part_end - layer_end - 1);
    for (const auto& [gguf, usual] : parts)
        if (const std::string_view hf = fused && part == "ffn_up" ? "mlp.gate_up_proj" : usual; part == gguf)
            return "model.layers." + name.substr(4, layer_end - 4) + "." + std::string(hf) + name.substr(part_end);
    return name;
}

// For architecture llama, llama.cpp's converter stores the rows of q and k so that the two halves of a rotary pair are
// neighbours: row 2j + p of a head is Hugging Face's row p * head_dim / 2 + j. Returns where Hugging Face's row lies in
// the file.
int64_t stored_row(int64_t row, int64_t head_dim) {
    const int64_t head = row / head_dim, within = row % head_dim, half = head_dim / 2;
    return head * head_dim + 2 * (within % half) + within / half;
}

using ReadStored = std::function<Result<void>(int64_t, int64_t, std::byte*)>;

// Reads units [first, first + count) in Hugging Face's order, a unit being a row of a matrix or one value of a bias.
Result<void> read_unpermuted(const InputFile& file, int64_t begin, int64_t unit_bytes, int64_t head_dim, int64_t first,
                             int64_t count, std::byte* out) {
    const int64_t head_begin = first / head_dim * head_dim;
    const int64_t head_end = (first + count + head_dim - 1) / head_dim * head_dim;
    std::vector<std::byte> heads(size_t((head_end - head_begin) * unit_bytes));
    TRY_VOID(file.read(begin + head_begin * unit_bytes, heads.data(), int64_t(heads.size())));
    for (int64_t i = 0; i < count; ++i)
        std::memcpy(out + i * unit_bytes, heads.data() + (stored_row(first + i, head_dim) - head_begin) * unit_bytes,
                    size_t(unit_bytes));
    return {};
}

ReadStored plain_reader(const std::shared_ptr<InputFile>& file, int64_t begin, int64_t row_bytes) {
    return [=](int64_t first, int64_t count, std::byte* out) {
        return file->read(begin + first * row_bytes, out, count * row_bytes);
    };
}

ReadStored unpermuting_reader(const std::shared_ptr<InputFile>& file, int64_t begin, const TensorSource& t,
                              int64_t head_dim) {
    if (t.shape.size() == 2)
        return [=, row_bytes = t.row_bytes()](int64_t first, int64_t count, std::byte* out) {
            return read_unpermuted(*file, begin, row_bytes, head_dim, first, count, out);
        };
    return [=, values = t.cols(), value_bytes = t.bytes / t.cols()](int64_t, int64_t, std::byte* out) {
        return read_unpermuted(*file, begin, value_bytes, head_dim, 0, values, out);
    };
}

TensorSource make_source(const std::shared_ptr<InputFile>& file, const GgufTensor& g, const ModelConfig& c) {
    TensorSource t;
    t.name = hf_name(g.name, c.fused_projections);
    t.shape = g.shape;
    t.dtype = name_of(g.type);
    t.bytes = g.bytes;
    const bool is_q = t.name.find(".q_proj.") != std::string::npos, is_k = t.name.find(".k_proj.") != std::string::npos;
    const int64_t out_size = is_q ? c.q_size() : c.kv_size();
    // Any other shape is refused by match_tensors(), so it is never read.
    const bool permuted = c.kind == "llama" && (is_q || is_k) && !g.shape.empty() && g.shape.size() <= 2 &&
                          g.shape[0] == out_size && (g.shape.size() == 2 || block_elements(g.type) == 1);
    t.read_stored =
        permuted ? unpermuting_reader(file, g.begin, t, c.head_dim) : plain_reader(file, g.begin, t.row_bytes());
    t.read_rows = [type = g.type, row_bytes = t.row_bytes(), cols = t.cols(), read = t.read_stored](
                      int64_t first, int64_t count, float* out) -> Result<void> {
        std::vector<std::byte> stored(size_t(count * row_bytes));
        TRY_VOID(read(first, count, stored.data()));
        dequantise_row(type, stored.data(), count * cols, out);
        return {};
    };
    return t;
}

std::vector<TensorSource> make_sources(const GgufFile& f, const ModelConfig& c) {
    std::vector<TensorSource> sources;
    for (const GgufTensor& t : f.tensors())
        if (t.name != "rope_freqs.weight") sources.push_back(make_source(f.file(), t, c));
    return sources;
}

// ---- tokenizer -----------------------------------------------------------------------------------------------------

template <class T>
Result<std::vector<T>> numbers(const GgufFile& f, const std::string& key, GgufValueType type, size_t expected) {
    std::vector<T> out;
    TRY_ASSIGN(array, f.array(key, type));
    if (!array) return out;
    if (array->count != expected)
        return Error{f.path(), key, std::to_string(array->count) + " entries",
                     std::to_string(expected) + ", as many as tokens"};
    out.resize(size_t(array->count));
    std::memcpy(out.data(), array->bytes.data(), array->bytes.size());
    return out;
}

// llama.cpp's defaults where the file does not say: SentencePiece models, Llama 3 and Tekken begin with BOS.
bool adds_bos(const GgufTokenizerData& d) {
    return d.model == "llama" || d.pre == "llama3" || d.pre == "llama-v3" || d.pre == "llama-bpe" || d.pre == "tekken";
}

Result<GgufTokenizerData> read_tokenizer_data(const GgufFile& f) {
    const std::string prefix = "tokenizer.ggml.";
    GgufTokenizerData d;
    TRY_ASSIGN(model, f.text(prefix + "model", ""));
    TRY_ASSIGN(pre, f.text(prefix + "pre", ""));
    d.model = model, d.pre = pre;
    TRY_ASSIGN(tokens, f.array(prefix + "tokens", GgufValueType::string));
    TRY_ASSIGN(merges, f.array(prefix + "merges", GgufValueType::string));
    if (tokens) d.tokens = tokens->texts;
    if (merges) d.merges = merges->texts;
    TRY_ASSIGN(scores, numbers<float>(f, prefix + "scores", GgufValueType::f32, d.tokens.size()));
    TRY_ASSIGN(types, numbers<int32_t>(f, prefix + "token_type", GgufValueType::i32, d.tokens.size()));
    d.scores = std::move(scores), d.token_type = std::move(types);
    const auto id = [&](const char* name, int64_t& out) -> Result<void> {
        TRY_ASSIGN(n, f.integer(prefix + name + "_token_id", -1, -1, UINT32_MAX));
        out = n == UINT32_MAX ? -1 : n;
        if (out < int64_t(d.tokens.size())) return {};
        return Error{f.path(), prefix + name + "_token_id", std::to_string(n),
                     "less than " + std::to_string(d.tokens.size())};
    };
    TRY_VOID(id("bos", d.bos));
    TRY_VOID(id("eos", d.eos));
    TRY_VOID(id("unknown", d.unk));
    TRY_ASSIGN(add_bos, f.boolean(prefix + "add_bos_token", adds_bos(d)));
    TRY_ASSIGN(add_eos, f.boolean(prefix + "add_eos_token", false));
    TRY_ASSIGN(add_space, f.boolean(prefix + "add_space_prefix", true));
    d.add_bos = add_bos, d.add_eos = add_eos, d.add_space_prefix = add_space;
    return d;
}

Result<void> open_text_parts(const GgufFile& f, OpenedModel& opened) {
    TRY_ASSIGN(chat, f.text("tokenizer.chat_template", ""));
    ChatSource source{chat, {}};
    if (!f.find("tokenizer.ggml.tokens")) {
        opened.chat_template = ChatTemplate::make(std::move(source));
        return {};
    }
    TRY_ASSIGN(data, read_tokenizer_data(f));
    for (const auto& [name, id] : {std::pair{"bos_token", data.bos}, {"eos_token", data.eos}, {"unk_token", data.unk}})
        if (id >= 0) source.specials.emplace_back(name, data.tokens[size_t(id)]);
    opened.chat_template = ChatTemplate::make(std::move(source));
    if (auto tokenizer = make_gguf_tokenizer(std::move(data), f.path())) {
        opened.tokenizer = *tokenizer;
    } else {
        opened.tokenizer_error = tokenizer.error().message();
        opened.warnings.push_back("runs on ids only: " + opened.tokenizer_error);
    }
    return {};
}

// ---- title ---------------------------------------------------------------------------------------------------------

// The file's name without ".gguf" and the quantisation before it: general.name is often a leftover of training.
std::string title_of(const std::string& path) {
    std::string name = path.substr(path.rfind('/') + 1);
    if (name.ends_with(".gguf")) name.resize(name.size() - 5);
    const size_t cut = name.find_last_of(".-");
    if (cut == std::string::npos || cut == 0) return name;
    std::string last = name.substr(cut + 1);
    for (char& ch : last) ch = char(std::toupper(uint8_t(ch)));
    return float_type(last) || last == "FP16" || last == "FP32" ? name.substr(0, cut) : name;
}

}  // namespace

Result<OpenedModel> open_gguf(const std::string& path) {
    TRY_ASSIGN(file, GgufFile::open(path));
    const GgufFile& f = *file;
    TRY_ASSIGN(architecture, read_architecture(f));
    const Family& family = *find_family(architecture);
    OpenedModel opened;
    opened.path = path;
    opened.name = title_of(path);
    opened.source = "gguf";
    ModelConfig& c = opened.config;
    c.kind = architecture;
    TRY_VOID(read_sizes(f, c));
    TRY_VOID(refuse_other_models(f, c));
    TRY_VOID(read_vocabulary(f, c));
    TRY_VOID(read_gguf_rope(f, c, opened.warnings));
    TRY_VOID(read_windows(f, family, c));
    TRY_VOID(read_end_tokens(f, c));
    const std::string heads = key_of(c, "attention.head_count"), head_dim = key_of(c, "attention.key_length");
    const std::string kv_heads = key_of(c, "attention.head_count_kv");
    TRY_VOID(check_config(c, path, {heads.c_str(), kv_heads.c_str(), head_dim.c_str()}, opened.warnings));
    TRY_VOID(read_gguf_rope_divisors(f, c));
    set_switches(f, opened, family);
    TRY_ASSIGN(sources, split_fused(c, make_sources(f, c), path));
    opened.files.push_back(f.file());
    opened.file_bytes = f.file()->size();
    for (const GgufTensor& t : f.tensors()) opened.parameters += t.elements();
    opened.dtype = most_common_dtype(sources);
    match_tensors(opened, std::move(sources), path);
    TRY_VOID(open_text_parts(f, opened));
    return opened;
}

}  // namespace spartan
