// Memory for what is large and read often: weights, pages of keys, values and adapters, working memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace spartan {

struct FreeMemory {
    void operator()(void* p) const;
};
using Memory = std::unique_ptr<std::byte[], FreeMemory>;

// `bytes` of memory, not yet touched, 64-byte aligned; null if the system grants none (or bytes is 0). From 2 MB on it
// begins at a huge page and the system is asked for huge pages: a sweep over it then misses the TLB 512 times less.
Memory allocate_memory(int64_t bytes);

}  // namespace spartan
