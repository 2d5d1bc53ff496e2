#include "core/engine/adapter_registry.h"

#include "core/base/text.h"
#include "kernels/check.h"
#include "kernels/rounding.h"

#include <utility>

namespace spartan {
namespace {

Error unknown(AdapterId id) {
    return Error{"", "adapter", "id " + std::to_string(uint32_t(id)), "an adapter that was added and not removed"};
}

}  // namespace

// An adapter that nobody asks for any more: its memory is counted until it is free.
struct AdapterRegistry::Leaving {
    AdapterRegistry& registry;
    std::shared_ptr<const HostAdapter> host;
    int64_t bytes;

    Leaving(AdapterRegistry& of, std::shared_ptr<const HostAdapter> last)
        : registry(of), host(std::move(last)), bytes(host->adapter->host_bytes()) {}
    ~Leaving() {
        host.reset();
        const std::lock_guard lock(registry.mutex_);
        registry.used_bytes_ -= bytes;
        registry.leaving_bytes_ -= bytes;
    }
    Leaving(const Leaving&) = delete;
    Leaving& operator=(const Leaving&) = delete;
};

AdapterRegistry::AdapterRegistry(int64_t budget_bytes, int64_t page_bytes, int32_t total_pages)
    : budget_bytes_(budget_bytes), page_bytes_(page_bytes), total_pages_(total_pages) {}

Result<AdapterId> AdapterRegistry::add(std::shared_ptr<const HostAdapter> host) {
    const auto& adapter = host->adapter;
    const int64_t bytes = adapter->bytes(), host_bytes = adapter->host_bytes();
    const int64_t pages = divide_up(bytes, page_bytes_), batched = divide_up(adapter->factor_bytes, page_bytes_);
    if (pages + batched >= total_pages_)
        return Error{adapter->path, "adapter " + adapter->name,
                     batched == 0
                         ? format_bytes(bytes) + " when folded"
                         : format_bytes(bytes) + " and " + format_bytes(adapter->factor_bytes) + " when batched",
                     "less than the pool's " + format_bytes(page_bytes_ * total_pages_) + " (engine.pool_bytes)"};
    std::lock_guard lock(mutex_);
    if (used_bytes_ + host_bytes > budget_bytes_)
        return Error{adapter->path, "adapter " + adapter->name,
                     format_bytes(host_bytes) + " beside " + format_bytes(used_bytes_) + " of other adapters" +
                         (leaving_bytes_ > 0 ? ", " + format_bytes(leaving_bytes_) + " of them about to leave" : ""),
                     "at most " + format_bytes(budget_bytes_) + " in all (engine.adapter_bytes)"};
    used_bytes_ += host_bytes;
    const auto id = AdapterId(next_id_++);
    entries_[id] = {.host = std::move(host), .pages = {int32_t(pages), int32_t(batched)}};
    return id;
}

Result<void> AdapterRegistry::begin_removal(AdapterId id) {
    std::lock_guard lock(mutex_);
    const auto it = entries_.find(id);
    if (it == entries_.end() || it->second.leaving) return unknown(id);
    it->second.leaving = true;
    return {};
}

Result<AdapterPages> AdapterRegistry::acquire(AdapterId id) {
    if (id == AdapterId::base) return AdapterPages{};
    std::lock_guard lock(mutex_);
    const auto it = entries_.find(id);
    if (it == entries_.end() || it->second.leaving) return unknown(id);
    ++it->second.unfinished;
    return it->second.pages;
}

void AdapterRegistry::release(AdapterId id) {
    if (id == AdapterId::base) return;
    std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(id);
    CHECK(entry.unfinished > 0);
    --entry.unfinished;
}

AdapterPages AdapterRegistry::pages_of(AdapterId id) const {
    std::lock_guard lock(mutex_);
    const auto it = entries_.find(id);
    return it == entries_.end() ? AdapterPages{} : it->second.pages;
}

std::vector<AdapterId> AdapterRegistry::removable() const {
    std::lock_guard lock(mutex_);
    std::vector<AdapterId> ids;
    for (const auto& [id, e] : entries_)
        if (e.leaving && e.unfinished == 0) ids.push_back(id);
    return ids;
}

std::shared_ptr<const void> AdapterRegistry::forget(AdapterId id) {
    std::lock_guard lock(mutex_);
    const auto it = entries_.find(id);
    CHECK(it != entries_.end() && it->second.leaving && it->second.unfinished == 0);
    auto leaving = std::make_shared<const Leaving>(*this, std::move(it->second.host));
    leaving_bytes_ += leaving->bytes;
    entries_.erase(it);
    return leaving;
}

void AdapterRegistry::set_residency(AdapterId id, Residency residency) {
    std::lock_guard lock(mutex_);
    entries_.at(id).residency = residency;
}

std::shared_ptr<const HostAdapter> AdapterRegistry::get(AdapterId id) const {
    std::lock_guard lock(mutex_);
    const auto it = entries_.find(id);
    return it == entries_.end() ? nullptr : it->second.host;
}

std::string AdapterRegistry::name(AdapterId id) const {
    if (id == AdapterId::base) return "base";
    const auto host = get(id);
    return host ? host->adapter->name : "?";
}

std::vector<AdapterStatus> AdapterRegistry::status() const {
    std::lock_guard lock(mutex_);
    std::vector<AdapterStatus> out;
    for (const auto& [id, e] : entries_)
        out.push_back({id, e.host->adapter, e.residency, e.pages.blob * page_bytes_, e.unfinished, e.leaving});
    return out;
}

}  // namespace spartan
