#include "core/run/workload.h"

#include "core/base/file.h"
#include "core/base/text.h"
#include "core/engine/admission.h"
#include "core/model/demo_model.h"

#include <algorithm>
#include <array>
#include <filesystem>

namespace spartan {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxRequests = 10'000'000, kMaxTokens = 1 << 20;
constexpr std::array<const char*, 5> kInsteadOfTrace{"requests", "arrival", "assignment", "prompt_tokens",
                                                     "output_tokens"};
const std::vector<std::string> kArrivals{"burst", "closed", "constant", "poisson", "gamma"};
const std::vector<std::string> kAssignments{"round_robin", "uniform", "power", "zipf", "single"};

bool is_synthetic(const std::string& s) { return s.rfind("synthetic:", 0) == 0; }

std::string resolve(const std::string& path, const std::string& base_dir) {
    const fs::path p(path);
    if (path.empty() || is_synthetic(path) || p.is_absolute()) return path;
    return (fs::path(base_dir) / p).lexically_normal().string();
}

std::string resolve_model(const std::string& model, const std::string& base_dir) {
    return names_demo_model(model, base_dir) ? model : resolve(model, base_dir);
}

std::string resolve_adapter(const std::string& spec, const std::string& base_dir) {
    const size_t equals = spec.find('=');
    if (is_synthetic(spec) || equals == std::string::npos) return spec;
    return spec.substr(0, equals + 1) + resolve(spec.substr(equals + 1), base_dir);
}

// Lengths as cli.md's D. Keys of another kind than the one named are refused as unknown.
LengthDistribution parse_lengths(const Json& json, const std::string& file, const char* key,
                                 const LengthDistribution& standard, Result<void>& status) {
    Fields f(json, file, key);
    LengthDistribution d;
    d.kind = f.one_of("kind", standard.kind, {"fixed", "uniform", "lognormal"});
    const bool inherits = d.kind == standard.kind;
    if (d.kind == "fixed") {
        if (!inherits) f.require("value");
        d.value = f.integer("value", standard.value, 1, kMaxTokens);
    } else {
        if (!inherits) {
            f.require("min");
            f.require("max");
        }
        d.min = f.integer("min", standard.min, 1, kMaxTokens);
        d.max = f.integer("max", standard.max, 1, kMaxTokens);
        if (f.ok() && d.min > d.max) f.fail("min", std::to_string(d.min), "at most max, " + std::to_string(d.max));
    }
    if (d.kind == "lognormal") {
        f.require("mean");
        f.require("sigma");
        d.mean = f.number("mean", 100, 1, double(kMaxTokens));
        d.sigma = f.number("sigma", 0.5, 0, 10);
    }
    if (status) status = f.finish();
    return d;
}

void parse_arrival(const Json& json, const std::string& file, Workload& w, Result<void>& status) {
    Fields f(json, file, "arrival");
    w.arrival.kind = f.one_of("kind", w.arrival.kind, kArrivals);
    w.arrival.rate = f.number("rate", w.arrival.rate, 1e-3, 1e6);
    w.arrival.cv = f.number("cv", w.arrival.cv, 0.01, 100);
    w.arrival.concurrency = f.integer("concurrency", w.arrival.concurrency, 1, kMaxRequests);
    if (status) status = f.finish();
}

void parse_assignment(const Json& json, const std::string& file, Workload& w, Result<void>& status) {
    Fields f(json, file, "assignment");
    w.assignment.kind = f.one_of("kind", w.assignment.kind, kAssignments);
    w.assignment.alpha = f.number("alpha", w.assignment.alpha, 1e-3, 100);
    w.assignment.include_base = f.boolean("include_base", false);
    if (w.assignment.kind == "single" && w.assignment.include_base)
        f.fail("include_base", "true", "false with \"single\", which sends every request to the first adapter");
    if (status) status = f.finish();
}

std::optional<double> parse_limit(Fields& f, const char* key) {
    if (!f.any(key)) return {};
    return f.number(key, 0, 1e-3, 1e9);
}

void parse_slo(const Json& json, const std::string& file, Workload& w, Result<void>& status) {
    Fields f(json, file, "slo");
    w.slo.ttft_ms = parse_limit(f, "ttft_ms");
    w.slo.itl_ms = parse_limit(f, "itl_ms");
    w.slo.e2e_ms = parse_limit(f, "e2e_ms");
    if (status) status = f.finish();
}

std::vector<std::string> parse_adapters(Fields& f, const std::string& base_dir) {
    std::vector<std::string> adapters;
    const Json* list = f.array("adapters");
    if (!list) return adapters;
    for (const Json& entry : *list) {
        if (!entry.is_string() || entry.get<std::string>().empty())
            f.fail("adapters[" + std::to_string(adapters.size()) + "]", describe(entry),
                   "\"NAME=FOLDER\" or \"synthetic:KIND:COUNT:SIZES\"");
        adapters.push_back(entry.is_string() ? resolve_adapter(entry.get<std::string>(), base_dir) : "");
    }
    return adapters;
}

// Puts `value` at the dotted `path` of `json`, making the objects on the way.
Result<void> put(Json& json, const std::string& path, Json value, const std::string& flag) {
    Json* at = &json;
    for (size_t begin = 0;;) {
        const size_t end = std::min(path.find('.', begin), path.size());
        const std::string key = path.substr(begin, end - begin);
        if (key.empty()) return Error{flag, path, "an empty key", "key=value or key.key=value"};
        if (!at->is_object()) return Error{flag, path, describe(*at) + " before \"" + key + "\"", "an object"};
        if (end == path.size()) {
            (*at)[key] = std::move(value);
            return {};
        }
        if (!at->contains(key)) (*at)[key] = Json::object();
        at = &(*at)[key];
        begin = end + 1;
    }
}

// Paths on the command line are taken from the working directory, not from the workload's folder.
void resolve_set_paths(const std::string& path, Json& value) {
    std::error_code gone;  // a relative path then fails where it is opened, with its name
    const std::string here = fs::current_path(gone).string();
    if (path == "model" && value.is_string()) value = resolve_model(value.get<std::string>(), here);
    if (path == "trace" && value.is_string()) value = resolve(value.get<std::string>(), here);
    if (path != "adapters" || !value.is_array()) return;
    for (Json& entry : value)
        if (entry.is_string()) entry = resolve_adapter(entry.get<std::string>(), here);
}

struct Setting {
    std::string path;
    Json value;
};

bool is_inside(const std::string& path, const std::string& outer) {
    return path.size() > outer.size() && path.compare(0, outer.size(), outer) == 0 &&
           (path[outer.size()] == '.' || path[outer.size()] == '[');
}

Result<Setting> parse_setting(const std::string& assignment) {
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0)
        return Error{"--set", "", "\"" + assignment + "\"", "key=value, for example requests=64"};
    const std::string text = assignment.substr(equals + 1);
    // Anything that reads as JSON is JSON; the rest is text, so that kinds and paths need no quotes.
    auto parsed = parse_json(text, "--set " + assignment);
    const bool looks_like_json = !text.empty() && (text[0] == '{' || text[0] == '[' || text[0] == '"');
    if (!parsed && looks_like_json) return parsed.error();
    Setting setting{assignment.substr(0, equals), parsed ? *std::move(parsed) : Json(text)};
    resolve_set_paths(setting.path, setting.value);
    return setting;
}

