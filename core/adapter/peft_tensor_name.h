// Names of tensors in PEFT files: which module, and which part of its adapter.
#pragma once

#include "core/adapter/peft_folder.h"

#include <optional>
#include <string>
#include <string_view>

namespace spartan {

struct TensorName {
    enum class Kind : uint8_t { part, ignored, refused };
    Kind kind = Kind::refused;
    std::string module;   // part: without "base_model.model."
    TensorRole role{};    // part
    std::string reason;   // refused: what it is, for "found"
    std::string instead;  // refused: what would work
};

// `name` as PEFT saves it: base_model.model.MODULE.PART[.ADAPTER][.weight]; a missing prefix, "_orig_mod." and an
// adapter's name are tolerated.
TensorName parse_tensor_name(std::string_view name);

// "model.layers.3.self_attn.q_proj" → (projection, 3, q); null when it names no module that an adapter can change.
std::optional<ModuleName> parse_module_name(std::string_view module);

// The projections that a module's rows belong to, in their order: one, phi3's fused ones two or three, tables none.
std::vector<Projection> projections_of(const ModuleName& where);

}  // namespace spartan
