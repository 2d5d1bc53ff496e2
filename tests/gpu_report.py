"""Makes report.json and report.md of what tests/gpu.sh ran.

    python3 gpu_report.py RAW REPORT_DIR

RAW holds status.tsv (part, name, exit code, milliseconds, command) and each program's NAME.out and NAME.err. Exits 1 when a
test failed or skipped all it has, or nothing ran. "wanted" is what the backend was designed to reach on an H100 80GB.
"""

import json
import os
import re
import sys
from pathlib import Path

# (kind, rows, distinct adapters): share of the floor that a decode step at context 256 is to reach.
WANTED_SHARE = {("base", 1, 0): 90, ("base", 32, 0): 90, ("base", 96, 0): 88, ("boft", 96, 96): 85, ("lora", 96, 96): 80,
                ("half", 96, 64): 82}
WANTED_STEP_MS = {("base", 96, 0): 7.7, ("boft", 96, 96): 10.0, ("lora", 96, 96): 13.0}  # at context 160
WANTED_REQUESTS = {"base": 97, "boft:96": 85, "lora64:96": 75, "stream:boft": 70, "stream:lora64": 55}
WANTED_PREFILL = {"base": "65 %", "boft": "65 %, added at most 5 %"}


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line]
    return lines[-1] if lines else ""


def table(header, rows):
    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)]) + "\n"


def short(value, digits=4):
    if value is None or value == "":
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits - 1}g}"


def percent(share):
    return f"{share * 100:.1f} %" if share else ""


class Raw:
    def __init__(self, folder):
        self.folder = folder
        self.runs = []  # {"part", "name", "code" (None: no time was left), "seconds", "command"}
        path = folder / "status.tsv"
        for line in path.read_text().splitlines() if path.exists() else []:
            part, name, code, ms, command = line.split("\t", 4)
            self.runs.append({"part": part, "name": name, "code": None if code == "none" else int(code),
                              "seconds": int(ms) / 1000, "command": command})

    def text(self, name, ending="out"):
        path = self.folder / f"{name}.{ending}"
        return path.read_text(errors="replace") if path.exists() else ""

    def json(self, name):
        try:
            return json.loads(self.text(name))
        except ValueError:
            return None

    def of(self, part):
        return [run for run in self.runs if run["part"] == part]

    def why(self, run):
        if run["code"] is None:
            return "not run: no time was left"
        if run["code"] in (124, 137):
            return f"cut off after {run['seconds']:.0f} s"
        errors = self.text(run["name"], "err").strip().splitlines()
        return errors[0] if errors else f"exit code {run['code']}"


def tests_of(raw):
    tests = []
    for run in raw.of("tests"):
        text = raw.text(run["name"])
        totals = re.findall(r"^Totals: (\d+) passed, (\d+) failed, (\d+) skipped", text, re.M)
        passed, failed, skipped = (sum(int(t[i]) for t in totals) for i in range(3))
        state = "FAILED" if run["code"] != 0 else "SKIPPED" if skipped and passed <= 2 else "passed"
        notes = [" ".join(f.split())[:300] for f in re.findall(r"^(?:FAIL!|XPASS).*(?:\n   .*){0,3}", text, re.M)][:5]
        if not notes and skipped:
            notes = re.findall(r"^SKIP.*\) (.*)$", text, re.M)[:1]
        if run["code"] != 0 and not notes:
            notes = [raw.why(run)]
        tests.append({"name": run["name"], "state": state, "code": run["code"], "seconds": run["seconds"], "passed": passed, "failed": failed,
                      "skipped": skipped, "notes": notes})
    return tests


def tests_text(tests):
    rows = [[t["name"], t["state"], t["passed"], t["failed"], t["skipped"], f"{t['seconds']:.1f}",
             "; ".join(t["notes"])] for t in tests]
    return table(["test", "", "passed", "failed", "skipped", "s", ""], rows)


def peers_text(kernel, peers):
    """What PyTorch takes for a kernel's work, and the share of the machine's limit that this is."""
    shares = []
    for peer in peers.get(kernel["name"], []):
        share = kernel["alone"]["share"] * kernel["alone"]["us"] / peer["us"]
        shares.append(f"{peer['peer']} {short(peer['us'])} us, {percent(share)}")
    return "; ".join(shares)


def kernels_text(kernels, peers):
    """A GPU's kernels are timed alone, in a chain of overlapping launches, and beside cuBLASLt's best."""
    ways = [way for way in ("alone", "chain", "peer") if way in kernels[0]] if kernels else []
    rows = []
    for k in kernels:
        cells = []
        for timing in [k[way] for way in ways] if ways else [{"us": k["ms"] * 1e3, "share": k["share"]}]:
            cells += [short(timing["us"]), percent(timing["share"])] if timing else ["", ""]
        rows.append([k["name"], short(k["bytes"] / 1e6), short(k["flops"] / 1e6), *cells, *([peers_text(k, peers)] if peers else []), k["wrong"] or ""])
    columns = [column for way in ways or [""] for column in (f"{way} us".strip(), "of the limit")]
    return table(["kernel", "MB", "MFLOP", *columns, *(["PyTorch"] if peers else []), ""], rows)


