#!/usr/bin/env python3
"""Measures llama.cpp on a GGUF file, as the peer of `spartan bench` on the same file, machine and number of threads.

    python3 tests/bench/against_llama_cpp.py --setup                 makes the environment (builds llama-cpp-python, minutes)
    python3 tests/bench/against_llama_cpp.py --model M.gguf --spartan build/release/app/spartan [--threads 2] [--json OUT]

The environment lies in the user's cache folder; the build is llama-cpp-python's own with its default flags (GGML_NATIVE).
Measured: prefill of 512 tokens; decode steps of 1, 8 and 32 sequences at context 64; 32 sequences each with a LoRA r=16
of its own (q, k, v, o), which llama.cpp serves adapter by adapter, since an adapter is a setting of its whole context;
time from file to ready; peak memory. Medians over the repeats. With --spartan both are run in turn, twice, and the ratios
are of the better run of each, so that a slow moment of the machine does not decide.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERSION = "0.3.36"
CONTEXT = 64
PREFILL = 512


def environment() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "spartanserve" / f"llama-cpp-{VERSION}"


def setup() -> None:
    venv = environment()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", f"llama-cpp-python=={VERSION}", "gguf", "numpy"], check=True)
    print(f"ready: {venv}")


def write_lora(path: str, index: int, layers: int, hidden: int, kv: int, rank: int) -> None:
    """A random LoRA on q, k, v, o in llama.cpp's GGUF form; its values do not matter to the time."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(index)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for layer in range(layers):
        for name, rows in (("attn_q", hidden), ("attn_k", kv), ("attn_v", kv), ("attn_output", hidden)):
            a = rng.standard_normal((rank, hidden), dtype=np.float32) / hidden**0.5
            b = rng.standard_normal((rows, rank), dtype=np.float32) * 0.01
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_a", a.astype(np.float16))
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_b", b.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """The few calls of llama.cpp's C interface that a decode loop needs."""

    def __init__(self, model_path: str, threads: int):
        from llama_cpp import llama_cpp

        self.api = llama_cpp
        self._silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        start = time.perf_counter()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(model_path.encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp could not load {model_path}")
        self.threads = threads
        self.ctx = None
        self.open_context(1, PREFILL)
        self.ready_ms = (time.perf_counter() - start) * 1e3

    def open_context(self, sequences: int, tokens: int) -> None:
        """A context for so many sequences of at most so many tokens, which llama.cpp keeps apart; replaces the last one."""
        if self.ctx:
            self.api.llama_free(self.ctx)
        context = self.api.llama_context_default_params()
        context.n_ctx = sequences * tokens
        context.n_batch = context.n_ubatch = 512
        context.n_seq_max = sequences
        context.n_threads = context.n_threads_batch = self.threads
        self.ctx = self.api.llama_init_from_model(self.model, context)
        if not self.ctx:
            sys.exit("llama.cpp could not make a context")
        self.memory = self.api.llama_get_memory(self.ctx)

    def clear(self) -> None:
        self.api.llama_memory_clear(self.memory, True)

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """One batch of (token, position, sequence, wants logits)."""
        batch = self.api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, logits) in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits
        if self.api.llama_decode(self.ctx, batch) != 0:
            sys.exit("llama_decode failed")
        self.api.llama_synchronize(self.ctx)
        self.api.llama_batch_free(batch)

    def set_adapter(self, adapter) -> None:
        adapters = (self.api.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(1.0)
        if self.api.llama_set_adapters_lora(self.ctx, adapters, 1, scales) != 0:
            sys.exit("llama.cpp refused an adapter")

    def fill(self, sequences: int) -> None:
        self.clear()
        for s in range(sequences):
            self.decode([(100 + (7 * i + s) % 5000, i, s, i == CONTEXT - 1) for i in range(CONTEXT)])


def median_seconds(run, repeats: int, warmup: int = 2) -> float:
    times = []
    for i in range(warmup + repeats):
        start = time.perf_counter()
        run(i)
        times.append(time.perf_counter() - start)
    return statistics.median(times[warmup:])


def measure(model_path: str, threads: int) -> dict:
    llama = Llama(model_path, threads)
    result = {"ready_ms": llama.ready_ms}

    def prefill(_):
        llama.clear()
        llama.decode([(100 + 7 * i % 5000, i, 0, i == PREFILL - 1) for i in range(PREFILL)])

    result["prefill_tok_s"] = PREFILL / median_seconds(prefill, 5, 1)
    for n in (1, 8, 32):
        llama.open_context(n, 2 * CONTEXT)
        llama.fill(n)
        step = median_seconds(lambda i: llama.decode([(200 + s, CONTEXT + i, s, True) for s in range(n)]), 24)
        result[f"decode_{n}_tok_s"] = n / step
    # Peak memory of a plain run: adapters come after it.
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    api = llama.api
    layers = api.llama_model_n_layer(llama.model)
    hidden = api.llama_model_n_embd(llama.model)
    kv = hidden // api.llama_model_n_head(llama.model) * api.llama_model_n_head_kv(llama.model)
    adapters = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(32):
            path = f"{folder}/{i}.gguf"
            write_lora(path, i, layers, hidden, kv, 16)
            adapters.append(api.llama_adapter_lora_init(llama.model, path.encode()))
    llama.fill(32)

    def round_of_32(i):
        for s in range(32):
            llama.set_adapter(adapters[s])
            llama.decode([(200 + s, CONTEXT + i, s, True)])

    result["decode_32_lora_tok_s"] = 32 / median_seconds(round_of_32, 6, 1)
    return result


def better(runs: list[dict]) -> dict:
    low = {"ready_ms", "peak_rss_bytes"}
    return {key: (min if key in low else max)(run[key] for run in runs) for key in runs[0]}


def run_measured(command: list) -> tuple[dict, int]:
    """The JSON that a program prints, and its peak resident bytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]}: exit status {process.returncode}")
    return json.loads(out), usage.ru_maxrss * 1024


def measure_peer(model: str, threads: int) -> dict:
    command = [sys.executable, __file__, "--measure-only", "--model", model, "--threads", str(threads)]
    return run_measured(command)[0]


def peak_of_a_run(program: str, model: str, options: list[str]) -> int:
    """Of the same 32 sequences as a workload; the bench itself holds large buffers to measure the machine with."""
    length = {"kind": "fixed", "value": CONTEXT}
    workload = {"schema": 1, "model": str(Path(model).resolve()), "requests": 32, "prompt_tokens": length,
                "output_tokens": {"kind": "fixed", "value": 32}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workload.json"
        path.write_text(json.dumps(workload))
        return run_measured([program, "run", str(path), *options])[1]


def measure_spartan(program: str, model: str, threads: int, dtype: str, weights: str) -> dict:
    """The same figures under the same names, and what the bench says of adapters and of the machine."""

    def bench(*arguments):
        return run_measured([program, "bench", *arguments, "--model", model, *options])[0]

    options = ["--threads", str(threads), "--dtype", dtype, "--weights", weights, "--json"]
    decode = bench("decode", "--context", str(CONTEXT))
    prefill = bench("prefill", "--prompt-tokens", str(PREFILL))
    load = bench("load")
    cases = {(case["adapters"], case["rows"]): case for case in decode["decode"]}
    result = {f"decode_{n}_tok_s": cases["base", n]["tokens_per_s"] for n in (1, 8, 32)}
    result["decode_32_lora_tok_s"] = cases["lora", 32]["tokens_per_s"]
    result["prefill_tok_s"] = prefill["prefill"][0]["tokens_per_s"]
    result["ready_ms"] = load["best_ready_ms"]
    result["peak_rss_bytes"] = peak_of_a_run(program, model, options)
    return {"figures": result, "dtype": decode["dtype"], "weights": weights, "device": decode["device"], "limits": decode["limits"],
            "added_over_floor": cases["boft+lora", 32]["added_over_floor"]}


WANTED = {"prefill_tok_s": 3.0, "decode_32_tok_s": 2.5, "decode_8_tok_s": 1.5, "decode_1_tok_s": 0.6, "decode_32_lora_tok_s": 5.0}


def print_table(peer: dict, own: dict, own_runs: list[dict]) -> None:
    first = own_runs[0]
    print(f"{first['device']['name']}, {first['device']['isa']}, {first['device']['threads']} threads, spartan in {first['dtype']}, weights {first['weights']}, "
          f"reads {first['limits']['read_bytes_per_s'] / 1e9:.1f} GB/s, {first['limits']['bf16_flops'] / 1e9:.0f} GFLOP/s in bf16")
    print(f"{'':24}{'llama.cpp':>12}{'spartan':>12}{'ratio':>8}{'wanted':>8}")
    for key, wanted in WANTED.items():
        print(f"{key:24}{peer[key]:12.1f}{own[key]:12.1f}{own[key] / peer[key]:8.2f}{wanted:8.1f}")
    print(f"{'ready_ms':24}{peer['ready_ms']:12.0f}{own['ready_ms']:12.0f}")
    print(f"{'peak_rss_MB':24}{peer['peak_rss_bytes'] / 1e6:12.0f}{own['peak_rss_bytes'] / 1e6:12.0f}")
    added = ", ".join(f"{run['added_over_floor']:.2f}" for run in own_runs)
    print(f"32 distinct adapters (half BOFT, half LoRA) add, over their bytes at the read bandwidth: {added} (wanted: at most 1.5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="make the environment, then end")
    parser.add_argument("--model", help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto", help="of spartan; llama.cpp takes the file's own")
    parser.add_argument("--weights", default="convert", help="of spartan: convert or keep")
    parser.add_argument("--spartan", help="the program to compare with")
    parser.add_argument("--json", help="write all figures there")
    parser.add_argument("--measure-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.setup:
        return setup()
    if not args.model:
        parser.error("--model is required")
    if args.measure_only:
        return print(json.dumps(measure(args.model, args.threads)))

    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        python = environment() / "bin/python"
        if not python.exists() or Path(sys.prefix) == environment():
            sys.exit("llama-cpp-python is not set up: run with --setup first")
        os.execv(python, [python, *sys.argv])
    peer_runs, own_runs = [], []
    for _ in range(2):
        peer_runs.append(measure_peer(args.model, args.threads))
        if args.spartan:
            own_runs.append(measure_spartan(args.spartan, args.model, args.threads, args.dtype, args.weights))
    peer = better(peer_runs)
    if args.json:
        Path(args.json).write_text(json.dumps({"threads": args.threads, "llama_cpp": peer_runs, "spartan": own_runs}, indent=1))
    if args.spartan:
        print_table(peer, better([run["figures"] for run in own_runs]), own_runs)
    else:
        print(json.dumps(peer, indent=1))


if __name__ == "__main__":
    main()
