#include "app/spartan/command.h"
#include "app/spartan/console.h"
#include "core/run/compare.h"
#include "core/run/output_file.h"

#include <memory>

namespace spartan {
namespace {

Result<void> compare(bool json, const std::vector<std::string>& dirs, const std::string& html, Progress& progress) {
    TRY_ASSIGN(comparison, compare_runs(dirs, &progress));
    if (json) print_json(comparison);
    if (!html.empty()) {
        TRY_ASSIGN(file, OutputFile::create(html));
        file.write(comparison_html(comparison));
        return file.commit();
    }
    if (!json) print(for_output(comparison_text(comparison)));
    return {};
}

}  // namespace

void add_compare(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command = add_command(
        app, "compare", "Recorded runs side by side, against the first",
        {"spartan compare first.wbrun second.wbrun", "spartan compare a.wbrun b.wbrun c.wbrun --html comparison.html"});
    auto dirs = std::make_shared<std::vector<std::string>>();
    auto html = std::make_shared<std::string>();
    command->add_option("RUN_DIR", *dirs, "Folders that spartan run --out or the window recorded")
        ->type_name("")
        ->check(not_empty("a folder"))
        ->required()
        ->expected(2, 1000);
    CLI::Option* page = command->add_option("--html", *html, "Write a self-contained page instead of a table")
                            ->type_name("FILE")
                            ->check(not_empty("the path of a file"));
    CLI::Option* json =
        command->add_flag("--json", options.json, "Print one JSON document on standard output and nothing else");
    page->excludes(json);
    command->callback([&options, &action, dirs, html] {
        action = [&options, dirs, html] {
            return perform([&](Progress& progress) { return compare(options.json, *dirs, *html, progress); });
        };
    });
}

}  // namespace spartan