def case_of(figure):
    return figure["adapters"], figure["rows"], figure["distinct_adapters"]


def decode_text(figures, wanted, unit):
    rows = []
    for f in figures:
        want = wanted.get(case_of(f))
        gap = f["gap_ms"]
        rows.append([f["adapters"], f["rows"], f["distinct_adapters"], short(f["median_ms"]), short(f["min_ms"]),
                     short(gap * 1e3 if gap is not None else None, 3), short(f["tokens_per_s"]), short(f["floor_ms"]),
                     percent(f["bandwidth_share"]), f"{want} {unit}" if want else "", short(f["added_ms"], 3)])
    return table(["adapters", "rows", "distinct", "step ms", "least ms", "gap us", "tokens/s", "floor ms", "of floor", "wanted",
                  "added ms"], rows)


def strategies_text(figures):
    rows = [[f["strategy"], f["adapters"], f["distinct_adapters"], f["passes"], f["common_block"] or "", short(f["median_ms"]),
             short(f["tokens_per_s"]), short((f["weight_bytes"] + f["adapter_bytes"] + f["kv_bytes"]) / 1e6),
             short(f["staging_bytes"] / 1e6)] for f in figures]
    return table(["strategy", "adapters", "distinct", "passes", "common block", "step ms", "tokens/s", "MB read",
                  "MB written before"], rows)


def ablation_text(figures):
    def step(case, graphs, overlap, ahead):
        for f in figures:
            if case_of(f) == case and (f["graphs"], f["overlap"], f["ahead_bytes"] > 0) == (graphs, overlap, ahead):
                return f["median_ms"]
        return None

    rows = []
    for case in dict.fromkeys(map(case_of, figures)):
        whole = step(case, True, True, True)
        others = [step(case, *switches) for switches in ((False, True, True), (True, False, True), (True, True, False))]
        rows.append([*case, short(whole), *(f"{short(o)} (x{o / whole:.2f})" if o and whole else "" for o in others)])
    return table(["adapters", "rows", "distinct", "step ms", "without graphs", "without overlap", "nothing ahead"], rows)


def phases_text(figures):
    phases = list(figures[0]["times"])
    rows = [[*case_of(f), short(f["median_ms"]), *(short(f["times"][p]) for p in phases)] for f in figures]
    return table(["adapters", "rows", "distinct", "step ms", *(p.removesuffix("_us") + " us" for p in phases)], rows)


def arrivals_text(figures):
    def wanted(f):
        return "2 ms, 10 %" if f["kind"] == "boft" and f["pace_ms"] and WANTED_PREFILL else ""

    rows = [[f["kind"], f"every {short(f['pace_ms'])} ms" if f["pace_ms"] else "no pause", short(f["host_bytes"] / 1e6), short(f["pool_bytes"] / 1e6), short(f["alone_ms"]),
             short(f["beside_ms"]), short(f["every_ms"]), short(f["step_ms"]), short(f["step_beside_ms"]),
             f"{f['slower'] * 100:+.1f} %", percent(f["streaming_share"]), wanted(f)] for f in figures]
    return table(["adapter", "pace", "MB travel", "MB in the pool", "alone ms", "beside ms", "one every ms", "step ms",
                  "step beside ms", "slower", "steps beside all along", "wanted"], rows)


def against_usual_text(figures, others, columns):
    usual = {case_of(f): f["median_ms"] for f in others or []}
    rows = []
    for f in figures:
        ms, without = f["median_ms"], usual.get(case_of(f))
        rows.append([*case_of(f), short(ms), short(without), f"{(ms / without - 1) * 100:+.1f} %" if without else ""])
    return table(["adapters", "rows", "distinct", "step ms", *columns], rows)


def prefill_text(figures):
    rows = [[f["adapters"], f["sequences"], f["tokens"], f["distinct_adapters"], short(f["median_ms"]), short(f["tokens_per_s"]),
             short(f["flops_per_s"] / 1e12), percent(f["peak_share"]), percent(f["added_share"]),
             WANTED_PREFILL.get(f["adapters"], "")] for f in figures]
    return table(["adapters", "prompts", "tokens each", "distinct", "ms", "tokens/s", "TFLOP/s", "of the peak", "added", "wanted"], rows)


