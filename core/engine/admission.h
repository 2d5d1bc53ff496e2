// What the engine accepts: its options and single requests, checked before anything is taken.
#pragma once

#include "core/engine/engine.h"
#include "core/engine/model_runner.h"

#include <cstdint>

namespace spartan {

// What options say together, whatever the model and the machine: Error::field is the option's name.
Result<void> check_choices(const EngineOptions& options);
// What the CPU cannot be asked for; options.cuda_device says whether it computes.
Result<void> check_device_choices(const EngineOptions& options);

// Options with defaults filled in. Refuses by name what is not built yet and what this model or machine cannot have.
Result<EngineOptions> check_options(EngineOptions options, const Model& model);

// Of checked options.
AdapterStrategy strategy_of(const EngineOptions& checked);

struct PoolShape {
    int64_t page_bytes = 0, block_tokens = 0, num_layers = 0;
    int32_t total_pages = 0;
};
PoolShape pool_shape(const EngineOptions& checked, const Model& model);
RunnerLimits runner_limits(const EngineOptions& checked, int32_t total_pages);

// Whether `request` can ever be served; `adapter_pages` are all that its adapter takes.
Result<void> check_request(const Request& request, const Model& model, const PoolShape& pool, int32_t adapter_pages,
                           bool has_logits_sink);

// Whether `adapter` was folded for `model`: dtype, layers, projections, shapes, and every part inside the blob.
Result<void> check_adapter(const Adapter& adapter, const Model& model);

}  // namespace spartan
