// --adapter and the adapters of workload files: NAME=DIR or a synthetic spec.
#include "core/adapter/adapter.h"
#include "core/adapter/adapter_name.h"
#include "core/base/text.h"

#include <algorithm>
#include <set>

namespace spartan {
namespace {

constexpr std::string_view kSynthetic = "synthetic:";
constexpr size_t kMaxNameBytes = 64;

bool is_name_char(char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.' || c == '_' ||
           c == '-';
}

std::string resolve(const std::string& dir, const std::string& base_dir) {
    const bool is_absolute = !dir.empty() && dir[0] == '/';
    return is_absolute || base_dir.empty() ? dir : base_dir + "/" + dir;
}

}  // namespace

Result<void> check_adapter_name(const std::string& name, const std::string& source) {
    const bool good =
        !name.empty() && name.size() <= kMaxNameBytes && std::all_of(name.begin(), name.end(), is_name_char);
    if (good) return {};
    return Error{source, "name", name.empty() ? "an empty name" : "\"" + escape_control(shorten(name, 80)) + "\"",
                 "1 to 64 letters, digits, '.', '_' or '-'"};
}

Result<std::vector<AdapterRequest>> parse_adapter_arguments(const std::vector<std::string>& arguments,
                                                            const std::string& base_dir) {
    std::vector<AdapterRequest> requests;
    int64_t global_index = 0;
    for (const std::string& argument : arguments) {
        if (argument.compare(0, kSynthetic.size(), kSynthetic) == 0) {
            TRY_ASSIGN(spec, parse_synthetic_spec(argument));
            for (int64_t i = 0; i < spec.count; ++i, ++global_index)
                requests.push_back({synthetic_name(spec, i, global_index), "", spec, i, global_index});
            continue;
        }
        const size_t equals = argument.find('=');
        if (equals == std::string::npos || equals + 1 == argument.size())
            return Error{"adapter", "", "\"" + shorten(argument, 200) + "\"", "NAME=DIR or synthetic:KIND:COUNT:SIZES"};
        AdapterRequest request;
        request.name = argument.substr(0, equals);
        request.dir = resolve(argument.substr(equals + 1), base_dir);
        TRY_VOID(check_adapter_name(request.name, "adapter"));
        requests.push_back(std::move(request));
    }
    std::set<std::string> names;
    for (const AdapterRequest& request : requests)
        if (!names.insert(request.name).second)
            return Error{"adapter", "name", "\"" + request.name + "\" twice", "names that differ"};
    return requests;
}

}  // namespace spartan