def paper_text(raw, runs):
    rows = []
    for run in runs:
        d = raw.json(run["name"])
        case = run["name"].removeprefix("paper-").replace("-", ":")
        if not d or run["code"] != 0:
            rows.append([case, raw.why(run)] + [""] * 11)
            continue
        wanted = WANTED_REQUESTS.get(case)
        gaps = d.get("gap_ms")
        rows.append([case, short(d["request_throughput"]), wanted or "", short(d["output_throughput"]), short(d["total_throughput"]),
                     short(d["duration_s"]), short(d["ttft_ms"]["p50"]), short(d["ttft_ms"]["p99"]), short(d["itl_ms"]["p50"]),
                     short(d["itl_ms"]["p99"]), *(short(gaps[p] * 1e3, 3) if gaps else "" for p in ("p50", "p99")),
                     f"{run['seconds']:.0f}"])
    return table(["workload", "requests/s", "wanted", "output tokens/s", "all tokens/s", "s", "ttft p50 ms", "p99", "itl p50 ms", "p99",
                  "gap p50 us", "p99", "whole s"], rows)


def tokens_of(recording):
    """Each request's tokens, in order."""
    tokens = {}
    for line in (recording / "tokens.jsonl").read_text().splitlines():
        request, _, token = json.loads(line)
        tokens.setdefault(request, []).append(token)
    return tokens


def changed_of(raw):
    """How the answers to the same prompts differ between requests alone and together; one entry for each mode that ran."""
    found = []
    for mode in ("false", "true"):
        names = [f"changed-{mode}-{rows}" for rows in (1, 96)]
        if any(run["code"] != 0 for run in raw.of("changed") if run["name"] in names):
            continue
        folders = [raw.folder / f"{name}.wbrun" for name in names]
        if not all(folder.exists() for folder in folders):
            continue
        alone, together = map(tokens_of, folders)
        same = [next((i for i, pair in enumerate(zip(alone[r], together[r])) if pair[0] != pair[1]), None) for r in alone]
        changed = sum(s is not None for s in same)
        compared = sum(len(alone[r]) if s is None else s + 1 for r, s in zip(alone, same))
        found.append({"batch_invariant": mode == "true", "requests": len(alone), "changed_requests": changed,
                      "tokens_to_first_change": compared, "changed_per_token": changed / compared})
    return found


def changed_text(changes):
    return table(["batch_invariant", "requests", "of them with another answer", "tokens up to the first change",
                  "changes a token"], [[c["batch_invariant"], c["requests"], c["changed_requests"],
                                        c["tokens_to_first_change"], f"{c['changed_per_token'] * 100:.2f} %"] for c in changes])


def sanitizer_result(raw, run):
    """"clean", or why the run of a test under a sanitizer is not."""
    if run["code"] in (None, 124, 137):
        return raw.why(run)
    text = raw.text(run["name"])
    summary = re.findall(r"SUMMARY: (\d+ (?:error|hazard)s?)", text)
    if not summary:
        return raw.why(run)
    if not summary[-1].startswith("0 "):
        return summary[-1]
    if run["code"] != 0:
        return (re.findall(r"^FAIL!.*", text, re.M) or [raw.why(run)])[0]
    totals = re.findall(r"^Totals: \d+ passed, \d+ failed, (\d+) skipped", text, re.M)
    if not totals:
        return "the test did not end"
    return "clean" if totals[-1] == "0" else f"{totals[-1]} skipped"


def sanitize_of(raw):
    return [dict(zip(("tool", "test"), run["name"].split("-", 1)), result=sanitizer_result(raw, run), seconds=run["seconds"])
            for run in raw.of("sanitize")]


def sanitize_text(results):
    """A row for each test, a column for each tool: sorted, since runs side by side end in any order."""
    tools, tests = (sorted({r[key] for r in results}) for key in ("tool", "test"))
    cells = {(r["test"], r["tool"]): r["result"] if r["result"].startswith(("not run", "cut off"))
             else f"{r['result']}, {r['seconds']:.0f} s" for r in results}
    return table(["test", *tools], [[test, *(cells.get((test, tool), "") for tool in tools)] for test in tests])


def limits_text(limits):
    return (f"Measured in this run: reads {limits['read_bytes_per_s'] / 1e9:,.0f} GB/s, copies {limits['copy_bytes_per_s'] / 1e9:,.0f} GB/s, "
            f"products of 8192 x 8192 in bf16 {limits['bf16_flops'] / 1e12:,.0f} TFLOP/s, f32 {limits['f32_flops'] / 1e12:,.1f} TFLOP/s.\n")


