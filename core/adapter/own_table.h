// A packed table of an adapter's blob where matrices may lie: the blob itself need not be aligned.
#pragma once

#include "core/adapter/adapter.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"

#include <cstring>
#include <new>

namespace spartan {

template <class T>
class OwnTable {
public:
    OwnTable() = default;
    // [rows, cols] from `offset` on; none when that is negative. Throws std::bad_alloc.
    OwnTable(const Adapter& adapter, int64_t offset, int64_t rows, int64_t cols) {
        if (offset < 0) return;
        const int64_t bytes = PackedMatrix<T>::bytes_of(rows, cols);
        memory_ = allocate_memory(bytes);
        if (!memory_) throw std::bad_alloc();
        std::memcpy(memory_.get(), adapter.blob.data() + offset, size_t(bytes));
        matrix_ = PackedMatrix<T>::view(rows, cols, reinterpret_cast<const T*>(memory_.get()));
    }
    const PackedMatrix<T>* get() const { return memory_ ? &matrix_ : nullptr; }

private:
    Memory memory_;
    PackedMatrix<T> matrix_;
};

}  // namespace spartan
