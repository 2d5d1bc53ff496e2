#include "core/engine/device_fit.h"

#include "core/base/text.h"

#include <algorithm>
#include <vector>

namespace spartan {
namespace {

constexpr int32_t kFewestTokens = 16;

// What a person could change so that it fits, each way by itself.
std::vector<std::string> ways_to_fit(const DeviceNeed& need) {
    std::vector<std::string> ways;
    const int64_t needed = need.needed(need.max_batch_tokens);
    const int64_t pool = std::max(need.pool_bytes, need.least_pool_bytes);
    const int64_t for_pool = need.free_bytes - needed;
    if (need.pool_bytes > for_pool && for_pool >= need.least_pool_bytes)
        ways.push_back("engine.pool_bytes of at most " + format_bytes(for_pool));
    int32_t tokens = need.max_batch_tokens;
    while (tokens > kFewestTokens && need.needed(tokens) + pool > need.free_bytes) tokens /= 2;
    if (need.needed(tokens) + pool <= need.free_bytes)
        ways.push_back("engine.max_batch_tokens " + std::to_string(tokens));
    if (need.dtype == DType::f32 && needed - need.weight_bytes / 2 + pool <= need.free_bytes)
        ways.emplace_back("dtype bf16");
    if (needed + pool <= need.total_bytes)
        ways.push_back("the same with " + format_bytes(needed + pool - need.free_bytes) +
                       " of what other programs hold");
    return ways;
}

}  // namespace

std::string free_of_total(int64_t free_bytes, int64_t total_bytes) {
    return format_bytes(free_bytes) + " free of " + format_bytes(total_bytes) + " (" +
           format_bytes(total_bytes - free_bytes) + " held by other programs and the driver)";
}

Result<int64_t> fit_into_device(const DeviceNeed& need) {
    const int64_t needed = need.needed(need.max_batch_tokens);
    const int64_t pool = std::max(need.pool_bytes, need.least_pool_bytes);
    if (needed + pool <= need.free_bytes) return need.free_bytes - needed;
    const std::vector<std::string> ways = ways_to_fit(need);
    const std::string fitting =
        ways.empty() ? "nothing smaller of this model would fit on this GPU" : "would fit: " + join(ways, ", or ");
    return Error{"", need.pool_bytes > 0 ? "pool_bytes" : "device memory",
                 free_of_total(need.free_bytes, need.total_bytes),
                 format_bytes(needed + pool) + " for weights, workspace and " +
                     (need.pool_bytes > 0 ? "that pool" : "the smallest pool") + "; " +
                     format_bytes(needed + pool - need.free_bytes) + " are missing; " + fitting};
}

}  // namespace spartan
