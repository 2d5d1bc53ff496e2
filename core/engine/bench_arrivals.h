// The measurement behind `spartan bench arrivals`: adapters that come in from host memory, alone and beside a decode
// that goes on.
#pragma once

#include "core/base/json.h"
#include "core/engine/bench_batch.h"

#include <string>
#include <vector>

namespace spartan {

struct ArrivalBenchOptions {
    int cuda_device = 0;   // of a GPU: on the CPU nothing comes in beside a step
    int64_t rows = 96;     // of the decode
    int64_t adapters = 8;  // distinct BOFT ones that it uses
    int64_t context = 160;
    int64_t steps = 30;  // timed ones, alone and beside
    BenchSizes sizes;    // where empty: default_bench_sizes()
    // Milliseconds from one adapter to the next, as nearly as whole adapters a step allow; 0: without a pause.
    std::vector<double> paces{2, 0};
    uint64_t seed = 42;
};

struct ArrivalFigure {
    std::string kind;  // "boft": skew halves, folded by the GPU; "boft folded": by the CPU before; "lora"
    double pace_ms = 0;
    int64_t host_bytes = 0, pool_bytes = 0;  // that travel; that it takes
    double alone_ms = 0, beside_ms = 0;      // an adapter, from the beginning of its copy until it is ready
    double every_ms = 0;                     // beside the decode, from one that is ready to the next
    double step_ms = 0, step_beside_ms = 0;  // of the decode
    double slower = 0;                       // step_beside_ms / step_ms - 1
    double streaming_share = 0;              // of the steps beside which adapters came in from begin to end
};

// Adapters follow each other without a pause for as long as a step lasts. Medians.
Result<std::vector<ArrivalFigure>> measure_arrivals(std::shared_ptr<const Model> model,
                                                    const ArrivalBenchOptions& options, Progress& progress);

Json to_json(const std::vector<ArrivalFigure>& figures);

}  // namespace spartan
