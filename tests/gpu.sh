#!/usr/bin/env bash
# Tests and measures the CUDA backend, also on a machine that can only run it, and leaves one report.
#
#   bash tests/gpu.sh [OPTIONS] [REPORT_DIR]       where nvcc and a GPU are: builds, then runs (report: build/gpu-report)
#   bash tests/gpu.sh pack [--build DIR] [--window] OUT.tar.xz
#       builds build/cuda (or what is configured in DIR already) and packs the programs, the shared libraries that a bare
#       CUDA machine lacks, fixtures and workloads; CUDA's own libraries stay behind. --window: the window instead of the
#       tests, so that neither is much to carry
#   bash gpu.sh run [OPTIONS] REPORT_DIR           in the unpacked folder, on the GPU machine
#
# OPTIONS: --only PART,…      of tests, kernels, steps, paper (the default), phases (times of a step's phases),
#                             arrivals (adapters that come in beside decode steps),
#                             invariant (steps whose bits do not depend on the batch), f16 (steps in that instead of
#                             bf16), changed (how many answers differ
#                             between requests alone and together), strategies (the paper's own way, adapter by
#                             adapter and merged, beside folded) and sanitize (the kernels' tests, with fewer and
#                             smaller cases, under NVIDIA's compute-sanitizer: the program SPARTAN_SANITIZER, or the
#                             one in the PATH)
#                             Last, window: pictures of the window with 96 adapters at work, drawn without a screen, in
#                             REPORT_DIR/window-*
#          --limit PART=S     seconds for a part (default 80, 80, 110, 150: 7 minutes together; window 200, sanitize 400)
#          --sanitize-tools TOOL,…   of racecheck, initcheck, memcheck, synccheck (all)
#          --sanitize-tests TEST,…   of attention, fold, lora, … (all): tests/kernels/cuda/TEST_test.cpp
#          --full             all parts, the paper's workload for every number of adapters, and its decode at batch 96;
#                             half an hour
#          --device D, --model MODEL   instead of cuda and synthetic:llama-2-7b
#
# REPORT_DIR gets report.md, report.json and raw.tar.xz (every program's output). What finds no time is named there.
# The exit code is 1 when a test fails or skips all it has, or nothing could run. Built for the GPU's own architecture;
# pack: for SPARTAN_CUDA_ARCHITECTURES, by default 90a (H100, H200).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
  echo "gpu.sh: $*" >&2
  exit 2
}

# --- build and pack ---

# NAME <tab> PROGRAM <tab> ENVIRONMENT of each test labelled gpu.
gpu_tests() {
  ctest --test-dir "$1" -L gpu --show-only=json-v1 | python3 -c '
import json, sys
for test in json.load(sys.stdin)["tests"]:
    properties = {p["name"]: p["value"] for p in test.get("properties", [])}
    program = test["name"].removesuffix("_gpu") + "_test"
    print(test["name"], program, " ".join(properties.get("ENVIRONMENT", [])), sep="\t")'
}

