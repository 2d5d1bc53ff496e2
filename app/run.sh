#!/usr/bin/env bash
# From a checkout to the open window: installs what is missing, builds, fetches the demo base model, starts the workbench
# with it and the eight demo adapters. Safe to run again; a second run starts in seconds.
#
#   bash app/run.sh [--deps] [WINDOW ARGUMENTS...]
#
# --deps stops after installing packages. Further arguments go to the window (see its --help); with none it gets --demo.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source app/setup.sh

install_packages "${build_packages[@]}" "${window_packages[@]}" "${model_packages[@]}"
if [ "${1:-}" = --deps ]; then exit 0; fi
build release --target spartan spartan-workbench
fetch_demo_model || echo "The window opens without it and offers a synthetic model." >&2

if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && [ -z "${QT_QPA_PLATFORM:-}" ]; then
  echo "Everything is built, but there is no display here. With a display: bash app/run.sh" >&2
  echo "Without one, pictures of every view: QT_QPA_PLATFORM=offscreen bash app/run.sh --demo --run --screenshot DIR --after done" >&2
  exit 1
fi
if [ $# -eq 0 ]; then set -- --demo; fi
say "Starting the workbench"
exec build/release/app/spartan-workbench "$@"
