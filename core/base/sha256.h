// SHA-256 (FIPS 180-4) of bytes that arrive in parts.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace spartan {

class Sha256 {
public:
    using Digest = std::array<uint8_t, 32>;

    Sha256();
    ~Sha256();
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;

    void update(const void* bytes, size_t size);
    void update(std::string_view bytes) { update(bytes.data(), bytes.size()); }
    Digest finish();  // and starts over

private:
    struct Context;
    std::unique_ptr<Context> context_;
};

std::string to_hex(const Sha256::Digest& digest);  // lower case

}  // namespace spartan
