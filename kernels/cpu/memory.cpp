#include "kernels/memory.h"

#include "kernels/check.h"

#include <sys/mman.h>
#include <cstdlib>

namespace spartan {

void FreeMemory::operator()(void* p) const { std::free(p); }

Memory allocate_memory(int64_t bytes) {
    CHECK(bytes >= 0);
    if (bytes == 0) return nullptr;
    constexpr int64_t kHugePage = 2 << 20, kLine = 64;
    const int64_t unit = bytes >= kHugePage ? kHugePage : kLine;
    // Only whole huge pages are asked for: the rest of the last one would be paid for and never used.
    const int64_t size = (bytes + kLine - 1) / kLine * kLine;
    void* p = nullptr;
    if (posix_memalign(&p, size_t(unit), size_t(size)) != 0) return nullptr;
    // Advice; where it is not taken everything works as it would have.
    if (unit == kHugePage) madvise(p, size_t(size / kHugePage * kHugePage), MADV_HUGEPAGE);
    return Memory(static_cast<std::byte*>(p));
}

}  // namespace spartan
