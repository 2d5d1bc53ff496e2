#include "core/run/run_dir.h"

#include "core/base/text.h"

#include <array>
#include <cmath>
#include <filesystem>

namespace spartan {
namespace {

constexpr std::array<const char*, 6> kFinish{"none", "length", "eos", "stop", "cancelled", "error"};
constexpr std::array<const char*, 4> kOwner{"free", "kv", "adapter", "transient"};
constexpr std::array<const char*, 7> kWait{"none",         "no_pages",   "adapter_loading", "adapter_no_room",
                                           "token_budget", "row_budget", "other_adapter"};
constexpr std::array<const char*, 2> kEvent{"load", "evict"};

template <class Enum, size_t N>
const char* word(const std::array<const char*, N>& words, Enum e) {
    return words[size_t(e)];
}

// The cells of one array of a record, in order; like Fields, it keeps the first thing that is wrong.
class Cells {
public:
    // `optional` of the `count` may be absent at the end.
    Cells(const Json& array, size_t count, const char* name, size_t optional = 0) : array_(array), name_(name) {
        if (!array.is_array() || array.size() > count || array.size() + optional < count)
            wrong(describe(array), std::to_string(count) + " values");
    }
    bool at_end() const { return !found_.empty() || at_ == array_.size(); }
    template <class T>
    T integer() {
        const Json* v = next();
        if (!v) return T{};
        using Raw =
            typename std::conditional_t<std::is_enum_v<T>, std::underlying_type<T>, std::type_identity<T>>::type;
        const bool fits = v->is_number_unsigned() ? v->get<uint64_t>() <= uint64_t(std::numeric_limits<Raw>::max())
                          : v->is_number_integer()
                              ? v->get<int64_t>() >= int64_t(std::numeric_limits<Raw>::min()) && std::is_signed_v<Raw>
                              : false;
        if (fits) return T(v->get<Raw>());
        wrong(describe(*v), "an integer in range");
        return T{};
    }
    bool boolean() {
        const Json* v = next();
        if (!v) return false;
        if (!v->is_boolean()) wrong(describe(*v), "true or false");
        return v->is_boolean() && v->get<bool>();
    }
    template <class Enum, size_t N>
    Enum one_of(const std::array<const char*, N>& words) {
        const Json* v = next();
        if (!v) return Enum{};
        for (size_t i = 0; i < N; ++i)
            if (v->is_string() && v->get_ref<const std::string&>() == words[i]) return Enum(i);
        wrong(describe(*v), "one of " + join(words, ", "));
        return Enum{};
    }
    // Moves the first error into `f`.
    void report(Fields& f) const {
        if (!found_.empty()) f.fail(name_, found_, expected_);
    }

private:
    const Json* next() {
        if (!found_.empty()) return nullptr;
        return &array_[at_++];
    }
    void wrong(std::string found, std::string expected) {
        if (found_.empty()) found_ = std::move(found), expected_ = std::move(expected);
    }