build_programs() { # BUILD_DIR WHAT (tests, window or all)
  if [ ! -f "$1/CMakeCache.txt" ] || [ "$1" = build/cuda ]; then
    [ "$1" = build/cuda ] || fail "$1 is not configured"
    command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
    cmake --preset cuda -DSPARTAN_CUDA_ARCHITECTURES="${SPARTAN_CUDA_ARCHITECTURES:-90a}" >/dev/null
  fi
  cmake "$1" >/dev/null # finds tests that have come since
  local targets
  mapfile -t targets < <(gpu_tests "$1" | cut -f2)
  [ ${#targets[@]} -gt 0 ] || fail "no test is labelled gpu: was $1 configured with nvcc?"
  if [ "$2" = window ]; then targets=(); fi
  if [ "$2" != tests ]; then targets+=(spartan-workbench); fi
  cmake --build "$1" --target spartan spartan_cuda "${targets[@]}"
}

# Drawn without a screen: Qt's platform for that, icons, and the fonts that the window uses here.
gather_window() { # BUILD_DIR FOLDER
  local build=$1 out=$2
  cp "$build/app/spartan-workbench" "$out/bin/"
  mkdir -p "$out"/{fonts,plugins/platforms,plugins/iconengines}
  local plugins
  plugins=$(qmake6 -query QT_INSTALL_PLUGINS 2>/dev/null || qtpaths6 --plugin-dir)
  cp "$plugins/platforms/libqoffscreen.so" "$out/plugins/platforms/"
  cp "$plugins/iconengines/libqsvgicon.so" "$out/plugins/iconengines/"
  local style
  for style in regular medium semibold bold; do cp "$(fc-match -f '%{file}' "Inter:$style")" "$out/fonts/"; done
  cp "$(fc-match -f '%{file}' 'DejaVu Sans')" "$out/fonts/" # signs that Inter has not
  cat >"$out/fonts/fonts.conf" <<'X'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">.</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
X
}

gather() { # BUILD_DIR FOLDER WHAT
  local build=$1 out=$2 what=$3
  rm -rf "$out"
  mkdir -p "$out"/{bin,lib,plugins,tests,resources}
  : >"$out/tests.tsv"
  if [ "$what" != window ]; then gpu_tests "$build" >"$out/tests.tsv"; fi
  sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$build/CMakeCache.txt" >"$out/compiled-for"
  git rev-parse --short=12 HEAD >"$out/commit" 2>/dev/null || echo unknown >"$out/commit"
  cp "$build"/app/{spartan,libspartan-cuda.so} "$out/bin/"
  cut -f2 "$out/tests.tsv" | sort -u | while read -r program; do cp "$build/tests/$program" "$out/bin/"; done
  if [ "$what" != tests ]; then gather_window "$build" "$out"; fi
  # All but the C library, the driver and CUDA: the other machine has its own.
  find "$out/bin" "$out/plugins" -type f | while read -r file; do ldd "$file"; done | awk '/=> \//{print $3}' | sort -u |
    { grep -vE '/(libc|libm|libpthread|libdl|librt|libresolv|libcuda|libcudart|libcublas|libcublasLt|libnv[a-zA-Z-]*)\.so' || true; } |
    while read -r library; do cp -L "$library" "$out/lib/"; done
  find "$out"/{bin,lib,plugins} -type f -exec strip --strip-unneeded {} +
  if [ "$what" != window ]; then cp -r tests/golden tests/fixtures tests/fidelity "$out/tests/"; fi
  cp -r resources/workloads "$out/resources/"
  cp tests/gpu.sh tests/gpu_report.py tests/gpu_peers.py "$out/"
}

pack() {
  local build=build/cuda what=tests
  if [ "${1:-}" = --build ]; then
    build=${2:?}
    shift 2
  fi
  if [ "${1:-}" = --window ]; then
    what=window
    shift
  fi
  [ $# -eq 1 ] || fail "pack takes one OUT.tar.xz"
  local out
  out=$(realpath -m "$1")
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  cd "$here/.."
  build_programs "$build" "$what"
  gather "$build" "$folder" "$what"
  XZ_OPT="-T0 -6" tar -C "$folder" -cJf "$out.part" .
  mv "$out.part" "$out"
  echo "packed: $(du -h "$out" | cut -f1)"
}

# --- run ---

parts=(tests kernels steps phases arrivals invariant f16 strategies changed sanitize paper window)
declare -A limit=([tests]=80 [kernels]=80 [steps]=110 [phases]=60 [arrivals]=60 [invariant]=60 [f16]=60 [strategies]=180 [changed]=90 [sanitize]=400 [paper]=150 [window]=200)
declare -A full_limit=([tests]=600 [kernels]=180 [steps]=300 [phases]=60 [arrivals]=90 [invariant]=60 [f16]=60 [strategies]=300 [changed]=90 [sanitize]=900 [paper]=1500 [window]=200)
paper_runs=(base boft:8 boft:32 boft:96 mixed:96 lora64:32 lora64:96 lora32:96)
paper_counts=(1 8 16 32 64 96)
window_requests=20000
only=(tests kernels steps paper)
all_tools=(racecheck initcheck memcheck synccheck) # the slowest first
sanitize_tools=("${all_tools[@]}") sanitize_tests=()
sanitizer=${SPARTAN_SANITIZER:-compute-sanitizer}
root='' raw='' report='' linked='' part='' part_end=0 verdict=0 full=no device=cuda model_name=synthetic:llama-2-7b
environment=(LC_ALL=C) # of what `one` starts; system programs must not get our libraries

# The folder of the cuBLASLt that the backend was linked with.
cuda_libraries() {
  local name found
  name=$(ldd bin/libspartan-cuda.so | awk '/libcublasLt/{print $1}')
  found=$(ldd bin/libspartan-cuda.so | awk '/libcublasLt.*=> \//{print $3}')
  [ -n "$found" ] || found=$(ldconfig -p | awk -v n="$name" '$1 == n {print $NF; exit}')
  [ -n "$found" ] || found=$(find /usr /opt /root /home -name "$name" 2>/dev/null | head -1)
  [ -n "$found" ] || fail "$name is not on this machine"
  dirname "$found"
}

# Tests look for their fixtures where they were compiled.
link_fixtures() {
  local compiled
  compiled=$(cat compiled-for)
  if [ -e "$compiled/tests/golden" ]; then return; fi
  if mkdir -p "$(dirname "$compiled")" && ln -s "$root" "$compiled"; then
    linked=$compiled
  else
    echo "gpu.sh: $compiled cannot be made: tests that read fixtures will fail" >&2
  fi
}

begin_part() {
  part=$1
  part_end=$((SECONDS + ${limit[$1]}))
}

# Runs a program within its own limit and its part's (an interrupted one still prints what it has): output to raw/NAME.out and .err, a line to raw/status.tsv.
one() { # NAME SECONDS PROGRAM…
  local name=$1 most=$2 left=$((part_end - SECONDS)) begin=${EPOCHREALTIME/[.,]/} code=0
  shift 2
  if [ "$left" -ge 3 ]; then
    timeout -s INT -k 5 $((left < most ? left : most)) env "${environment[@]}" "$@" \
      >"$raw/$name.out" 2>"$raw/$name.err" </dev/null || code=$?
  else
    code=none
  fi
  printf '%s\t%s\t%s\t%s\t%s\n' "$part" "$name" "$code" $(((${EPOCHREALTIME/[.,]/} - begin) / 1000)) "$*" >>"$raw/status.tsv"
}

finish() {
  python3 gpu_report.py "$raw" "$report" || verdict=$?
  XZ_OPT=-2 tar -C "$raw" -cJf "$report/raw.tar.xz" . || true
  if [ -n "$linked" ]; then rm -f "$linked"; fi
  rm -rf "$raw"
}

run_tests() {
  local name program settings
  while IFS=$'\t' read -r name program settings; do
    while [ "$(jobs -rp | wc -l)" -ge 4 ]; do wait -n || true; done
    # shellcheck disable=SC2086
    one "$name" 60 env $settings "bin/$program" &
  done <tests.tsv
  wait
}

# Beside them PyTorch's ways, where python3 has a PyTorch that sees the GPU.
run_kernels() {
  one kernels 60 bin/spartan bench kernels --device "$device" --json
  one peers 90 env -u LD_LIBRARY_PATH python3 gpu_peers.py "$raw/kernels.out"
}

run_steps() {
  local bench=(bin/spartan bench) model=(--device "$device" --model "$model_name")
  one decode 90 "${bench[@]}" decode "${model[@]}" --batch 1,8,32,96,256 --adapters 1,8,32,64,96 --json --csv "$raw/decode.csv"
  one ablation 60 "${bench[@]}" decode "${model[@]}" --batch 1,8,96 --adapters 96 --kinds base,boft,lora --context 160 \
    --ablation --json
  one prefill 40 "${bench[@]}" prefill "${model[@]}" --prompt-tokens 512 --sequences 8 --adapters 8 --kinds base,boft,lora --json
}

some_steps() { # NAME MORE…
  one "$1" 60 bin/spartan bench decode --device "$device" --model "$model_name" --batch 1,8,96 --adapters 96 --kinds base,boft,lora \
    --json "${@:2}"
}

run_phases() { some_steps phases --set phase_times=true; }

run_arrivals() { one arrivals 90 bin/spartan bench arrivals --device "$device" --model "$model_name" --batch 96 --context 160 --json; }

run_invariant() { some_steps invariant --set batch_invariant=true; }

run_f16() { some_steps f16 --dtype f16; }

# The same prompts one after the other and side by side, as usual and batch-invariant.
run_changed() {
  local invariant rows
  for invariant in false true; do
    for rows in 1 96; do
      one "changed-$invariant-$rows" 60 bin/spartan run resources/workloads/paper-7b-base.json --device "$device" \
        --set "model=$model_name" --set requests=24 --set output_tokens.value=64 --set "engine.batch_invariant=$invariant" \
        --set "engine.max_batch_rows=$rows" --out "$raw/changed-$invariant-$rows.wbrun" --json
    done
  done
}

# NAME of each program kernels_cuda_NAME_test.
kernel_tests() { cut -f2 tests.tsv | sed -n 's/^kernels_cuda_\(.*\)_test$/\1/p' | sort -u; }

run_sanitize() {
  local tool name
  for tool in "${sanitize_tools[@]}"; do
    for name in "${sanitize_tests[@]}"; do
      while [ "$(jobs -rp | wc -l)" -ge 8 ]; do wait -n || true; done
      one "$tool-$name" 600 env SPARTAN_SMALL_CASES=1 "$sanitizer" --tool "$tool" --error-exitcode 9 \
        "bin/kernels_cuda_${name}_test" &
    done
  done
  wait
}

# Before anything else runs: what the part needs is here.
check_sanitize() {
  local all name
  command -v "$sanitizer" >/dev/null || fail "sanitize needs compute-sanitizer (or SPARTAN_SANITIZER)"
  mapfile -t all < <(kernel_tests)
  if [ ${#sanitize_tests[@]} -eq 0 ]; then sanitize_tests=("${all[@]}"); fi
  for name in "${sanitize_tests[@]}"; do one_of --sanitize-tests "$name" "${all[@]}"; done
}

run_strategies() {
  one strategies 180 bin/spartan bench decode --device "$device" --model "$model_name" --batch 32 --adapters 1,8,32 \
    --kinds base,boft,lora --steps 5 --strategy folded,common_block,sequential,merged --json
}

paper() { # NAME WORKLOAD:N MORE…
  local name=$1 workload=${2%%:*} count=${2##*:} adapters
  shift 2
  case $workload in
    base) adapters='[]' ;;
    boft) adapters="[\"synthetic:boft:$count:b=32,m=2\"]" ;;
    mixed) adapters="[\"synthetic:boft:$count:b=32,m=2,b=64,m=2\"]" ;;
    lora*) adapters="[\"synthetic:lora:$count:r=${workload#lora}\"]" ;;
  esac
  one "$name" 60 bin/spartan run "resources/workloads/paper-7b-$workload.json" --device "$device" \
    --set "model=$model_name" --set "adapters=$adapters" --json "$@"
}

run_paper() {
  local run
  for run in "${paper_runs[@]}"; do paper "paper-${run/:/-}" "$run"; done
  for run in stream-boft stream-lora64; do # room for 16 of 96 adapters
    one "paper-$run" 60 bin/spartan run "resources/workloads/paper-7b-$run.json" --device "$device" --set "model=$model_name" --json
  done
  if [ "$full" = no ]; then return; fi
  for run in base boft:96 lora64:96; do # the steps of 96 requests side by side, without prefill in between
    paper "decode96-${run/:/-}" "$run" --set requests=96 --set prompt_tokens.min=32 --set prompt_tokens.max=32 \
      --set output_tokens.value=256
  done
}

# The window with the paper's workload, only longer, so that its 96 adapters are still at work when it is drawn.
run_window() {
  [ -e bin/spartan-workbench ] || return 0 # a pack of the tests
  local home
  home=$(mktemp -d)
  environment+=(QT_QPA_PLATFORM=offscreen "QT_PLUGIN_PATH=$root/plugins" "FONTCONFIG_FILE=$root/fonts/fonts.conf"
    "XDG_CONFIG_HOME=$home" "XDG_DATA_HOME=$home" "XDG_CACHE_HOME=$home" "XDG_RUNTIME_DIR=$home")
  window dark --size 1600x1000
  window light --size 3200x2000 --scale 2
  rm -rf "$home"
}

window() { # THEME MORE…    the light one with the times of phases
  local name=window-$1
  python3 - "$raw/$name.json" "$model_name" "$1" "$window_requests" <<'X'
import json, sys
path, model, theme, requests = sys.argv[1:]
work = json.load(open("resources/workloads/paper-7b-boft.json"))
work.update(model=model, requests=int(requests), name="96 adapters at work")
if model == "synthetic:tiny":  # to try the script
    work["adapters"] = ["synthetic:boft:96:b=16,m=1"]
if theme == "light":
    work["engine"]["phase_times"] = True
json.dump(work, open(path, "w"))
X
  one "$name" 110 bin/spartan-workbench --device "$device" --workload "$raw/$name.json" --run --after run+12 --view all \
    --theme "$1" --screenshot "$report/$name" "${@:2}"
}

one_of() { # OPTION FOUND EXPECTED…
  local option=$1 found=$2
  shift 2
  [[ " $* " == *" $found "* ]] || fail "$option: found $found, expected one of $*"
}

read_options() {
  local p n
  while [ $# -gt 0 ]; do
    case $1 in
      --only | --device | --model | --limit | --sanitize-tools | --sanitize-tests) [ $# -gt 1 ] || fail "$1 needs a value" ;;
    esac
    case $1 in
      --only) IFS=, read -ra only <<<"$2" && shift ;;
      --device) device=$2 && shift ;;
      --model) model_name=$2 && shift ;;
      --limit)
        one_of --limit "${2%%=*}" "${parts[@]}"
        [[ ${2#*=} =~ ^[0-9]+$ ]] || fail "--limit: found $2, expected PART=SECONDS"
        limit[${2%%=*}]=${2#*=} && shift
        ;;
      --sanitize-tools) IFS=, read -ra sanitize_tools <<<"$2" && shift ;;
      --sanitize-tests) IFS=, read -ra sanitize_tests <<<"$2" && shift ;;
      --full)
        full=yes only=("${parts[@]}")
        for p in "${parts[@]}"; do limit[$p]=${full_limit[$p]}; done
        paper_runs=(base)
        for p in boft mixed lora64 lora32; do for n in "${paper_counts[@]}"; do paper_runs+=("$p:$n"); done; done
        ;;
      -*) fail "unknown option $1 (see --help)" ;;
      *) report=$1 ;;
    esac
    shift
  done
  for p in "${only[@]}"; do one_of --only "$p" "${parts[@]}"; done
  for p in "${sanitize_tools[@]}"; do one_of --sanitize-tools "$p" "${all_tools[@]}"; done
}