// Keys of the file that have no meaning beside what --set brings: those of another kind of lengths, and what a trace
// stands instead of.
void forget_replaced(Json& json, const Setting& s) {
    for (const auto& [key, standard] : {std::pair("prompt_tokens", "uniform"), std::pair("output_tokens", "fixed")}) {
        if (s.path != std::string(key) + ".kind" || !json.contains(key) || !json[key].is_object()) continue;
        if (json[key].value("kind", Json(standard)) != s.value) json[key] = Json::object();
    }
    if (s.path != "trace") return;
    for (const char* key : kInsteadOfTrace) json.erase(key);
}

Result<void> apply_set(Json& json, const std::vector<std::string>& set, std::vector<std::string>& paths) {
    std::vector<Setting> settings;
    for (const std::string& assignment : set) {
        TRY_ASSIGN(setting, parse_setting(assignment));
        for (const Setting& other : settings) {
            const std::string& path = setting.path;
            if (path == other.path) return Error{"--set", path, "the key twice", "each key once"};
            if (is_inside(path, other.path) || is_inside(other.path, path))
                return Error{"--set", path, "the key beside " + other.path, "one of the two"};
        }
        paths.push_back(setting.path);
        settings.push_back(std::move(setting));
    }
    for (const Setting& s : settings) forget_replaced(json, s);
    for (Setting& s : settings) TRY_VOID(put(json, s.path, std::move(s.value), "--set"));
    return {};
}

