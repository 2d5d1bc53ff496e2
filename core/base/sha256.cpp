#include "core/base/sha256.h"

#include "kernels/check.h"

#include <openssl/evp.h>

namespace spartan {

struct Sha256::Context {
    EVP_MD_CTX* md = EVP_MD_CTX_new();
    Context() {
        CHECK(md != nullptr);
        start();
    }
    ~Context() { EVP_MD_CTX_free(md); }
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;
    void start() const { CHECK(EVP_DigestInit_ex(md, EVP_sha256(), nullptr) == 1); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {}
Sha256::~Sha256() = default;

void Sha256::update(const void* bytes, size_t size) { CHECK(EVP_DigestUpdate(context_->md, bytes, size) == 1); }

Sha256::Digest Sha256::finish() {
    Digest digest{};
    unsigned size = 0;
    CHECK(EVP_DigestFinal_ex(context_->md, digest.data(), &size) == 1 && size == digest.size());
    context_->start();
    return digest;
}

std::string to_hex(const Sha256::Digest& digest) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string hex;
    hex.reserve(2 * digest.size());
    for (const uint8_t byte : digest) {
        hex += digits[byte >> 4];
        hex += digits[byte & 15];
    }
    return hex;
}

}  // namespace spartan
