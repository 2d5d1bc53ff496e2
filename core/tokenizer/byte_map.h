// GPT-2's reversible map between bytes and printable characters, which byte-level vocabularies are written in:
// '!'..'~', U+00A1..U+00AC and U+00AE..U+00FF stand for themselves; the other 68 bytes, in order, are U+0100, U+0101, …
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace spartan {

struct ByteMap {
    std::array<char32_t, 256> code{};   // byte -> character
    std::array<int16_t, 0x144> byte{};  // character -> byte, -1 where none

    constexpr ByteMap() {
        byte.fill(-1);
        char32_t next = 0x100;
        for (uint32_t b = 0; b < 256; ++b) {
            const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
            code[b] = printable ? b : next++;
            byte[code[b]] = static_cast<int16_t>(b);
        }
    }
    constexpr int byte_of(char32_t c) const { return c < byte.size() ? byte[c] : -1; }
};

inline constexpr ByteMap byte_map{};

}  // namespace spartan
