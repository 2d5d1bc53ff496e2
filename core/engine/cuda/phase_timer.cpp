#include "core/engine/cuda/phase_timer.h"

#include <cmath>

namespace spartan {

PhaseTimer::~PhaseTimer() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
}

cudaEvent_t PhaseTimer::next_event() {
    if (used_ == events_.size()) {
        events_.push_back(nullptr);
        CHECK_CUDA(cudaEventCreate(&events_.back()));
    }
    return events_[used_++];
}

void PhaseTimer::begin() {
    used_ = 0;
    phases_.clear();
    CHECK_CUDA(cudaEventRecord(next_event(), device_.stream()));
}

void PhaseTimer::end_of(int64_t StepTimes::*phase) {
    phases_.push_back(phase);
    CHECK_CUDA(cudaEventRecord(next_event(), device_.stream()));
}

void PhaseTimer::read(StepTimes& times) {
    std::vector<std::pair<int64_t StepTimes::*, double>> sums;
    for (size_t i = 0; i < phases_.size(); ++i) {
        float ms = 0;
        CHECK_CUDA(cudaEventElapsedTime(&ms, events_[i], events_[i + 1]));
        auto sum = sums.begin();
        while (sum != sums.end() && sum->first != phases_[i]) ++sum;
        if (sum == sums.end()) sum = sums.insert(sum, {phases_[i], 0.0});
        sum->second += double(ms) * 1e3;
    }
    for (const auto& [phase, us] : sums) times.*phase += std::llround(us);
}

}  // namespace spartan
