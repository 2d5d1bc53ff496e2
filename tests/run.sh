#!/usr/bin/env bash
# Sets up and passes every test: installs what is missing, builds, fetches the demo base model, runs ctest offscreen.
#
#   bash tests/run.sh [--deps] [CTEST ARGUMENTS...]        e.g. bash tests/run.sh -L ui
#
# --deps stops after installing packages. PRESET=asan|tsan|debug runs another preset than release. Without a network the
# tests that need the demo model are skipped, with the reason.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source app/setup.sh

install_packages "${build_packages[@]}" "${window_packages[@]}" "${model_packages[@]}"
if [ "${1:-}" = --deps ]; then exit 0; fi
preset=${PRESET:-release}
build "$preset"
fetch_demo_model || echo "Tests that need it will be skipped." >&2

export QT_QPA_PLATFORM=offscreen
say "Testing ($preset)"
ctest --test-dir "build/$preset" --output-on-failure -j "$(nproc)" "$@"
