#include "app/spartan/version.h"

namespace spartan {

ProgramInfo program_info(int argc, char** argv) {
    ProgramInfo info{SPARTAN_VERSION, SPARTAN_COMMIT, {}};
    for (int i = 0; i < argc; ++i) info.command.emplace_back(argv[i]);
    return info;
}

}  // namespace spartan
