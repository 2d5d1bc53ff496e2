// Step records of an imagined run, for tests of the window only: requests arrive, take pages, prefill, decode and
// finish as the engine's would. Deterministic for a seed. The program itself never shows anything like this.
#pragma once

#include "core/engine/step_record.h"
#include "ui/run_model.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace spartan::fake {

struct Options {
    int adapters = 8;
    int requests = 64;
    int output_tokens = 100;
    int max_rows = 32;
    int max_batch_tokens = 512;
    int pages = 4096;
    int layers = 4;
    int block_tokens = 16;
    int pages_per_adapter = 40;
    int64_t arrival_every_us = 0;  // 0: all at once
    int64_t hold_at_step = -1;     // a hold of two seconds before this step
    int warmup = 0;
    uint64_t seed = 7;
    bool cycle_requests = false;  // never ends: finished requests come back as new ones
};

class Source {
public:
    explicit Source(Options options) : o_(options), random_(options.seed), owner_(size_t(options.pages), 0) {
        for (int i = 0; i < o_.requests; ++i) enqueue(int64_t(i) * o_.arrival_every_us);
    }

    RunHeader header() const {
        RunHeader h;
        h.name = "run-0042";
        h.model_name = "SmolLM2-135M";
        h.dtype = "bf16";
        h.device = "CPU, 2 threads";
        h.workload_name = "round robin";
        h.page_bytes = 24'576;
        h.pool_bytes = h.page_bytes * o_.pages;
        h.weight_bytes = 269'000'000;
        h.workspace_bytes = 12'000'000;
        h.block_tokens = o_.block_tokens;
        h.planned_requests = o_.requests;
        h.slo_ttft_ms = 600;
        h.live = true;
        const char* demo[] = {"pirate", "capitals", "letter", "json", "bullets", "brief", "question", "emoji"};
        const char* kinds[] = {"BOFT b16 m2", "BOFT b32 m1", "BOFT b64 m1", "BOFT b8 m3",
                               "OFT b32",     "LoRA r4",     "LoRA r8",     "LoRA r16"};
        const int blocks[] = {16, 32, 64, 8, 32, 0, 0, 0}, factors[] = {2, 1, 1, 3, 1, 0, 0, 0},
                  ranks[] = {0, 0, 0, 0, 0, 4, 8, 16};
        for (int i = 0; i < o_.adapters; ++i) {
            RunAdapter a;
            a.id = AdapterId(i + 1);
            a.name = i < 8 ? demo[i] : "boft-b32-m1-" + std::to_string(1000 + i).substr(1);
            a.geometry = kinds[i % 8];
            a.targets = "q k v o";
            a.bytes = 1'000'000 + 50'000 * (i % 8);
            for (int layer = 0; layer < o_.layers; ++layer) {
                AdapterPart part;
                part.layer = layer;
                part.projection = Projection::q;
                part.in = part.out = 576;
                part.block_size = blocks[i % 8];
                part.num_factors = factors[i % 8];
                part.rank = ranks[i % 8];
                if (part.block_size > 0) {
                    part.group = part.block_size << (part.num_factors - 1);
                    part.rotation = 0;
                }
                a.parts.push_back(part);
            }
            h.adapters.push_back(a);
        }
        return h;
    }

