// Distinct types for the numbers that must not be mixed up.
#pragma once

#include <cstdint>

namespace spartan {

using Token = int32_t;

enum class RequestId : uint64_t {};

// One load of one adapter. Never reused: loading the same files again gives a new id (content hash + load generation is
// the identity; names are labels). `base` is the model without any adapter.
enum class AdapterId : uint32_t { base = 0 };

enum class PageId : int32_t {};

}  // namespace spartan
