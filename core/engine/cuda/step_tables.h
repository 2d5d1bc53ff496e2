// A batch as the kernels read it: all its tables in one run of device memory, sent in one transfer. Where each table
// lies follows from the shape alone, so that a graph captured for a shape finds them again.
#pragma once

#include "core/engine/batch.h"
#include "core/engine/cuda/device_adapters.h"
#include "core/engine/cuda/upload.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/sample.h"

#include <span>
#include <vector>

namespace spartan {

// Room for so many of each; a batch may have fewer.
struct StepShape {
    int64_t rows = 0, tiles = 0, sequences = 0, max_blocks = 0, heads = 0;
    int64_t low_rank_rows = 0;                                     // whose adapters have low-rank parts; 0: not known
    bool norms = false, embeddings = false, output_heads = false;  // some adapter has its own
    AttentionBucket attention;
};

struct StepView {  // device pointers
    const Token* ids = nullptr;
    const CudaRow* rows = nullptr;
    const CudaSequence* sequences = nullptr;
    const int32_t* block_tables = nullptr;  // [layer][sequence][max_blocks]
    const CudaTile* tiles = nullptr;
    const CudaAttentionItem* decode = nullptr;
    const CudaAttentionItem* prefill = nullptr;
    const int32_t* item_counts = nullptr;
    const int32_t* head_rows = nullptr;
    const CudaSampleParams* sampling = nullptr;      // [heads]
    const float* const* norms = nullptr;             // [layer * kNumNormRoles + role][tile]; null: all are the base's
    const CudaTable* const* embeddings = nullptr;    // [tile]
    const CudaTable* const* output_heads = nullptr;  // [tile]
};

class StepTables {
public:
    // row_by_row: rows of a prompt attend as decoded ones do, so that their bits do not depend on how it is cut.
    StepTables(CudaDevice& device, int64_t num_layers, bool row_by_row);

    // The batch's pieces, as far as they decide the shape; valid until the next plan().
    struct Plan {
        std::vector<CudaTile> tiles;
        std::vector<const DeviceAdapter*> adapter_of_tile;
        std::vector<int32_t> tile_of_row;
        std::vector<CudaSequence> sequences;
        AttentionPlan attention;
        int64_t max_blocks = 0;
        bool decode_only = false;  // every sequence has one row
    };
    // `adapters[i]` belongs to batch.segments[i]; null: the base.
    const Plan& plan(const Batch& batch, std::span<const DeviceAdapter* const> adapters);

    // Sends what plan() made, padded to `shape`; the last but one that was sent must have arrived. False: the memory
    // had to grow, so that views of it, and graphs with them, are void. beside_copies: a copy engine may be busy with
    // an adapter, for milliseconds, so a kernel fetches the tables; what is launched next must not overlap it (a graph
    // does not).
    bool send(const Batch& batch, const StepShape& shape, bool beside_copies);
    StepView view(const StepShape& shape) const;

private:
    // Calls table(pointer in the view, count) for each table of the shape, in order.
    template <class Visit>
    static void visit(StepView& view, const StepShape& shape, int64_t num_layers, const Visit& table);
    void fill(const Batch& batch, const StepShape& shape);
    void grow(int64_t bytes);

    CudaDevice& device_;
    int64_t num_layers_;
    bool row_by_row_;
    Plan plan_;
    PinnedMemory hosts_[2];  // one is filled while the other travels
    int filled_ = 0;         // the one that is, or was last
    DeviceMemory memory_;
};

}  // namespace spartan
