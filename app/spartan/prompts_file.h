// {"prompts": [{"ids": [int…] | "text": "…", "adapter": NAME | null}, …]}
#pragma once

#include "app/spartan/session.h"

namespace spartan {

struct PromptEntry {
    std::vector<Token> ids;
    AdapterId adapter = AdapterId::base;
    std::string adapter_name;  // empty: the base
    std::string place;         // "prompts[3]", for errors
};

Result<std::vector<PromptEntry>> read_prompts_file(const std::string& path, const Session& session);

}  // namespace spartan