    // The next record; null when everything has finished.
    StepRecordPtr next() {
        if (waiting_.empty() && running_.empty()) return nullptr;
        auto r = std::make_shared<StepRecord>();
        if (running_.empty() && waiting_.front().arrival > now_) now_ = waiting_.front().arrival;
        if (step_ == o_.hold_at_step) held_ += 2'000'000;
        r->step = step_;
        r->held_us = held_;
        r->start_us = now_;
        for (Live& w : waiting_) {
            if (w.announced || w.arrival > now_) continue;
            w.announced = true;
            r->arrivals.push_back({w.id, w.adapter, w.arrival, w.prompt, w.max_tokens, w.warmup});
        }
        int budget = o_.max_batch_tokens;
        for (Live& q : running_)
            if (q.computed >= q.prompt) --budget;
        while (!waiting_.empty() && waiting_.front().announced && int(running_.size()) < o_.max_rows) {
            Live q = waiting_.front();
            if (!takePages(q, q.prompt + 1, *r)) break;
            loadAdapter(q.adapter, *r);
            q.scheduled = now_;
            waiting_.pop_front();
            running_.push_back(q);
        }
        std::stable_sort(running_.begin(), running_.end(),
                         [](const Live& a, const Live& b) { return a.adapter < b.adapter; });
        const int64_t noise = int64_t(random_() % 4'000);
        for (Live& q : running_) {
            StepRow row;
            row.request = q.id;
            row.adapter = q.adapter;
            row.context = q.computed;
            if (q.computed < q.prompt) {
                row.num_tokens = std::min(budget, q.prompt - q.computed);
                if (row.num_tokens <= 0) continue;
                budget -= row.num_tokens;
                row.prefill = true;
                r->prefill_tokens += row.num_tokens;
            } else {
                row.num_tokens = 1;
                ++r->decode_tokens;
            }
            q.computed += row.num_tokens;
            if (q.computed >= q.prompt) row.token = Token(random_() % 49'152);
            r->rows.push_back(row);
        }
        r->times.schedule = 120;
        r->times.rotate = 60 * int64_t(r->rows.size());
        r->times.lora = 25 * int64_t(r->rows.size());
        r->times.products = 6'000 + 90 * (r->prefill_tokens + r->decode_tokens) + noise;
        r->times.attention = 40 * (r->prefill_tokens + r->decode_tokens);
        r->times.other = 400;
        r->times.head = 900;
        r->times.sample = 150;
        r->times.transfer = r->bytes.transfer / 4'000;
        const StepTimes& t = r->times;
        now_ += t.schedule + t.rotate + t.lora + t.products + t.attention + t.other + t.head + t.sample + t.transfer;
        r->end_us = now_;
        r->bytes.weights = 269'000'000;
        r->bytes.adapters = 1'000'000 * int64_t(r->rows.size());
        for (StepRow& row : r->rows) {
            if (row.token < 0) continue;
            Live& q =
                *std::find_if(running_.begin(), running_.end(), [&](const Live& l) { return l.id == row.request; });
            if (q.first_token < 0) q.first_token = now_;
            q.last_token = now_;
            q.token_us.push_back(now_);
            q.output.push_back(row.token);
            if (int(q.output.size()) >= q.max_tokens) row.finish = FinishReason::length;
            if (row.finish == FinishReason::none) takePages(q, q.prompt + int(q.output.size()) + 1, *r);
        }
        for (size_t i = 0; i < running_.size();) {
            Live& q = running_[i];
            if (int(q.output.size()) < q.max_tokens) {
                ++i;
                continue;
            }
            RequestRecord f;
            f.id = q.id;
            f.adapter = q.adapter;
            f.arrival_us = q.arrival;
            f.first_scheduled_us = q.scheduled;
            f.first_token_us = q.first_token;
            f.last_token_us = q.last_token;
            f.prompt_tokens = q.prompt;
            f.output_tokens = int32_t(q.output.size());
            f.finish = FinishReason::length;
            f.warmup = q.warmup;
            f.token_us = q.token_us;
            f.output = q.output;
            r->finished.push_back(f);
            freePages(q, *r);
            running_.erase(running_.begin() + std::ptrdiff_t(i));
            if (o_.cycle_requests) enqueue(now_);
        }
        r->pool.total_pages = o_.pages;
        int run = 0;
        for (size_t i = 0; i < owner_.size(); ++i) {
            run = owner_[i] == 0 ? run + 1 : 0;
            r->pool.largest_free_run = std::max(r->pool.largest_free_run, run);
            r->pool.kv_pages += owner_[i] == 1;
            r->pool.adapter_pages += owner_[i] == 2;
        }
        r->running = int32_t(running_.size());
        for (const Live& w : waiting_) r->waiting += w.announced;
        if (r->waiting > 0) r->waiting_for.push_back({WaitReason::row_budget, r->waiting, 0});
        ++step_;
        return r;
    }

private:
    struct Live {
        RequestId id{};
        AdapterId adapter{};
        int64_t arrival = 0, scheduled = -1, first_token = -1, last_token = -1;
        int32_t prompt = 0, max_tokens = 0, computed = 0;
        bool announced = false, warmup = false;
        std::vector<std::pair<int, int>> pages;  // first, count
        int page_count = 0;
        std::vector<int64_t> token_us;
        std::vector<Token> output;
    };

    void enqueue(int64_t arrival) {
        Live q;
        q.id = RequestId(++last_id_);
        q.adapter = o_.adapters ? AdapterId(1 + (last_id_ - 1) % uint64_t(o_.adapters)) : AdapterId::base;
        q.arrival = arrival;
        q.prompt = int32_t(32 + random_() % 225);
        q.max_tokens = o_.output_tokens;
        q.warmup = int64_t(last_id_) <= o_.warmup;
        waiting_.push_back(q);
    }
    int findFree(int count) const {
        int run = 0;
        for (int i = 0; i < o_.pages; ++i) {
            run = owner_[size_t(i)] == 0 ? run + 1 : 0;
            if (run == count) return i - count + 1;
        }
        return -1;
    }
    bool takePages(Live& q, int tokens, StepRecord& r) {
        const int wanted = (tokens + o_.block_tokens - 1) / o_.block_tokens * o_.layers - q.page_count;
        if (wanted <= 0) return true;
        const int first = findFree(wanted);
        if (first < 0) return false;
        std::fill_n(owner_.begin() + first, wanted, uint8_t(1));
        q.pages.emplace_back(first, wanted);
        q.page_count += wanted;
        r.page_changes.push_back({first, wanted, PageOwner::kv, uint64_t(q.id)});
        return true;
    }
    void freePages(const Live& q, StepRecord& r) {
        for (const auto& [first, n] : q.pages) {
            std::fill_n(owner_.begin() + first, n, uint8_t(0));
            r.page_changes.push_back({first, n, PageOwner::free, 0});
        }
    }
    void loadAdapter(AdapterId id, StepRecord& r) {
        if (id == AdapterId::base || loaded_[id]) return;
        const int first = findFree(o_.pages_per_adapter);
        if (first < 0) return;
        loaded_[id] = true;
        std::fill_n(owner_.begin() + first, o_.pages_per_adapter, uint8_t(2));
        r.page_changes.push_back({first, o_.pages_per_adapter, PageOwner::transient, uint64_t(id)});
        r.page_changes.push_back({first, o_.pages_per_adapter, PageOwner::adapter, uint64_t(id)});
        const int64_t begin = now_ + 250 * int64_t(r.adapter_events.size());
        r.adapter_events.push_back({id, AdapterEvent::Kind::load, 1'000'000, 250, begin});
        r.bytes.transfer += 1'000'000;
    }

    Options o_;
    std::mt19937_64 random_;
    std::vector<uint8_t> owner_;
    std::deque<Live> waiting_;
    std::vector<Live> running_;
    std::map<AdapterId, bool> loaded_;
    uint64_t last_id_ = 0;
    int64_t now_ = 0, step_ = 0, held_ = 0;
};

inline std::vector<StepRecordPtr> all(Source& source, size_t limit = size_t(-1)) {
    std::vector<StepRecordPtr> out;
    while (out.size() < limit) {
        StepRecordPtr r = source.next();
        if (!r) break;
        out.push_back(std::move(r));
    }
    return out;
}

}  // namespace spartan::fake
