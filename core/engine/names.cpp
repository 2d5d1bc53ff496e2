#include "core/engine/engine.h"

namespace spartan {

const char* name_of(FinishReason reason) {
    switch (reason) {
        case FinishReason::none:
            return "none";
        case FinishReason::length:
            return "length";
        case FinishReason::eos:
            return "eos";
        case FinishReason::stop:
            return "stop";
        case FinishReason::cancelled:
            return "cancelled";
        case FinishReason::error:
            return "error";
    }
    return "?";
}

const char* name_of(WaitReason reason) {
    switch (reason) {
        case WaitReason::none:
            return "none";
        case WaitReason::no_pages:
            return "no_pages";
        case WaitReason::adapter_loading:
            return "adapter_loading";
        case WaitReason::adapter_no_room:
            return "adapter_no_room";
        case WaitReason::token_budget:
            return "token_budget";
        case WaitReason::row_budget:
            return "row_budget";
        case WaitReason::other_adapter:
            return "other_adapter";
    }
    return "?";
}

const char* name_of(EngineState state) {
    switch (state) {
        case EngineState::idle:
            return "idle";
        case EngineState::running:
            return "running";
        case EngineState::held:
            return "held";
        case EngineState::failed:
            return "failed";
        case EngineState::stopped:
            return "stopped";
    }
    return "?";
}

}  // namespace spartan
