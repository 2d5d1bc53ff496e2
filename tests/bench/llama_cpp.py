#!/usr/bin/env python3
"""Measures llama.cpp on a GGUF file, as the peer of `spartan bench` on the same file, machine and number of threads.

    python3 tests/bench/llama_cpp.py --setup                 makes the environment (builds llama-cpp-python, minutes)
    python3 tests/bench/llama_cpp.py --model M.gguf --spartan build/release/app/spartan [--threads 2] [--json OUT]

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
        import llama_cpp

        self.api = llama_cpp
        self._silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silent, None)
        llama_cpp.llama_backend_init()
        start = time.perf_counter()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(model_path.encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp could not load {model_path}")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = 32 * 512
        context.n_batch = context.n_ubatch = 512
        context.n_seq_max = 32
        context.n_threads = context.n_threads_batch = threads
        self.ctx = llama_cpp.llama_init_from_model(self.model, context)
        self.load_ms = (time.perf_counter() - start) * 1e3
        self.memory = llama_cpp.llama_get_memory(self.ctx)

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
        self.api.llama_set_adapters_lora(self.ctx, adapters, 1, scales)

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
    result = {"load_ms": llama.load_ms}

    def prefill(_):
        llama.clear()
        llama.decode([(100 + 7 * i % 5000, i, 0, i == PREFILL - 1) for i in range(PREFILL)])

    result["prefill_tok_s"] = PREFILL / median_seconds(prefill, 5, 1)
    for n in (1, 8, 32):
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
    low = {"load_ms", "peak_rss_bytes"}
    return {key: (min if key in low else max)(run[key] for run in runs) for key in runs[0]}


def measure_spartan(program: str, model: str, threads: int, dtype: str) -> dict:
    def bench(*arguments):
        command = [program, "bench", *arguments, "--model", model, "--threads", str(threads), "--dtype", dtype, "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return {"decode": bench("decode", "--context", str(CONTEXT)), "prefill": bench("prefill", "--tokens", str(PREFILL)),
            "load": bench("load")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--spartan")
    parser.add_argument("--json")
    parser.add_argument("--measure-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.setup:
        return setup()
    if not args.model:
        parser.error("--model is required")
    if args.measure_only:
        return print(json.dumps(measure(args.model, args.threads)))

    python = environment() / "bin/python"
    if not python.exists():
        sys.exit("llama-cpp-python is not set up: run with --setup first")
    peer_command = [python, __file__, "--measure-only", "--model", args.model, "--threads", str(args.threads)]
    peer_runs, own_runs = [], []
    for _ in range(2):
        peer_runs.append(json.loads(subprocess.run(peer_command, check=True, capture_output=True, text=True).stdout))
        if args.spartan:
            own_runs.append(measure_spartan(args.spartan, args.model, args.threads, args.dtype))
    report = {"threads": args.threads, "llama_cpp": better(peer_runs), "spartan": own_runs}
    text = json.dumps(report, indent=1)
    if args.json:
        Path(args.json).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
