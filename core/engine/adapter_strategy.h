// How the adapters of a batch meet the base's weights. All give the same answers up to rounding; `folded` is how this
// engine serves, the others are kept to compare it with.
//
//     folded        every adapter in the one formula of core/adapter/adapter.h, all of a batch in one pass
//     common_block  as SpartanServe is published: every butterfly factor of the batch cut to one common block size, one
//                   block-sparse product for each factor position (kernels/block_sparse.h); gains and low-rank pairs
//                   as in folded
//     sequential    the batch's adapters one after another, as PEFT serves: a whole pass for each adapter's rows
//     merged        one adapter at a time multiplied into a copy of the weights, which then run alone
#pragma once

#include "core/adapter/adapter.h"
#include "core/base/result.h"

#include <cstdint>
#include <string>
#include <vector>

namespace spartan {

enum class AdapterStrategy : uint8_t { folded, common_block, sequential, merged };
const char* name_of(AdapterStrategy strategy);
const std::vector<std::string>& adapter_strategy_names();
Result<AdapterStrategy> parse_adapter_strategy(const std::string& name);

// How adapters are best loaded for a strategy on the CPU (-1) or a GPU. What is left to fold is folded by either; only
// `common_block` takes no other form.
constexpr AdapterForm form_of(AdapterStrategy strategy, int cuda_device) {
    if (strategy == AdapterStrategy::common_block) return AdapterForm::factored;
    return cuda_device >= 0 ? AdapterForm::skew : AdapterForm::folded;
}
// Whether a batch is computed adapter by adapter.
constexpr bool splits_batches(AdapterStrategy strategy) {
    return strategy == AdapterStrategy::sequential || strategy == AdapterStrategy::merged;
}

// Of the copy of all linear layers, every value a T, that `merged` multiplies adapters into; 0 for the others.
int64_t merged_copy_bytes(const Model& model, AdapterStrategy strategy);

// What a merged adapter still reads in a step: its blob without what the weights hold by then.
int64_t bytes_beside_merged(const Adapter& adapter);

// Whether `adapter` lies in the form that the strategy computes with, and holds nothing that it cannot express.
Result<void> check_strategy(const Adapter& adapter, AdapterStrategy strategy);

}  // namespace spartan
