#include "core/model/gguf_rope.h"

#include "core/base/text.h"
#include "core/model/family.h"
#include "core/model/float_rows.h"
#include "core/model/hf_config.h"

#include <cmath>

namespace spartan {
namespace {

class GgufRopeReader {
public:
    GgufRopeReader(const GgufFile& file, ModelConfig& config, std::vector<std::string>& warnings)
        : file_(file), config_(config), rope_(config.rope), warnings_(warnings) {}

    Result<void> read() {
        TRY_ASSIGN(theta, number("freq_base", 1e4, 1e-3, 1e30));
        rope_.theta = theta;
        TRY_VOID(read_dimensions());
        TRY_ASSIGN(type, file_.text(key("scaling.type"), "linear"));  // where nothing says, a factor stretches linearly
        if (type != "none" && type != "linear" && type != "yarn")
            return Error{file_.path(), key("scaling.type"), '"' + shorten(type, 80) + '"', "none, linear or yarn"};
        TRY_ASSIGN(attention, number("scaling.attn_factor", 1, 1e-6, 1e9));
        if (type == "yarn") return read_yarn(attention);
        if (attention != 1) return wrong("scaling.attn_factor", attention, "1 without yarn");
        return type == "linear" ? read_linear() : Result<void>();
    }

private:
    std::string key(const std::string& name) const { return config_.kind + ".rope." + name; }
    Result<double> number(const char* name, double fallback, double min, double max) const {
        return file_.number(key(name), fallback, min, max);
    }
    Error wrong(const char* name, double found, const char* expected) const {
        return Error{file_.path(), key(name), value_text(float(found)), expected};
    }

    Result<void> read_dimensions() {
        const int64_t head_dim = config_.head_dim;
        TRY_ASSIGN(dimensions, file_.integer(key("dimension_count"), head_dim, 1, ConfigLimits::head_dim));
        if (dimensions == head_dim) return {};
        const bool partial = find_family(config_.kind)->partial_rotary && dimensions < head_dim && dimensions % 2 == 0;
        if (!partial)
            return Error{file_.path(), key("dimension_count"), std::to_string(dimensions),
                         "the head size " + std::to_string(head_dim)};
        config_.rotary_dim = dimensions;
        return {};
    }

    Result<double> factor() const {
        const bool old_name = !file_.find(key("scaling.factor"));  // scale_linear: before rope.scaling.* came
        const char* const name = old_name ? "scale_linear" : "scaling.factor";
        TRY_ASSIGN(stretch, number(name, 1, 0, 1e9));
        if (stretch == 0) return 1.0;  // not set
        if (stretch < 1e-6) return wrong(name, stretch, "at least 1e-06");
        return stretch;
    }

    Result<void> read_linear() {
        TRY_ASSIGN(stretch, factor());
        if (stretch == 1) return {};
        rope_.type = "linear";
        rope_.factor = stretch;
        return {};
    }

    // The blend is config.json's. llama.cpp multiplies cos and sin by attn_factor on top of YaRN's own 0.1 ln(factor)
    // + 1. Its converter also writes what config.json says of the betas and of attention_factor (yarn_attn_factor, in
    // place of that), which llama.cpp reads for other architectures only; here they mean what config.json means.
    Result<void> read_yarn(double attention) {
        if (!file_.find(key("scaling.factor")))
            return Error{file_.path(), key("scaling.factor"), "no such key", "how far yarn stretches the context"};
        TRY_ASSIGN(stretch, factor());
        TRY_ASSIGN(original, file_.integer(key("scaling.original_context_length"), config_.max_position, 1,
                                           ConfigLimits::max_position));
        TRY_ASSIGN(fast, number("scaling.yarn_beta_fast", 32, 1e-6, 1e9));
        TRY_ASSIGN(slow, number("scaling.yarn_beta_slow", 1, 1e-6, 1e9));
        if (fast < slow) return wrong("scaling.yarn_beta_fast", fast, "at least yarn_beta_slow");
        TRY_ASSIGN(own, read_own_attention(stretch));
        rope_.type = "yarn";
        rope_.factor = stretch;
        rope_.original_max_position = original;
        rope_.beta_fast = fast, rope_.beta_slow = slow;
        rope_.attention_factor = own * attention;
        if (fast != 32) warn("scaling.yarn_beta_fast");
        if (slow != 1) warn("scaling.yarn_beta_slow");
        return {};
    }

    // yarn_attn_factor, or what YaRN infers. Files that llama.cpp saved itself hold all its defaults: an extrapolation
    // of -1 says that nothing was set, and then the 1 beside it is no attention_factor of anybody's.
    Result<double> read_own_attention(double stretch) {
        TRY_ASSIGN(extrapolation, number("scaling.yarn_ext_factor", 1, -1e9, 1e9));
        if (extrapolation != 1 && extrapolation != -1)
            return wrong("scaling.yarn_ext_factor", extrapolation, "1, or -1 for not set");
        TRY_ASSIGN(multiplier, number("scaling.yarn_log_multiplier", 0, -1e9, 1e9));
        if (multiplier != 0)
            return wrong("scaling.yarn_log_multiplier", multiplier,
                         ("0: architecture " + config_.kind + " has none; attn_factor says the same").c_str());
        const double inferred = yarn_attention_factor(stretch);
        TRY_ASSIGN(own, number("scaling.yarn_attn_factor", inferred, 0, 1e9));
        if (extrapolation == -1 && own == 1) return inferred;
        if (own != inferred) warn("scaling.yarn_attn_factor");
        return own;
    }

    void warn(const char* name) {
        warnings_.push_back(key(name) + " is followed, as of config.json; llama.cpp leaves it aside for " +
                            config_.kind);
    }

    const GgufFile& file_;
    ModelConfig& config_;
    RopeConfig& rope_;
    std::vector<std::string>& warnings_;
};

}  // namespace

Result<void> read_gguf_rope(const GgufFile& file, ModelConfig& config, std::vector<std::string>& warnings) {
    return GgufRopeReader(file, config, warnings).read();
}

// What each inverse frequency is divided by (Llama 3.1 and later).
Result<void> read_gguf_rope_divisors(const GgufFile& file, ModelConfig& config) {
    const GgufTensor* t = file.find_tensor("rope_freqs.weight");
    if (!t) return {};
    const int64_t half = config.rotary_size() / 2;
    if (t->shape != std::vector<int64_t>{half} || t->type != GgufType::f32)
        return Error{file.path(), t->name, std::string(name_of(t->type)) + " of shape " + shape_text(t->shape),
                     "F32 of shape [" + std::to_string(half) + "]"};
    std::vector<float>& divisors = config.rope.divisors;
    divisors.resize(size_t(half));
    TRY_VOID(file.file()->read(t->begin, divisors.data(), t->bytes));
    for (size_t i = 0; i < divisors.size(); ++i)
        if (const float v = divisors[i]; !(v > 0) || std::isinf(v))
            return Error{file.path(), t->name + "[" + std::to_string(i) + "]", value_text(v), "a finite value above 0"};
    return {};
}

}  // namespace spartan
