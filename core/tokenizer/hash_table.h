// Open-addressing tables for the two look-ups that tokenizing spends its time in.
#pragma once

#include "core/base/ids.h"

#include <bit>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spartan {

// 64-bit key -> value. No erasure. The key ~0 is reserved.
template <class Value>
class FlatMap {
public:
    void reserve(size_t n) { rehash(std::bit_ceil(n * 2 + 16)); }
    void insert_or_assign(uint64_t key, Value value) {
        if (slots_.size() < 2 * (used_ + 1)) rehash(std::bit_ceil(4 * used_ + 16));
        auto& slot = slots_[locate(key)];
        used_ += slot.first == empty ? 1 : 0;
        slot = {key, value};
    }
    const Value* find(uint64_t key) const {
        if (slots_.empty()) return nullptr;
        const auto& slot = slots_[locate(key)];
        return slot.first == empty ? nullptr : &slot.second;
    }
    size_t size() const { return used_; }

private:
    static constexpr uint64_t empty = ~uint64_t{0};

    size_t locate(uint64_t key) const {
        const size_t mask = slots_.size() - 1;
        uint64_t h = key * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
        size_t i = h & mask;
        while (slots_[i].first != empty && slots_[i].first != key) i = (i + 1) & mask;
        return i;
    }
    void rehash(size_t capacity) {
        std::vector<std::pair<uint64_t, Value>> old(capacity, {empty, Value{}});
        old.swap(slots_);
        for (const auto& slot : old)
            if (slot.first != empty) slots_[locate(slot.first)] = slot;
    }

    std::vector<std::pair<uint64_t, Value>> slots_;
    size_t used_ = 0;
};

// Text <-> id. Ids may leave holes.
class Vocabulary {
public:
    enum class Insert : uint8_t { done, same_text, same_id };

    void reserve(size_t n) { rehash(std::bit_ceil(n * 2 + 16)); }
    Insert insert(std::string_view text, Token id);  // id >= 0; a refusal changes nothing
    Token find(std::string_view text) const;         // -1 if absent
    bool has(Token id) const { return id >= 0 && size_t(id) < texts_.size() && texts_[size_t(id)].offset != absent; }
    std::string_view text(Token id) const;                           // empty if absent
    Token end() const { return static_cast<Token>(texts_.size()); }  // highest id + 1
    size_t size() const { return used_; }
    size_t longest_bytes() const { return longest_; }

private:
    static constexpr uint64_t absent = ~uint64_t{0};
    struct Text {
        uint64_t offset = absent;
        uint64_t size = 0;
    };
    struct Slot {
        uint32_t hash = 0;
        Token id = -1;  // -1: empty
    };
    size_t locate(std::string_view text, uint32_t hash) const;
    void rehash(size_t capacity);

    std::string arena_;
    std::vector<Text> texts_;  // by id
    std::vector<Slot> slots_;
    size_t used_ = 0, longest_ = 0;
};

}  // namespace spartan
