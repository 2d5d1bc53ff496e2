#include "core/model/hf_rope.h"

#include "core/model/hf_config.h"

namespace spartan {
namespace {

void read_llama3(Fields& f, RopeConfig& rope) {
    for (const char* needed : {"low_freq_factor", "high_freq_factor"}) f.require(needed);
    rope.low_freq_factor = f.number("low_freq_factor", 1, 1e-6, 1e9);
    rope.high_freq_factor = f.number("high_freq_factor", 4, 1e-6, 1e9);
    if (rope.high_freq_factor <= rope.low_freq_factor)
        f.fail("high_freq_factor", describe(*f.any("high_freq_factor")), "more than low_freq_factor");
}

void read_yarn(Fields& f, RopeConfig& rope) {
    const auto optional = [&](const char* key, double fallback, double min) {
        if (f.has(key)) return f.number(key, fallback, min, 1e9);
        f.ignore(key);
        return fallback;
    };
    rope.beta_fast = optional("beta_fast", 32, 1e-6);
    rope.beta_slow = optional("beta_slow", 1, 1e-6);
    if (rope.beta_fast < rope.beta_slow)
        f.fail("beta_fast", describe(Json(rope.beta_fast)), "at least beta_slow, " + Json(rope.beta_slow).dump());
    rope.truncate = f.boolean("truncate", true);
    const double mscale = optional("mscale", 0, 0), all = optional("mscale_all_dim", 0, 0);
    const double inferred = mscale != 0 && all != 0
                                ? yarn_attention_factor(rope.factor, mscale) / yarn_attention_factor(rope.factor, all)
                                : yarn_attention_factor(rope.factor);
    rope.attention_factor = optional("attention_factor", inferred, 0);
}

std::vector<std::string> known_types(const Family& family) {
    if (family.partial_rotary) return {"default"};  // transformers refuses the others for phi3
    return {"default", "linear", "dynamic", "llama3", "yarn"};
}

class RopeReader {
public:
    RopeReader(Fields& outer, std::string file, const Family& family, ModelConfig& config,
               std::vector<std::string>& warnings)
        : outer_(outer), file_(std::move(file)), family_(family), config_(config), warnings_(warnings) {}

    void read() {
        config_.rope.theta =
            outer_.has("rope_theta") ? outer_.number("rope_theta", 1e4, 1e-3, 1e30) : family_.rope_theta;
        outer_.ignore("rope_theta");
        partial_ = outer_.has("partial_rotary_factor") ? outer_.number("partial_rotary_factor", 1, 0, 1) : 1;
        const Json* scaling = outer_.any("rope_scaling");
        const Json* parameters = outer_.any("rope_parameters");
        if (scaling && parameters && *scaling != *parameters)
            return outer_.fail("rope_scaling", "a value that differs from rope_parameters", "one of the two");
        if (parameters)
            read_object(*parameters, "rope_parameters");
        else if (scaling)
            read_object(*scaling, "rope_scaling");
        set_rotary_dim(parameters ? "rope_parameters.partial_rotary_factor" : "partial_rotary_factor");
        outer_.ignore("original_max_position_embeddings");
    }

private:
    void read_object(const Json& json, const std::string& key) {
        Fields f(json, file_, key);
        const char* const type_key = f.has("rope_type") ? "rope_type" : "type";
        f.ignore("type");  // the old spelling; both may be there
        RopeConfig& rope = config_.rope;
        rope.type = f.one_of(type_key, "default", known_types(family_));
        rope.theta = f.number("rope_theta", rope.theta, 1e-3, 1e30);
        if (f.has("partial_rotary_factor")) partial_ = f.number("partial_rotary_factor", 1, 0, 1);
        f.ignore("partial_rotary_factor");
        const bool stretches = rope.type == "llama3" || rope.type == "yarn";
        if (stretches)
            read_original_length(f);
        else
            f.ignore("original_max_position_embeddings");
        read_factor(f, key);
        if (rope.type == "llama3") read_llama3(f, rope);
        if (rope.type == "yarn") read_yarn(f, rope);
        if (rope.type == "dynamic" && rope.factor != 1)
            warnings_.push_back(key + ".factor has no effect: contexts end at max_position_embeddings, " +
                                std::to_string(config_.max_position) + ", and dynamic scaling begins there");
        if (const Result<void> done = f.finish(); !done)
            outer_.fail(done.error().field, done.error().found, done.error().expected);
    }

    // transformers: the key beside the others goes first, then that of the object, then the whole context.
    void read_original_length(Fields& f) {
        const char* const key = "original_max_position_embeddings";
        int64_t length = config_.max_position;
        if (f.has(key)) length = f.integer(key, length, 1, ConfigLimits::max_position);
        f.ignore(key);
        if (outer_.has(key)) length = outer_.integer(key, length, 1, ConfigLimits::max_position);
        config_.rope.original_max_position = length;
    }

    void read_factor(Fields& f, const std::string& key) {
        RopeConfig& rope = config_.rope;
        if (rope.type == "yarn" && !f.has("factor")) {
            f.ignore("factor");
            rope.factor = double(config_.max_position) / double(rope.original_max_position);
            return;
        }
        if (rope.type != "default") f.require("factor");
        rope.factor = f.number("factor", 1, 1e-6, 1e9);
        if (rope.type == "default" && rope.factor != 1)
            warnings_.push_back(key + ".factor has no effect with rope type default");
    }

    void set_rotary_dim(const char* key) {
        if (partial_ == 1) return;
        const auto dim = int64_t(double(config_.head_dim) * partial_);
        if (!family_.partial_rotary)
            return outer_.fail(key, Json(partial_).dump(), std::string("1 for a ") + family_.kind + " model");
        if (dim < 2 || dim % 2 != 0)
            return outer_.fail(key, Json(partial_).dump(),
                               "a share of head_dim " + std::to_string(config_.head_dim) + " that is even");
        config_.rotary_dim = dim;
    }

    Fields& outer_;
    const std::string file_;
    const Family& family_;
    ModelConfig& config_;
    std::vector<std::string>& warnings_;
    double partial_ = 1;
};

}  // namespace

void read_hf_rope(Fields& f, const std::string& file, const Family& family, ModelConfig& config,
                  std::vector<std::string>& warnings) {
    RopeReader(f, file, family, config, warnings).read();
}

}  // namespace spartan
