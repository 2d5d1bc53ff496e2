#include "app/spartan/command.h"
#include "app/spartan/console.h"
#include "core/base/text.h"
#include "core/run/export.h"
#include "core/run/output_file.h"

#include <algorithm>
#include <memory>

namespace spartan {
namespace {

struct ExportOptions {
    std::string dir, csv, json, html;
};

Result<void> export_run(const ExportOptions& o, Progress& progress) {
    TRY_ASSIGN(run, open_run(o.dir));
    // All or none, as far as can be known before anything is written.
    for (const std::string& path : {o.csv, o.json, o.html})
        if (!path.empty()) TRY_VOID(OutputFile::check(path));
    if (!o.csv.empty()) TRY_VOID(export_csv(run, o.csv, &progress));
    if (!o.json.empty()) TRY_VOID(export_json(run, o.json, &progress));
    if (!o.html.empty()) TRY_VOID(export_html(run, o.html, &progress));
    return {};
}

void check(const ExportOptions& o) {
    const std::vector<std::string> all{o.csv, o.json, o.html};
    if (std::all_of(all.begin(), all.end(), [](const auto& path) { return path.empty(); }))
        throw CLI::RequiredError("--csv, --json or --html");
    for (size_t i = 0; i < all.size(); ++i)
        if (!all[i].empty() && std::count(all.begin(), all.end(), all[i]) > 1)
            throw CLI::ValidationError("--csv, --json, --html",
                                       "found " + shorten(all[i], 100) + " twice, expected paths that differ");
}

}  // namespace

void add_export(CLI::App& app, GlobalOptions&, Action& action) {
    CLI::App* command =
        add_command(app, "export", "A recorded run as CSV (a row per request), JSON (totals) or HTML (a report)",
                    {"spartan export demo.wbrun --csv requests.csv --html report.html",
                     "spartan export demo.wbrun --json -      (- is standard output)"});
    auto o = std::make_shared<ExportOptions>();
    command->add_option("RUN_DIR", o->dir, "A folder that spartan run --out or the window recorded")
        ->type_name("")
        ->check(not_empty("a folder"))
        ->required();
    const auto add_file = [&](const char* flag, std::string& path, const char* description) {
        command->add_option(flag, path, description)->type_name("FILE")->check(not_empty("the path of a file"));
    };
    add_file("--csv", o->csv, "One row per request");
    add_file("--json", o->json, "The document of run --json");
    add_file("--html", o->html, "A self-contained report");
    command->callback([&action, o] {
        check(*o);
        action = [o] { return perform([&](Progress& progress) { return export_run(*o, progress); }); };
    });
}

}  // namespace spartan
