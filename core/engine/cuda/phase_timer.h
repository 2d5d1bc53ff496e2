// What a step's time on the GPU was spent on, from events between the launches. They keep launches from overlapping and
// from being replayed, so a step that is timed takes longer: only where somebody asks.
#pragma once

#include "core/engine/step_record.h"
#include "kernels/cuda/device.h"

#include <utility>
#include <vector>

namespace spartan {

class PhaseTimer {
public:
    explicit PhaseTimer(CudaDevice& device) : device_(device) {}
    ~PhaseTimer();
    PhaseTimer(const PhaseTimer&) = delete;
    PhaseTimer& operator=(const PhaseTimer&) = delete;

    void begin();
    // What was launched since the last call belongs to this phase.
    void end_of(int64_t StepTimes::*phase);
    // Adds up, in microseconds; the GPU must be done.
    void read(StepTimes& times);

private:
    cudaEvent_t next_event();

    CudaDevice& device_;
    std::vector<cudaEvent_t> events_;
    std::vector<int64_t StepTimes::*> phases_;  // between events i and i + 1
    size_t used_ = 0;
};

}  // namespace spartan
