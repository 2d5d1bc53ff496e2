#include "app/spartan/session.h"
#include "core/base/text.h"
#include "core/run/html.h"
#include "core/run/table.h"

#include <filesystem>
#include <memory>

namespace spartan {
namespace {

struct RunOptions {
    std::string workload, out;
    std::vector<std::string> set;
};

Result<void> check_out(const std::string& dir) {
    std::error_code error;
    if (dir.empty() || !std::filesystem::exists(dir, error)) return {};
    if (std::filesystem::is_directory(dir, error) && std::filesystem::is_empty(dir, error)) return {};
    return Error{dir, "", std::filesystem::is_directory(dir, error) ? "a folder that is not empty" : "a file",
                 "a new or empty folder"};
}

std::string figure(const Json& value) { return value.is_number() ? format_figure(value.get<double>()) : "–"; }

std::string summary_text(const Json& d) {
    std::string out = figure(d["completed"]) + " of " + figure(d["requests"]) + " requests completed in " +
                      figure(d["duration_s"]) + " s: " + figure(d["request_throughput"]) + " requests/s, " +
                      figure(d["output_throughput"]) + " output tokens/s, " + figure(d["total_throughput"]) +
                      " tokens/s in all\n\n";
    std::vector<std::vector<std::string>> rows;
    for (const char* key : {"ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "queue_ms"})
        rows.push_back({key, figure(d[key]["mean"]), figure(d[key]["p50"]), figure(d[key]["p95"]),
                        figure(d[key]["p99"]), figure(d[key]["n"])});
    out += text_table({"", "mean", "p50", "p95", "p99", "n"}, rows) + "\n";
    rows.clear();
    for (const Json& a : d["per_adapter"])
        rows.push_back({a["adapter"].is_null() ? "base" : a["adapter"].get<std::string>(), figure(a["requests"]),
                        figure(a["completed"]), figure(a["output_tokens"]), figure(a["ttft_ms"]["p50"]),
                        figure(a["e2e_ms"]["p50"])});
    constexpr size_t kShown = 32;
    const size_t more = rows.size() > kShown ? rows.size() - kShown : 0;
    rows.resize(rows.size() - more);
    out += text_table({"adapter", "requests", "completed", "output tokens", "ttft p50", "e2e p50"}, rows);
    if (more > 0) out += "… and " + std::to_string(more) + " more adapters (--json shows all)\n";
    if (d.contains("attainment"))
        out += "\nSLO attainment " + figure(d["attainment"]) + ", goodput " + figure(d["goodput"]) + " requests/s\n";
    return out;
}

std::string progress_text(const RunProgress& p) {
    std::string text = std::to_string(p.finished) + " of " + std::to_string(p.total) + " requests, " +
                       format_figure(p.elapsed_s) + " s";
    if (p.eta_s && p.finished < p.total) text += ", about " + format_figure(*p.eta_s) + " s left";
    return text;
}

std::vector<std::string> failures_of(const RunOutcome& outcome) {
    std::vector<std::string> all = outcome.failures;
    const auto named = int64_t(all.size());
    if (outcome.num_failed > named)
        all.push_back(std::to_string(outcome.num_failed - named) + " further requests failed");
    if (!outcome.trouble.empty()) all.insert(all.begin(), outcome.trouble);
    if (!outcome.write_error.empty()) all.insert(all.begin(), "the recording is not complete: " + outcome.write_error);
    return all;
}

int conclude(const GlobalOptions& options, const RunOutcome& outcome, const std::vector<std::string>& warnings) {
    if (options.json)
        print_json(outcome.document);
    else
        print(for_output(summary_text(outcome.document)));
    std::vector<std::string> all = failures_of(outcome);
    // A failure is explained in one line, whatever else there was to say.
    if (outcome.not_answering && !outcome.cancelled)
        return report(make_error(outcome.failure + ", which is longer than engine.watchdog_s allows"));
    if (!outcome.failure.empty()) return report(make_error("the engine failed: " + outcome.failure));
    if (outcome.completed == 0 && !outcome.cancelled)
        return report(make_error("no request completed" + (all.empty() ? "" : ": " + first_of(all))));
    if (outcome.not_answering) all.emplace_back("the engine does not come to rest and is left behind");
    all.insert(all.end(), warnings.begin(), warnings.end());
    warn(all);
    return outcome.cancelled ? kInterrupted : kDone;
}

Result<int> run(const GlobalOptions& options, const RunOptions& o, Progress& progress) {
    std::vector<std::string> set = o.set;
    if (options.seed) set.push_back("seed=" + std::to_string(*options.seed));
    TRY_ASSIGN(workload, read_workload(o.workload, set));
    TRY_VOID(check_out(o.out));
    const ModelOptions model{workload.model, workload.adapters};
    auto opened = open_session(options, model, workload.seed, workload.engine, progress);
    if (!opened) return as_written(opened.error(), o.workload, set);
    Session session = *std::move(opened);
    for (std::string& idle : idle_settings(workload)) session.warnings.push_back(std::move(idle));
    const RunSetup setup{*session.engine,
                         *session.recorder,
                         workload,
                         session.adapters,
                         o.out,
                         make_run_header(*session.engine, options.program, &workload),
                         /*gives_up=*/true};
    ProgressLine line;
    progress.done = 0;
    TRY_ASSIGN(outcome, run_workload(setup, progress, [&](const RunProgress& p) { line.show(progress_text(p)); }));
    line.clear();
    if (outcome.not_answering) leave_at_once(conclude(options, outcome, session.warnings));
    return conclude(options, outcome, session.warnings);
}

}  // namespace

void add_run(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command =
        add_command(app, "run", "A workload, without a window",
                    {"spartan run resources/workloads/demo.json",
                     "spartan run W.json --set requests=64 --set arrival.kind=poisson --json",
                     "spartan run W.json --out first.wbrun   (records; open it in the window, compare it, export it)"});
    auto o = std::make_shared<RunOptions>();
    command->add_option("WORKLOAD", o->workload, "A workload file")
        ->type_name("")
        ->check(not_empty("the path of a file"))
        ->required();
    add_repeatable(command, "--set", o->set, "key=value or key.key=value in place of the file's; may be repeated")
        ->type_name("KEY=VALUE");
    command->add_option("--out", o->out, "Record into this folder, new or empty")
        ->type_name("FOLDER")
        ->check(not_empty("a new or empty folder"));
    add_json_flag(command, options);
    command->callback([&options, &action, o] {
        for (const std::string& set : o->set)
            if (set.find('=') == std::string::npos || set[0] == '=')
                throw CLI::ValidationError("--set", "found " + shorten(set, 100) + ", expected key=value");
        action = [&options, o] { return perform([&](Progress& progress) { return run(options, *o, progress); }); };
    });
}

}  // namespace spartan
