#pragma once

#include "core/run/runner.h"

namespace spartan {

ProgramInfo program_info(int argc, char** argv);

}  // namespace spartan