    const Json& array_;
    const char* name_;
    size_t at_ = 0;
    std::string found_, expected_;
};

template <class Item>
void read_list(Fields& f, const char* key, size_t width, std::vector<Item>& out, auto read, size_t optional = 0) {
    const Json* list = f.array(key);
    if (!list) return;
    out.reserve(list->size());
    for (const Json& item : *list) {
        Cells cells(item, width, key, optional);
        out.push_back(read(cells));
        cells.report(f);
    }
}

void read_ids(Fields& f, const char* key, std::vector<RequestId>& out) {
    const Json* list = f.array(key);
    if (!list) return;
    for (const Json& id : *list) {
        if (!id.is_number_unsigned()) f.fail(key, describe(id), "request ids");
        out.push_back(RequestId(id.is_number_unsigned() ? id.get<uint64_t>() : 0));
    }
}

Json ids_json(const std::vector<RequestId>& ids) {
    Json list = Json::array();
    for (const RequestId id : ids) list.push_back(uint64_t(id));
    return list;
}

// Sums and differences of what a file says stay far from the ends of int64_t; as microseconds these are 285 years.
constexpr int64_t kMost = int64_t(1) << 53;

int64_t count(Fields& f, const char* key, int64_t max = kMost) { return f.integer(key, 0, 0, max); }
int32_t count32(Fields& f, const char* key) { return int32_t(count(f, key, INT32_MAX)); }

Json times_json(const StepTimes& t) {
    return {t.schedule,  t.transfer, t.rotate, t.lora,   t.products,
            t.attention, t.other,    t.head,   t.sample, t.publish_wait};
}

void read_times(Fields& f, StepTimes& t) {
    const Json* list = f.array("times");
    if (!list) return;
    Cells c(*list, 10, "times");
    for (int64_t* us : {&t.schedule, &t.transfer, &t.rotate, &t.lora, &t.products, &t.attention, &t.other, &t.head,
                        &t.sample, &t.publish_wait})
        *us = c.integer<int64_t>();
    c.report(f);
}

void read_bytes(Fields& f, StepBytes& b) {
    const Json* list = f.array("bytes");
    if (!list) return;
    Cells c(*list, 4, "bytes");
    for (int64_t* bytes : {&b.weights, &b.adapters, &b.kv, &b.transfer}) *bytes = c.integer<int64_t>();
    c.report(f);
}

void read_pool(Fields& f, PoolState& p) {
    const Json* list = f.array("pool");
    if (!list) return;
    Cells c(*list, 5, "pool");
    for (int32_t* pages : {&p.total_pages, &p.kv_pages, &p.adapter_pages, &p.transient_pages, &p.largest_free_run})
        *pages = c.integer<int32_t>();
    c.report(f);
}

void read_device(Fields& f, DeviceMemoryUse& d) {
    if (!f.has("device")) return;
    const Json* list = f.array("device");
    if (!list) return;
    Cells c(*list, 2, "device");
    for (int64_t* bytes : {&d.total, &d.used}) *bytes = c.integer<int64_t>();
    c.report(f);
}

std::vector<int64_t> int_list(Fields& f, const char* key) {
    std::vector<int64_t> out;
    const Json* list = f.array(key);
    if (!list) return out;
    for (const Json& v : *list) {
        const bool good = v.is_number_integer() && std::abs(v.get<double>()) <= double(kMost);
        if (!good) f.fail(key, describe(v), "integers");
        out.push_back(good ? v.get<int64_t>() : 0);
    }
    return out;
}

}  // namespace

const char* finish_word(FinishReason reason) { return word(kFinish, reason); }

Json step_to_json(const StepRecord& s) {
    Json rows = Json::array(), changes = Json::array(), waits = Json::array(), arrivals = Json::array(),
         events = Json::array(), finished = Json::array();
    for (const StepRow& r : s.rows)
        rows.push_back({uint64_t(r.request), uint32_t(r.adapter), r.num_tokens, r.context, r.prefill, r.token,
                        word(kFinish, r.finish)});
    for (const PageChange& c : s.page_changes) changes.push_back({c.first, c.count, word(kOwner, c.owner), c.id});
    for (const WaitCount& w : s.waiting_for) waits.push_back({word(kWait, w.reason), w.requests, w.pages_short});
    for (const Arrival& a : s.arrivals)
        arrivals.push_back(
            {uint64_t(a.request), uint32_t(a.adapter), a.arrival_us, a.prompt_tokens, a.max_tokens, a.warmup});
    for (const AdapterEvent& e : s.adapter_events)
        events.push_back({uint32_t(e.adapter), word(kEvent, e.kind), e.bytes, e.us, e.begin_us});
    for (const RequestRecord& r : s.finished) finished.push_back(uint64_t(r.id));
    const PoolState& p = s.pool;
    Json j{{"step", s.step},
           {"start_us", s.start_us},
           {"end_us", s.end_us},
           {"held_us", s.held_us},
           {"rows", rows},
           {"prefill_tokens", s.prefill_tokens},
           {"decode_tokens", s.decode_tokens},
           {"padding_tokens", s.padding_tokens},
           {"times", times_json(s.times)},
           {"bytes", {s.bytes.weights, s.bytes.adapters, s.bytes.kv, s.bytes.transfer}},
           {"pool", {p.total_pages, p.kv_pages, p.adapter_pages, p.transient_pages, p.largest_free_run}},
           {"page_changes", changes},
           {"running", s.running},
           {"waiting", s.waiting},
           {"waiting_for", waits},
           {"arrivals", arrivals},
           {"preempted", ids_json(s.preempted)},
           {"adapter_events", events},
           {"finished", finished},
           {"strategy", name_of(s.strategy)}};
    if (s.device.total > 0) j["device"] = {s.device.total, s.device.used};
    if (s.gap_us >= 0) j["gap_us"] = s.gap_us;
    if (s.passes != 1) j["passes"] = s.passes;
    if (s.common_block != 0) j["common_block"] = s.common_block;
    if (s.bytes.staging != 0) j["staging_bytes"] = s.bytes.staging;
    if (!s.trouble.empty()) j["trouble"] = s.trouble;
    return j;
}

Result<StepRecord> step_from_json(const Json& json, const std::string& file) {
    Fields f(json, file);
    StepRecord s;
    for (const char* key : {"step", "start_us", "end_us", "rows", "finished"}) f.require(key);
    s.step = count(f, "step");
    s.start_us = count(f, "start_us");
    s.end_us = count(f, "end_us");
    s.held_us = count(f, "held_us");
    read_list(f, "rows", 7, s.rows, [](Cells& c) {
        StepRow r;
        r.request = c.integer<RequestId>();
        r.adapter = c.integer<AdapterId>();
        r.num_tokens = c.integer<int32_t>();
        r.context = c.integer<int32_t>();
        r.prefill = c.boolean();
        r.token = c.integer<Token>();
        r.finish = c.one_of<FinishReason>(kFinish);
        return r;
    });
    s.prefill_tokens = count32(f, "prefill_tokens");
    s.decode_tokens = count32(f, "decode_tokens");
    s.padding_tokens = count32(f, "padding_tokens");
    read_times(f, s.times);
    read_bytes(f, s.bytes);
    read_pool(f, s.pool);
    read_device(f, s.device);
    s.trouble = f.string("trouble");
    read_list(f, "page_changes", 4, s.page_changes, [](Cells& c) {
        PageChange p;
        p.first = c.integer<int32_t>();
        p.count = c.integer<int32_t>();
        p.owner = c.one_of<PageOwner>(kOwner);
        p.id = c.integer<uint64_t>();
        return p;
    });
    s.running = count32(f, "running");
    s.waiting = count32(f, "waiting");
    read_list(f, "waiting_for", 3, s.waiting_for, [](Cells& c) {
        WaitCount w;
        w.reason = c.one_of<WaitReason>(kWait);
        w.requests = c.integer<int32_t>();
        w.pages_short = c.integer<int32_t>();
        return w;
    });
    read_list(f, "arrivals", 6, s.arrivals, [](Cells& c) {
        Arrival a;
        a.request = c.integer<RequestId>();
        a.adapter = c.integer<AdapterId>();
        a.arrival_us = c.integer<int64_t>();
        a.prompt_tokens = c.integer<int32_t>();
        a.max_tokens = c.integer<int32_t>();
        a.warmup = c.boolean();
        return a;
    });
    read_ids(f, "preempted", s.preempted);
    constexpr size_t kMayLack = 1;  // recordings of before do not say when a move began
    const auto read_event = [](Cells& c) {
        AdapterEvent e;
        e.adapter = c.integer<AdapterId>();
        e.kind = c.one_of<AdapterEvent::Kind>(kEvent);
        e.bytes = c.integer<int64_t>();
        e.us = c.integer<int64_t>();
        if (!c.at_end()) e.begin_us = c.integer<int64_t>();
        return e;
    };
    read_list(f, "adapter_events", 5, s.adapter_events, read_event, kMayLack);
    std::vector<RequestId> finished;
    read_ids(f, "finished", finished);
    const std::string strategy = f.string("strategy", name_of(s.strategy));
    if (const auto parsed = parse_adapter_strategy(strategy))
        s.strategy = *parsed;
    else
        f.fail("strategy", parsed.error().found, parsed.error().expected);
    s.gap_us = f.integer("gap_us", -1, 0, kMost);
    s.passes = int32_t(f.integer("passes", 1, 0, INT32_MAX));
    s.common_block = count(f, "common_block");
    s.bytes.staging = count(f, "staging_bytes");
    for (const RequestId id : finished) s.finished.emplace_back().id = id;
    TRY_VOID(f.finish());
    return s;
}

Json request_to_json(const RequestRecord& r) {
    Json j{{"request", uint64_t(r.id)},          {"adapter", uint32_t(r.adapter)},
           {"arrival_us", r.arrival_us},         {"first_scheduled_us", r.first_scheduled_us},
           {"first_token_us", r.first_token_us}, {"last_token_us", r.last_token_us},
           {"prompt_tokens", r.prompt_tokens},   {"output_tokens", r.output_tokens},
           {"preemptions", r.preemptions},       {"finish", word(kFinish, r.finish)}};
    if (!r.error.empty()) j["error"] = r.error;
    if (r.warmup) j["warmup"] = true;
    if (r.origin.repeat >= 0) j["repeat"] = r.origin.repeat;
    if (r.origin.slo_ttft_ms >= 0) j["slo_ttft_ms"] = r.origin.slo_ttft_ms;
    if (!r.origin.label.empty()) j["label"] = r.origin.label;
    if (r.visible_bytes >= 0) j["visible_bytes"] = r.visible_bytes;
    if (!r.token_us.empty()) j["token_us"] = r.token_us;
    if (!r.output.empty()) j["output"] = r.output;
    return j;
}

Result<RequestRecord> request_from_json(const Json& json, const std::string& file) {
    Fields f(json, file);
    RequestRecord r;
    for (const char* key : {"request", "adapter", "arrival_us", "finish"}) f.require(key);
    r.id = RequestId(uint64_t(count(f, "request", INT64_MAX)));
    r.adapter = AdapterId(uint32_t(count(f, "adapter", UINT32_MAX)));
    r.arrival_us = f.integer("arrival_us", 0, -kMost, kMost);
    r.first_scheduled_us = f.integer("first_scheduled_us", -1, -1, kMost);
    r.first_token_us = f.integer("first_token_us", -1, -1, kMost);
    r.last_token_us = f.integer("last_token_us", -1, -1, kMost);
    r.prompt_tokens = count32(f, "prompt_tokens");
    r.output_tokens = count32(f, "output_tokens");
    r.preemptions = count32(f, "preemptions");
    const std::string finish = f.one_of("finish", "none", {kFinish.begin(), kFinish.end()});
    for (size_t i = 0; i < kFinish.size(); ++i)
        if (finish == kFinish[i]) r.finish = FinishReason(i);
    r.error = f.string("error");
    r.warmup = f.boolean("warmup");
    r.origin.repeat = int32_t(f.integer("repeat", -1, -1, INT32_MAX));
    r.origin.slo_ttft_ms = float(f.number("slo_ttft_ms", -1, -1, 1e9));
    r.origin.label = f.string("label");
    r.visible_bytes = f.integer("visible_bytes", -1, -1, kMost);
    r.token_us = int_list(f, "token_us");
    for (const int64_t id : int_list(f, "output")) r.output.push_back(Token(id));
    TRY_VOID(f.finish());
    return r;
}

namespace {

Result<std::vector<std::string>> adapter_names_of(const Json& run, const std::string& file) {
    std::vector<std::string> names{"base"};
    if (!run.contains("adapters")) return names;
    if (!run["adapters"].is_array()) return Error{file, "adapters", describe(run["adapters"]), "an array"};
    for (const Json& adapter : run["adapters"]) {
        Fields f(adapter, file, "adapters");
        f.require("id");
        f.require("name");
        const auto id = size_t(f.integer("id", 1, 1, 1 << 24));
        const std::string name = f.string("name");
        TRY_VOID(f.finish_known_only());
        while (names.size() <= id) names.push_back("adapter " + std::to_string(names.size()));
        names[id] = name;
    }
    return names;
}

}  // namespace

Result<RunInfo> open_run(const std::string& dir) {
    const std::string file = (std::filesystem::path(dir) / "run.json").string();
    TRY_ASSIGN(json, read_json_file(file));
    Fields f(json, file);
    f.require("schema");
    const int64_t schema = f.integer("schema", kRunSchema, 1);
    if (f.ok() && schema > kRunSchema)
        f.fail("schema", std::to_string(schema),
               "at most " + std::to_string(kRunSchema) + ", the newest that this version reads");
    RunInfo info;
    info.dir = dir;
    info.name = f.string("name", std::filesystem::path(dir).stem().string());
    f.require("complete");
    info.complete = f.boolean("complete");
    for (const char* key : {"workload", "engine", "device", "model", "totals", "pool"}) f.object(key);
    for (const char* key : {"adapters", "command"}) f.array(key);
    for (const char* key : {"started", "version", "commit", "workload_hash", "write_error", "note"}) f.string(key);
    f.any("view");  // what a window wants to remember about the recording; its own business
    TRY_VOID(f.finish());
    TRY_ASSIGN(names, adapter_names_of(json, file));
    info.adapter_names = std::move(names);
    info.json = std::move(json);
    return info;
}

}  // namespace spartan