run() {
  local p
  [ -n "$report" ] || fail "run needs a REPORT_DIR"
  mkdir -p "$report"
  report=$(cd "$report" && pwd)
  cd "$root"
  if [[ " ${only[*]} " == *" sanitize "* ]]; then check_sanitize; fi
  raw=$(mktemp -d)
  trap finish EXIT
  cp commit "$raw/commit"
  part=machine part_end=$((SECONDS + 30))
  one gpu 10 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit,temperature.gpu --format=csv
  local libraries
  libraries=$root/lib:$(cuda_libraries)
  # Huge pages: gigabytes of weights and adapters are made in memory before anything is measured.
  environment+=("LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" GLIBC_TUNABLES=glibc.malloc.hugetlb=1)
  link_fixtures
  one devices 20 bin/spartan devices --json
  for p in "${only[@]}"; do
    begin_part "$p"
    "run_$p"
  done
  trap - EXIT
  finish
  cat "$report/report.md"
  exit "$verdict"
}

case ${1:-} in
  pack) shift && pack "$@" ;;
  run)
    shift
    root=$here
    read_options "$@"
    [ -f "$root/tests.tsv" ] || fail "run: this is not an unpacked folder (see pack)"
    run
    ;;
  -h | --help) sed -n '2,/^set -/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' ;;
  *)
    report=build/gpu-report
    read_options "$@" # a wrong one is told where there is no GPU too
    cd "$here/.."
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .) ||
      fail "no GPU here: nvidia-smi does not answer (see --help for pack and run)"
    : "${SPARTAN_CUDA_ARCHITECTURES:=${capability/90/90a}}"
    build_programs build/cuda all
    gather build/cuda build/gpu-run all
    root=$PWD/build/gpu-run
    run
    ;;
esac
