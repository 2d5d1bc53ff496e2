#include "core/engine/cuda/fold_plan.h"

#include "kernels/check.h"
#include "kernels/cuda/rotate.h"

#include <algorithm>

namespace spartan {
namespace {

class FoldPlanner {
public:
    FoldPlanner(const Adapter& adapter, int64_t piece_bytes, int64_t scratch_bytes)
        : value_bytes_(size_of(adapter.skew_dtype)), piece_bytes_(piece_bytes), scratch_bytes_(scratch_bytes) {}

    // As many groups of the job at once as find room in a piece.
    void add(const FoldJob& job, int64_t block, int64_t factors, int64_t begin) {
        const int64_t group_bytes = skew_values_of_group(block, factors) * value_bytes_;
        const int64_t scratch = fold_scratch_bytes(block, factors);
        CHECK(group_bytes <= piece_bytes_ && scratch <= scratch_bytes_);
        for (int32_t done = 0; done < job.groups;) {
            const int64_t at = begin + done * group_bytes;
            int64_t room = plan_.pieces.empty() ? 0 : (piece_bytes_ - (at - piece().begin)) / group_bytes;
            if (room > 0 && scratch > 0) room = std::min(room, (scratch_bytes_ - piece().scratch_bytes) / scratch);
            if (room <= 0) {
                plan_.pieces.push_back({at, 0, 0, {}});
                continue;
            }
            FoldJob part = job;
            part.first_group = done;
            part.groups = int32_t(std::min<int64_t>(room, job.groups - done));
            part.skew = reinterpret_cast<const void*>(at - piece().begin);
            part.factors = scratch > 0 ? reinterpret_cast<float*>(piece().scratch_bytes) : nullptr;
            piece().bytes = at - piece().begin + part.groups * group_bytes;
            piece().scratch_bytes += part.groups * scratch;
            append(part, int32_t(block), int32_t(factors));
            done += part.groups;
        }
    }

    FoldPlan take() { return std::move(plan_); }

private:
    FoldPiece& piece() { return plan_.pieces.back(); }

    void append(const FoldJob& job, int32_t block, int32_t factors) {
        std::vector<FoldRun>& runs = piece().runs;
        if (runs.empty() || runs.back().shape.block != block || runs.back().shape.factors != factors)
            runs.push_back({int(plan_.jobs.size()), 0, {block, factors, 0}});
        ++runs.back().count;
        runs.back().shape.most_groups = std::max(runs.back().shape.most_groups, job.groups);
        plan_.jobs.push_back(job);
    }

    const int64_t value_bytes_, piece_bytes_, scratch_bytes_;
    FoldPlan plan_;
};

}  // namespace

bool is_served_packed(int64_t in, int64_t group, DType dtype) {
    return packs(in, group, dtype) && packed_rotation_bytes(in, group) == in * group * size_of(dtype);
}

FoldPlan plan_folds(const Adapter& adapter, std::byte* data, bool packing, int64_t piece_bytes, int64_t scratch_bytes) {
    std::vector<const AdapterPart*> parts;
    for (const AdapterPart& part : adapter.parts)
        if (part.skew >= 0) parts.push_back(&part);
    std::sort(parts.begin(), parts.end(), [](const AdapterPart* a, const AdapterPart* b) { return a->skew < b->skew; });
    FoldPlanner planner(adapter, piece_bytes, scratch_bytes);
    const AdapterPart* last = nullptr;
    for (const AdapterPart* part : parts) {
        const bool known = last && last->skew == part->skew;  // parts of a fused module share theirs
        last = part;
        if (known) continue;
        FoldJob job;
        job.rotation = data + part->rotation;
        job.group = int32_t(part->group);
        job.groups = int32_t(part->in / part->group);
        job.half = adapter.skew_dtype == DType::bf16;
        job.packed = packing && is_served_packed(part->in, part->group, adapter.dtype);
        planner.add(job, part->block_size, part->num_factors, part->skew * size_of(adapter.skew_dtype));
    }
    return planner.take();
}

}  // namespace spartan
