// Memory that was given back, kept for the next who needs some: to free it would make the whole device wait.
#pragma once

#include <bit>
#include <cstdint>
#include <map>
#include <utility>

namespace spartan {

// Memory: made by Memory(bytes), knows its bytes().
template <class Memory>
class Spares {
public:
    // At least `bytes`: the smallest spare one unless it is more than twice as large as asked for, else a new one.
    Memory take(int64_t bytes) {
        const auto it = spares_.lower_bound(bytes);
        if (it == spares_.end() || it->first > 2 * rounded(bytes)) return Memory(rounded(bytes));
        Memory memory = std::move(it->second);
        spares_.erase(it);
        return memory;
    }
    void give(Memory memory) {
        if (const int64_t bytes = memory.bytes(); bytes > 0) spares_.emplace(bytes, std::move(memory));
    }

private:
    // So that sizes which differ a little share.
    static int64_t rounded(int64_t bytes) { return int64_t(std::bit_ceil(uint64_t(bytes))); }

    std::multimap<int64_t, Memory> spares_;
};

}  // namespace spartan
