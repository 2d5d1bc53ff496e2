#include "app/spartan/command.h"
#include "app/spartan/console.h"
#include "core/run/export.h"

#include <memory>

namespace spartan {
namespace {

struct ExportOptions {
    std::string dir, csv, json, html;
};

Result<void> export_run(const ExportOptions& o) {
    TRY_ASSIGN(run, open_run(o.dir));
    if (!o.csv.empty()) TRY_VOID(export_csv(run, o.csv));
    if (!o.json.empty()) TRY_VOID(export_json(run, o.json));
    if (!o.html.empty()) TRY_VOID(export_html(run, o.html));
    return {};
}

}  // namespace

void add_export(CLI::App& app, GlobalOptions&, Action& action) {
    CLI::App* command =
        add_command(app, "export", "A recorded run as CSV (a row per request), JSON (totals) or HTML (a report)",
                    {"spartan export demo.wbrun --csv requests.csv --html report.html",
                     "spartan export demo.wbrun --json -      (- is standard output)"});
    auto o = std::make_shared<ExportOptions>();
    command->add_option("RUN_DIR", o->dir, "A folder that spartan run --out or the window recorded")->required();
    command->add_option("--csv", o->csv, "One row per request");
    command->add_option("--json", o->json, "The document of run --json");
    command->add_option("--html", o->html, "A self-contained report");
    command->callback([&action, o] {
        if (o->csv.empty() && o->json.empty() && o->html.empty()) throw CLI::RequiredError("--csv, --json or --html");
        action = [o] {
            const auto done = export_run(*o);
            return done ? kDone : report(done.error());
        };
    });
}

}  // namespace spartan
