#!/usr/bin/env bash
# What gpu.sh says and reports, where there is no GPU: its part `sanitize` with stand-ins for the programs.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v python3 >/dev/null || { echo "no python3" && exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

failed=0
expect() { # WHAT PATTERN TEXT
  grep -qE -- "$2" <<<"$3" && return
  echo "FAIL: $1: expected /$2/, found: $3" >&2
  failed=1
}
refused() { # PATTERN ARGUMENTS…    by the script as it lies here and by the unpacked one
  local pattern=$1 out code=0
  shift
  out=$(bash "$tests/gpu.sh" "$@" 2>&1) || code=$?
  expect "gpu.sh $*" "^gpu.sh: $pattern" "$out"
  expect "exit code of gpu.sh $*" '^2$' "$code"
}

# A wrong option is what is told, not that there is no GPU.
refused 'unknown option --wrong' --wrong
refused 'unknown option --wrong' run --wrong "$folder/report"
refused '--only: found kernel, expected one of tests kernels ' --only tests,kernel
refused '--only needs a value' --only
refused '--limit: found kernel, expected one of ' --limit kernel=3
refused '--limit: found kernels=soon, expected PART=SECONDS' --limit kernels=soon
refused '--sanitize-tools: found leakcheck, expected one of racecheck ' --sanitize-tools leakcheck

# An unpacked folder whose "tests" only say with what they were started.
mkdir -p "$folder"/{bin,path,tests}
cp "$tests"/gpu{.sh,_report.py} "$folder/"
echo abc >"$folder/commit"
echo "$folder/compiled" >"$folder/compiled-for"
printf '%s\n' kernels_cuda_{clean,wrong,broken,skipped,slow}_test core_engine_test |
  sed 's/\(.*\)/\1\t\1\tA=b/' >"$folder/tests.tsv"
program() { cat >"$1" && chmod +x "$1"; }
program "$folder/path/ldd" <<<'echo "libcublasLt.so.1 => /nowhere/libcublasLt.so.1 (0)"'
program "$folder/path/nvidia-smi" <<<'echo a GPU'
program "$folder/bin/spartan" <<<'echo {}'
program "$folder/path/compute-sanitizer" <<'P'
#!/usr/bin/env bash
[ "$SPARTAN_SMALL_CASES" = 1 ] && [ "$3" = --error-exitcode ] || exit 3
totals="Totals: 9 passed, 0 failed, 0 skipped, 0 blacklisted, 5ms"
case $2:$5 in
  racecheck:*_wrong_*) echo "$totals" && echo "========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)" && exit 9 ;;
  *_wrong_*) echo "$totals" && echo "========= ERROR SUMMARY: 31 errors" && exit 9 ;;
  *_broken_*) printf 'FAIL!  : Test::case() no\n========= ERROR SUMMARY: 0 errors\n' && exit 1 ;;
  *_skipped_*) printf 'Totals: 2 passed, 0 failed, 7 skipped, 0 b\n========= ERROR SUMMARY: 0 errors\n' ;;
  *_slow_*) exec sleep 30 ;;
  *) echo "$totals" && echo "========= ERROR SUMMARY: 0 errors" ;;
esac
P
sanitize() { PATH=$folder/path:$PATH bash "$folder/gpu.sh" run --only sanitize "$@" "$folder/report" 2>&1; }

code=0
out=$(sanitize --limit sanitize=6) || code=$?
expect 'exit code' '^1$' "$code"
expect columns '^\| test \| initcheck \| memcheck \| racecheck \| synccheck \|$' "$out"
expect clean '^\| clean \| clean, [0-9]+ s \| clean, [0-9]+ s \| clean, [0-9]+ s \| clean, [0-9]+ s \|$' "$out"
expect errors '^\| wrong \| 31 errors, [0-9]+ s \| 31 errors, [0-9]+ s \| 2 hazards, ' "$out"
expect 'failed test' '^\| broken \| FAIL!  : Test::case\(\) no, ' "$out"
expect 'skipped test' '^\| skipped \| 7 skipped, ' "$out"
expect 'cut off' '^\| slow \| (cut off after [0-9]+ s|not run: no time was left) \|' "$out"
expect 'cut off' '^\| slow \|.*cut off after' "$out"
python3 - "$folder/report/report.json" <<'P' || failed=1
import json, sys
results = {(r["tool"], r["test"]): r for r in json.load(open(sys.argv[1]))["sanitize"]}
assert len(results) == 20 and results["racecheck", "wrong"]["result"] == "2 hazards", results
assert results["memcheck", "clean"]["seconds"] >= 0
P

code=0
out=$(sanitize --sanitize-tools memcheck,synccheck --sanitize-tests clean) || code=$?
expect 'exit code of clean ones' '^0$' "$code"
expect 'chosen tools' '^\| test \| memcheck \| synccheck \|$' "$out"
[ "$(grep -c '^| sanitize |' <<<"$out")" = 2 ] || { echo "FAIL: chosen tests: $out" && failed=1; }
out=$(sanitize --sanitize-tests engine || true)
expect 'unknown test' '^gpu.sh: --sanitize-tests: found engine, expected one of broken clean skipped slow wrong$' "$out"
exit "$failed"
