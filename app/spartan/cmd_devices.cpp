#include "app/spartan/command.h"
#include "app/spartan/console.h"
#include "core/base/text.h"
#include "core/run/device_info.h"

namespace spartan {
namespace {

int list_devices(bool json) {
    Json list = Json::array();
    for (const DeviceInfo& d : all_devices()) {
        if (json) {
            Json entry = device_json(d);
            entry["usable"] = d.reason.empty();
            entry["reason"] = d.reason.empty() ? Json(nullptr) : Json(d.reason);
            if (d.reason.empty()) entry["available_bytes"] = d.available_bytes;
            list.push_back(std::move(entry));
            continue;
        }
        const std::string facts = d.reason.empty() ? d.isa + ", " + std::to_string(d.threads) + " threads, " +
                                                         format_bytes(d.memory_bytes) + " of memory, " +
                                                         format_bytes(d.available_bytes) + " available"
                                                   : "cannot be used: " + d.reason;
        print(d.id + std::string(d.id.size() < 6 ? 6 - d.id.size() : 1, ' ') + for_output(d.name) + ": " + facts +
              "\n");
    }
    if (json) print_json({{"devices", list}});
    return kDone;
}

}  // namespace

void add_devices(CLI::App& app, GlobalOptions& options, Action& action) {
    CLI::App* command = add_command(app, "devices", "What can be used, and for each that cannot, why",
                                    {"spartan devices", "spartan devices --json"});
    add_json_flag(command, options);
    command->callback([&options, &action] { action = [&options] { return list_devices(options.json); }; });
}

}  // namespace spartan
