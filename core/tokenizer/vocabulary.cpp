#include "core/tokenizer/hash_table.h"

#include <algorithm>

namespace spartan {

std::string_view Vocabulary::text(Token id) const {
    if (!has(id)) return {};
    const Text& t = texts_[size_t(id)];
    return std::string_view(arena_).substr(t.offset, t.size);
}

static uint32_t hash_of(std::string_view text) { return static_cast<uint32_t>(std::hash<std::string_view>{}(text)); }

size_t Vocabulary::locate(std::string_view text, uint32_t hash) const {
    const size_t mask = slots_.size() - 1;
    size_t i = hash & mask;
    while (slots_[i].id >= 0 && (slots_[i].hash != hash || this->text(slots_[i].id) != text)) i = (i + 1) & mask;
    return i;
}

void Vocabulary::rehash(size_t capacity) {
    std::vector<Slot> old(capacity);
    old.swap(slots_);
    for (const Slot& slot : old)
        if (slot.id >= 0) slots_[locate(text(slot.id), slot.hash)] = slot;
}

Vocabulary::Insert Vocabulary::insert(std::string_view text, Token id) {
    if (slots_.size() < 2 * (used_ + 1)) rehash(std::bit_ceil(4 * used_ + 16));
    const uint32_t hash = hash_of(text);
    const size_t slot = locate(text, hash);
    if (slots_[slot].id >= 0) return Insert::same_text;
    if (has(id)) return Insert::same_id;
    if (size_t(id) >= texts_.size()) texts_.resize(size_t(id) + 1);
    texts_[size_t(id)] = {arena_.size(), text.size()};
    arena_ += text;
    slots_[slot] = {hash, id};
    ++used_;
    longest_ = std::max(longest_, text.size());
    return Insert::done;
}

Token Vocabulary::find(std::string_view text) const {
    return slots_.empty() ? -1 : slots_[locate(text, hash_of(text))].id;
}

}  // namespace spartan
