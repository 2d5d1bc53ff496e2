#include "core/model/hf_layers.h"

#include <algorithm>
#include <optional>
#include <string_view>

namespace spartan {
namespace {

constexpr const char* kSliding = "sliding_attention";
constexpr const char* kFull = "full_attention";

// layer_types as flags, 1 for a layer with a window; nothing where the key is absent. transformers allows more entries
// than layers nowhere.
std::optional<std::vector<uint8_t>> read_layer_types(Fields& f, const ModelConfig& c) {
    const Json* types = f.any("layer_types");
    if (!types) return std::nullopt;
    std::vector<uint8_t> sliding;
    const Json none = Json::array();
    for (const Json& type : types->is_array() ? *types : none) {
        const std::string_view name = type.is_string() ? type.get_ref<const std::string&>() : std::string_view();
        if (name != kSliding && name != kFull) {
            f.fail("layer_types", describe(type), "full_attention or sliding_attention");
            return std::nullopt;
        }
        sliding.push_back(name == kSliding);
    }
    if (int64_t(sliding.size()) == c.num_layers) return sliding;
    f.fail("layer_types", describe(*types),
           "a list with one of each of the " + std::to_string(c.num_layers) + " layers");
    return std::nullopt;
}

// sliding_window where it is in force; 0 for null or none.
int64_t read_window(Fields& f, const Family& family, bool absent) {
    if (f.has("sliding_window")) return f.integer("sliding_window", 0, 1, int64_t(1) << 40);
    f.ignore("sliding_window");
    return absent ? family.window : 0;
}

// Llama and its like know no window. Some of transformers' caches go by the key all the same, so only one that never
// closes passes.
void refuse_windows(Fields& f, const Family& family, const ModelConfig& c) {
    const std::string expected = std::string("full attention in every layer (null) for a ") + family.kind + " model";
    if (const auto types = read_layer_types(f, c); types && std::count(types->begin(), types->end(), 1) > 0)
        f.fail("layer_types", kSliding, expected);
    const bool used = f.boolean("use_sliding_window", true);
    f.ignore("max_window_layers");
    if (!f.has("sliding_window")) return f.ignore("sliding_window");
    const int64_t window = f.integer("sliding_window", 0, 0);
    if (used && window < c.max_position) f.fail("sliding_window", std::to_string(window), expected);
}

// mistral and phi3: the window of all layers. layer_types means nothing there, so it may only repeat it.
void read_common_window(Fields& f, const Family& family, bool absent, ModelConfig& c) {
    f.ignore("use_sliding_window");
    f.ignore("max_window_layers");
    const int64_t window = read_window(f, family, absent);
    if (const auto types = read_layer_types(f, c))
        for (const uint8_t sliding : *types)
            if ((sliding != 0) != (window > 0))
                return f.fail("layer_types", sliding ? kSliding : kFull,
                              std::string("the same attention in every layer, as sliding_window has it, for a ") +
                                  family.kind + " model");
    c.windows.assign(size_t(c.num_layers), window);
}

void read_windows_by_layer(Fields& f, const Family& family, bool absent, ModelConfig& c) {
    const bool used = f.boolean("use_sliding_window", false);
    const int64_t from_layer = f.has("max_window_layers") ? f.integer("max_window_layers", 28, 0, 1 << 20) : 28;
    f.ignore("max_window_layers");
    const int64_t window = used ? read_window(f, family, absent) : 0;
    f.ignore("sliding_window");
    const auto types = read_layer_types(f, c);
    for (int64_t layer = 0; layer < c.num_layers; ++layer) {
        const bool by_rule = window > 0 && (family.no_rope_layers ? !c.rotates(layer) : layer >= from_layer);
        const bool sliding = types ? (*types)[size_t(layer)] != 0 : by_rule;
        if (sliding && window == 0)
            return f.fail("layer_types", kSliding, "use_sliding_window true and a sliding_window with it");
        c.windows.push_back(sliding ? window : 0);
    }
}

// smollm3: 0 marks a layer without rotary embedding; without the list every fourth is one (or no_rope_layer_interval).
void read_rope_layers(Fields& f, ModelConfig& c) {
    const int64_t interval = f.integer("no_rope_layer_interval", 4, 1, 1 << 20);
    const Json* list = f.any("no_rope_layers");
    if (list && (!list->is_array() || int64_t(list->size()) < c.num_layers))
        return f.fail("no_rope_layers", describe(*list),
                      "a list of 0 and 1 for each of the " + std::to_string(c.num_layers) + " layers");
    for (int64_t layer = 0; layer < c.num_layers; ++layer) {
        const Json value = list ? (*list)[size_t(layer)] : Json((layer + 1) % interval != 0 ? 1 : 0);
        if (!value.is_number_integer() || (value != 0 && value != 1))
            return f.fail("no_rope_layers", describe(value), "0 or 1");
        c.rope_layers.push_back(value == 1);
    }
}

}  // namespace

void read_hf_layers(Fields& f, const Family& family, ModelConfig& c) {
    if (family.no_rope_layers) read_rope_layers(f, c);
    if (!f.ok()) return;
    const bool absent = !f.is_there("sliding_window");
    switch (family.windows) {
        case WindowRule::none:
            return refuse_windows(f, family, c);
        case WindowRule::every_layer:
            read_common_window(f, family, absent, c);
            break;
        case WindowRule::by_layer:
            read_windows_by_layer(f, family, absent, c);
            break;
    }
    for (int64_t& window : c.windows)
        if (window >= c.max_position) window = 0;  // as wide as any context
    if (std::all_of(c.windows.begin(), c.windows.end(), [](int64_t w) { return w == 0; })) c.windows.clear();
    if (std::all_of(c.rope_layers.begin(), c.rope_layers.end(), [](uint8_t r) { return r != 0; }))
        c.rope_layers.clear();
}

}  // namespace spartan