def main(raw_folder, report_folder):
    raw, out = Raw(Path(raw_folder)), Path(report_folder)
    documents = {name: raw.json(name) for name in ("devices", "kernels", "peers", "decode", "ablation", "prefill", "phases", "arrivals", "invariant", "f16", "strategies")}
    tests = tests_of(raw)
    papers = {run["name"]: raw.json(run["name"]) for run in raw.of("paper")}
    commit = (raw.folder / "commit").read_text().strip()
    gpu = last_line(raw.text("gpu"))
    changes = changed_of(raw)
    sanitized = sanitize_of(raw)
    ran = [run for run in raw.runs if run["part"] != "machine"]
    if not any("synthetic:llama-2-7b" in run["command"] for run in ran):
        for wanted in (WANTED_SHARE, WANTED_STEP_MS, WANTED_REQUESTS, WANTED_PREFILL):
            wanted.clear()
    for document in filter(None, papers.values()):
        del document["per_adapter"]  # in raw.tar.xz
    report = {"schema": 1, "commit": commit, "gpu": gpu, "runs": raw.runs, "tests": tests, **documents, "changed": changes, "sanitize": sanitized,
              "paper": papers}
    text = [f"# CUDA backend: tests and measurements\n\nCommit {commit}. {gpu or 'nvidia-smi did not answer'}.\n"]
    limits = next((d["limits"] for d in documents.values() if isinstance(d, dict) and d.get("limits")), None)
    if limits:
        text.append(limits_text(limits))
    elif raw.text("devices"):
        text.append("Devices: " + raw.text("devices").strip() + "\n")
    if tests:
        text.append("## Tests\n\n" + tests_text(tests))
    for run in ran:
        document = documents.get(run["name"])
        if run["part"] in ("tests", "paper", "changed", "sanitize") or run["name"] == "peers":
            continue
        if run["part"] == "window":
            pictures = sorted(path.name for path in (out / run["name"]).glob("*.png"))
            text.append(f"## {run['name']}\n\n{', '.join(pictures) or 'no pictures'}"
                        + (f"; {raw.why(run)}" if run["code"] != 0 else "") + "\n")
            continue
        title = {"kernels": "## Kernels", "decode": "## Decode steps, context 256", "ablation": "## Ablation, context 160",
                 "prefill": "## Prefill", "phases": "## Phases of a step, context 256, eager",
                 "invariant": "## Batch-invariant steps, context 256", "f16": "## Decode steps in f16, context 256",
                 "arrivals": "## Adapters come in beside a decode of 96 rows, context 160",
                 "strategies": "## Strategies, steps of 32 requests, context 256"}[run["name"]]
        if run["code"] != 0:
            text.append(f"{title}\n\n{raw.why(run)}\n")
            title = ""
        if not document:
            continue
        if run["name"] == "kernels":
            text.append(f"{title}\n\n" + kernels_text(document["kernels"], (documents["peers"] or {}).get("peers", {})))
        elif run["name"] == "decode":
            text.append(f"{title}\n\n" + decode_text(document["decode"], WANTED_SHARE, "%"))
        elif run["name"] == "ablation":
            with_all = [f for f in document["decode"] if f["graphs"] and f["overlap"] and f["ahead_bytes"] > 0]
            text.append(f"{title}\n\n" + ablation_text(document["decode"]) + "\n" + decode_text(with_all, WANTED_STEP_MS, "ms"))
        elif run["name"] == "phases":
            text.append(f"{title}\n\n" + phases_text(document["decode"]))
        elif run["name"] in ("invariant", "f16"):
            columns = {"invariant": ["not invariant ms", "cost (wanted: at most 8 %)"], "f16": ["in bf16 ms", "difference"]}[run["name"]]
            text.append(f"{title}\n\n" + against_usual_text(document["decode"], (documents["decode"] or {}).get("decode"), columns))
        elif run["name"] == "arrivals":
            text.append(f"{title}\n\n" + arrivals_text(document["arrivals"]))
        elif run["name"] == "strategies":
            text.append(f"{title}\n\n" + strategies_text(document["decode"]))
        else:
            text.append(f"{title}\n\n" + prefill_text(document["prefill"]))
    if changes:
        text.append("## Answers alone and among others\n\n" + changed_text(changes))
    if sanitized:
        text.append("## Compute-sanitizer\n\n" + sanitize_text(sanitized))
    if papers:
        text.append("## The paper's workload\n\n" + paper_text(raw, raw.of("paper")))
    text.append("## Time\n\n" + table(["part", "program", "exit", "s"], [
        [r["part"], r["name"], "–" if r["code"] is None else r["code"], f"{r['seconds']:.1f}"] for r in raw.runs]))
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.md", "\n".join(text))):
        (out / (name + ".part")).write_text(content)
        os.replace(out / (name + ".part"), out / name)
    nothing_ran = not any(run["code"] == 0 for run in ran)
    faults = any(run["code"] != 0 for run in raw.of("changed")) or any(r["result"] != "clean" for r in sanitized)
    faults |= any(c["batch_invariant"] and c["changed_requests"] for c in changes)
    return 1 if nothing_ran or faults or any(t["state"] != "passed" for t in tests) else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