Json lengths_to_json(const LengthDistribution& d) {
    if (d.kind == "fixed") return {{"kind", d.kind}, {"value", d.value}};
    if (d.kind == "uniform") return {{"kind", d.kind}, {"min", d.min}, {"max", d.max}};
    return {{"kind", d.kind}, {"mean", d.mean}, {"sigma", d.sigma}, {"min", d.min}, {"max", d.max}};
}

constexpr const char* kEngineKeys[] = {"adapter_strategy", "residency",      "memory",       "scheduler",
                                       "adapter_slots",    "graphs",         "phase_times",  "batch_invariant",
                                       "max_batch_tokens", "max_batch_rows", "block_tokens", "pool_bytes",
                                       "adapter_bytes"};

// What --set brought in is not the file's fault.
void blame_set(Error& error, const std::vector<std::string>& paths) {
    for (const std::string& p : paths)
        if (error.field == p || is_inside(error.field, p) || is_inside(p, error.field)) error.file = "--set";
}

// Where a file lies is not part of what a workload is.
std::string file_name_of(const std::string& path) {
    return is_synthetic(path) ? path : fs::path(path).filename().string();
}

}  // namespace

Result<EngineOptions> parse_engine_options(const Json& json, const std::string& file, const std::string& path) {
    Fields f(json, file, path);
    EngineOptions o;
    o.adapter_strategy =
        f.one_of("adapter_strategy", o.adapter_strategy, {"folded", "common_block", "sequential", "merged"});
    o.residency = f.one_of("residency", o.residency, {"resident", "stream"});
    o.memory = f.one_of("memory", o.memory, {"unified"});
    o.scheduler = f.one_of("scheduler", o.scheduler, {"fcfs"});
    o.adapter_slots = int32_t(f.integer("adapter_slots", o.adapter_slots, 0, 1 << 20));
    o.graphs = f.boolean("graphs", o.graphs);
    o.phase_times = f.boolean("phase_times", o.phase_times);
    if (f.has("batch_invariant")) o.batch_invariant = f.boolean("batch_invariant");
    o.watchdog_s = int32_t(f.integer("watchdog_s", o.watchdog_s, 0, 86'400));
    o.max_batch_tokens = int32_t(f.integer("max_batch_tokens", o.max_batch_tokens, 1, 1 << 16));
    o.max_batch_rows = int32_t(f.integer("max_batch_rows", o.max_batch_rows, 1, 1 << 16));
    o.block_tokens = int32_t(f.integer("block_tokens", o.block_tokens, 1, 1024));
    o.pool_bytes = f.integer("pool_bytes", o.pool_bytes, 0, int64_t(1) << 46);
    o.adapter_bytes = f.integer("adapter_bytes", o.adapter_bytes, 0, int64_t(1) << 46);
    TRY_VOID(f.finish());
    if (const auto fit = check_choices(o); !fit) {
        const Error& e = fit.error();
        f.fail(e.field, e.found, e.expected);
    }
    TRY_VOID(f.finish());
    return o;
}

Json engine_options_to_json(const EngineOptions& o) {
    Json j{{"adapter_strategy", o.adapter_strategy},
           {"residency", o.residency},
           {"memory", o.memory},
           {"scheduler", o.scheduler},
           {"graphs", o.graphs},
           {"max_batch_tokens", o.max_batch_tokens},
           {"max_batch_rows", o.max_batch_rows},
           {"block_tokens", o.block_tokens}};
    if (o.adapter_slots != 0) j["adapter_slots"] = o.adapter_slots;
    if (o.phase_times) j["phase_times"] = true;
    if (o.watchdog_s != EngineOptions().watchdog_s) j["watchdog_s"] = o.watchdog_s;
    if (o.batch_invariant) j["batch_invariant"] = *o.batch_invariant;
    if (o.pool_bytes != 0) j["pool_bytes"] = o.pool_bytes;
    if (o.adapter_bytes != 0) j["adapter_bytes"] = o.adapter_bytes;
    return j;
}

Result<Workload> parse_workload(const Json& json, const std::string& file, const std::string& base_dir) {
    Fields f(json, file);
    Workload w;
    f.require("schema");
    f.require("model");
    const int64_t schema = f.integer("schema", 1, 1);
    if (f.ok() && schema != 1) f.fail("schema", std::to_string(schema), "1, the newest that this version reads");
    w.name = f.string("name", w.name);
    if (w.name.empty() || w.name.size() > 200) f.fail("name", shorten(w.name, 60), "1 to 200 bytes of text");
    w.model = resolve_model(f.string("model"), base_dir);
    if (f.has("model") && w.model.empty()) f.fail("model", "\"\"", "a folder, a .gguf file or synthetic:SHAPE");
    w.adapters = parse_adapters(f, base_dir);
    w.trace = resolve(f.string("trace"), base_dir);
    if (f.has("trace") && w.trace.empty()) f.fail("trace", "\"\"", "the path of a CSV file");
    if (!w.trace.empty())
        for (const char* key : kInsteadOfTrace)
            if (json.contains(key)) f.fail(key, "it beside a trace", "either a trace or generated requests");
    w.requests = f.integer("requests", w.requests, 1, kMaxRequests);
    w.seed = uint64_t(f.integer("seed", int64_t(w.seed), 0));
    w.ignore_eos = f.boolean("ignore_eos", w.ignore_eos);
    w.warmup = f.integer("warmup", w.warmup, 0, 1'000'000);
    w.repeats = f.integer("repeats", w.repeats, 1, 1000);
    Result<void> status;
    if (const Json* o = f.object("arrival")) parse_arrival(*o, file, w, status);
    if (const Json* o = f.object("assignment")) parse_assignment(*o, file, w, status);
    if (const Json* o = f.object("prompt_tokens"))
        w.prompt_tokens = parse_lengths(*o, file, "prompt_tokens", w.prompt_tokens, status);
    if (const Json* o = f.object("output_tokens"))
        w.output_tokens = parse_lengths(*o, file, "output_tokens", w.output_tokens, status);
    if (const Json* o = f.object("slo")) parse_slo(*o, file, w, status);
    if (const Json* o = f.object("engine")) {
        auto options = parse_engine_options(*o, file, "engine");
        if (options)
            w.engine = *options;
        else if (status)
            status = options.error();
    }
    TRY_VOID(f.finish());
    if (!status) return status.error();
    return w;
}

Result<Workload> read_workload(const std::string& path, const std::vector<std::string>& set) {
    TRY_ASSIGN(json, read_json_file(path));
    if (!json.is_object()) return Error{path, "", describe(json), "an object"};
    std::vector<std::string> set_paths;
    TRY_VOID(apply_set(json, set, set_paths));
    std::error_code ignored;
    const fs::path folder = fs::absolute(fs::path(path), ignored).parent_path();
    auto workload = parse_workload(json, path, folder.string());
    if (workload) return workload;
    Error error = workload.error();
    blame_set(error, set_paths);
    return error;
}

Error as_written(Error error, const std::string& file, const std::vector<std::string>& set) {
    const auto is_its = [&](const char* key) { return error.field == key; };
    if (!error.file.empty() || std::none_of(std::begin(kEngineKeys), std::end(kEngineKeys), is_its)) return error;
    error.file = file;
    error.field = "engine." + error.field;
    std::vector<std::string> paths;
    for (const std::string& assignment : set) paths.push_back(assignment.substr(0, assignment.find('=')));
    blame_set(error, paths);
    return error;
}

std::vector<std::string> idle_settings(const Workload& w) {
    const Workload standard;
    std::vector<std::string> idle;
    const auto check = [&](bool changed, std::initializer_list<const char*> users, const std::string& kind,
                           const std::string& group, const char* key) {
        if (!changed || std::find(users.begin(), users.end(), kind) != users.end()) return;
        idle.push_back(group + "." + key + " has no effect with " + group + ".kind " + kind);
    };
    if (!w.trace.empty()) return idle;  // which has neither
    const auto& a = w.arrival;
    check(a.rate != standard.arrival.rate, {"constant", "poisson", "gamma"}, a.kind, "arrival", "rate");
    check(a.cv != standard.arrival.cv, {"gamma"}, a.kind, "arrival", "cv");
    check(a.concurrency != standard.arrival.concurrency, {"closed"}, a.kind, "arrival", "concurrency");
    check(w.assignment.alpha != standard.assignment.alpha, {"power", "zipf"}, w.assignment.kind, "assignment", "alpha");
    return idle;
}

Json workload_to_json(const Workload& w) {
    Json j{{"schema", 1},      {"name", w.name},
           {"model", w.model}, {"adapters", w.adapters},
           {"seed", w.seed},   {"ignore_eos", w.ignore_eos}};
    if (w.trace.empty()) {
        j["requests"] = w.requests;
        j["arrival"] = {{"kind", w.arrival.kind},
                        {"rate", w.arrival.rate},
                        {"cv", w.arrival.cv},
                        {"concurrency", w.arrival.concurrency}};
        j["assignment"] = {
            {"kind", w.assignment.kind}, {"alpha", w.assignment.alpha}, {"include_base", w.assignment.include_base}};
        j["prompt_tokens"] = lengths_to_json(w.prompt_tokens);
        j["output_tokens"] = lengths_to_json(w.output_tokens);
    } else {
        j["trace"] = w.trace;
    }
    Json slo = Json::object();
    if (w.slo.ttft_ms) slo["ttft_ms"] = *w.slo.ttft_ms;
    if (w.slo.itl_ms) slo["itl_ms"] = *w.slo.itl_ms;
    if (w.slo.e2e_ms) slo["e2e_ms"] = *w.slo.e2e_ms;
    if (!slo.empty()) j["slo"] = slo;
    j["engine"] = engine_options_to_json(w.engine);
    j["warmup"] = w.warmup;
    j["repeats"] = w.repeats;
    return j;
}

std::string workload_hash(const Workload& w) {
    Json j = workload_to_json(w);
    j["model"] = file_name_of(w.model);
    for (Json& adapter : j["adapters"]) {
        const auto spec = adapter.get<std::string>();
        if (!is_synthetic(spec)) adapter = spec.substr(0, spec.find('='));
    }
    if (!w.trace.empty()) {
        const auto content = sha256_of_file(w.trace);
        j["trace"] = content ? *content : file_name_of(w.trace);
    }
    return sha256_hex(nlohmann::json(j).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace spartan
