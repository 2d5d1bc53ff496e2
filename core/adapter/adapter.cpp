#include "core/adapter/adapter.h"

#include "core/adapter/change.h"
#include "core/base/text.h"

#include <algorithm>

namespace spartan {
namespace {

std::string size_text(const AdapterPart& part, AdapterKind kind) {
    if (part.rank > 0) return "r" + std::to_string(part.rank);
    const std::string b = "b" + std::to_string(part.block_size);
    return kind == AdapterKind::oft ? b : b + " m" + std::to_string(part.num_factors);
}

}  // namespace

const char* name_of(AdapterKind kind) {
    switch (kind) {
        case AdapterKind::boft:
            return "boft";
        case AdapterKind::oft:
            return "oft";
        case AdapterKind::lora:
            return "lora";
        case AdapterKind::dora:
            return "dora";
    }
    return "";
}

std::string Adapter::geometry() const {
    std::vector<std::string> sizes;
    const auto add = [&](const AdapterPart& part) {
        if (!part.rotates() && part.rank == 0) return;  // only a bias
        const std::string text = size_text(part, kind);
        if (std::find(sizes.begin(), sizes.end(), text) == sizes.end()) sizes.push_back(text);
    };
    for (const AdapterPart& part : parts) add(part);
    if (embedding) add(embedding->part);
    if (head) add(head->part);
    constexpr const char* kTitles[] = {"BOFT", "OFT", "LoRA", "DoRA"};
    return std::string(kTitles[size_t(kind)]) + " " + join(sizes, "/");
}

std::string Adapter::targets() const {
    std::vector<std::string> words;
    for (int i = 0; i < kNumProjections; ++i) {
        const bool used =
            std::any_of(parts.begin(), parts.end(), [i](const AdapterPart& p) { return int(p.projection) == i; });
        if (used) words.emplace_back(name_of(ChangedPart(i)));
    }
    if (embedding) words.emplace_back(name_of(ChangedPart::embedding));
    if (head) words.emplace_back(name_of(ChangedPart::head));
    if (!norms.empty()) words.emplace_back("norm");
    return join(words, " ");
}

}  // namespace spartan
