"""Times what PyTorch does for the work of our kernels, on the same GPU in the same run.

    python3 gpu_peers.py KERNELS.json [CASE…]      KERNELS.json: what `spartan bench kernels --json` printed
                                                   CASE: only those whose name contains one of these

Prints {"torch": version, "peers": {kernel: [{"peer": name, "us": median of a call}, …]}}. A peer gets bf16 inputs laid
out as suits it best, outputs made beforehand by the graph's own pool, a CUDA graph of calls over inputs that together
do not fit the L2 cache, and is warmed up. Exits with 3 where there is no PyTorch that sees a GPU.
"""

import json
import re
import statistics
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit(3)

HIDDEN, INNER, HEAD_DIM = 4096, 11008, 128
COLD_BYTES, MOST_BYTES = 400 << 20, 24 << 30


def random(*shape, scale=1.0):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16).mul_(scale)


def bytes_of(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def time_us(make_inputs, call):
    """Median over replays of a graph that calls once for each set of inputs."""
    first = make_inputs()
    sets = max(2, min(64, -(-COLD_BYTES // max(1, bytes_of(first)))))
    if sets * bytes_of(first) > MOST_BYTES:
        return None
    inputs = [first] + [make_inputs() for _ in range(sets - 1)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for some in inputs[:2]:
            call(*some)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for some in inputs:
            call(*some)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for i in range(6):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i > 0:
            times.append(begin.elapsed_time(end) * 1e3 / sets)
    return statistics.median(times)


def product(count, n, k, m):
    yield "torch.mm", lambda: (random(m, k), random(count * n, k, scale=0.02).t()), torch.mm


def rotation(group, adapters, rows):
    """x and the rotated x of q, k and v; one adapter's tokens are one operand."""
    blocks, tokens = HIDDEN // group, rows // adapters

    def folded():
        return random(3 * adapters * blocks, tokens, group), random(3 * adapters * blocks, group, group, scale=0.1)

    yield "torch.bmm on folded blocks", folded, torch.bmm
    if group != 64:
        return

    half = group // 2  # two factors of blocks of 32, a permutation before and after the second
    order = torch.randperm(HIDDEN, device="cuda")

    def factors():
        return (random(3 * adapters, tokens, HIDDEN),
                *(random(3 * adapters * 2 * blocks, half, half, scale=0.1) for _ in range(2)))

    def one_by_one(x, a, b):
        def multiply(y, factor):
            y = y.view(3 * adapters, tokens, 2 * blocks, half).transpose(1, 2).reshape(-1, tokens, half)
            y = torch.bmm(y, factor).view(3 * adapters, 2 * blocks, tokens, half)
            return y.transpose(1, 2).reshape(3 * adapters, tokens, HIDDEN)

        return multiply(multiply(x, a)[..., order], b)[..., order]

    yield "factor by factor", factors, one_by_one


def lora(rank, adapters, rows):
    tokens = rows // adapters

    def inputs():
        return (random(adapters, tokens, HIDDEN), random(3, adapters, HIDDEN, rank, scale=0.02),
                random(3, adapters, rank, HIDDEN, scale=0.02), random(3, adapters, tokens, HIDDEN))

    def gathered(x, a, b, y):
        for module in range(3):
            torch.baddbmm(y[module], torch.bmm(x, a[module]), b[module])

    yield "gathered, torch.bmm twice", inputs, gathered


def attention(heads, kv_heads, batch, queries, keys):
    def inputs():
        return (random(batch, heads, queries, HEAD_DIM), random(batch, kv_heads, keys, HEAD_DIM),
                random(batch, kv_heads, keys, HEAD_DIM))

    yield "torch SDPA, contiguous keys and values", inputs, lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, is_causal=queries > 1, enable_gqa=heads != kv_heads)


def norm(rows):
    weight = random(HIDDEN)

    def unfused(x, delta):
        return F.rms_norm(x.add_(delta), (HIDDEN,), weight, 1e-5)

    yield "torch, add and rms_norm", lambda: (random(rows, HIDDEN), random(rows, HIDDEN)), unfused


def gate(rows):
    yield "torch, silu and mul", lambda: (random(rows, INNER), random(rows, INNER)), lambda g, u: F.silu(g) * u


def store(heads, rows):
    cos, sin = random(rows, 1, HEAD_DIM), random(rows, 1, HEAD_DIM)
    slots = torch.randperm(rows, device="cuda")

    def turned(x):
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat((-high, low), -1) * sin

    def unfused(q, k, v, cache):
        cache[0].index_copy_(0, slots, turned(k))
        cache[1].index_copy_(0, slots, v)
        return turned(q)

    def inputs():
        return *(random(rows, heads, HEAD_DIM) for _ in range(3)), random(2, rows, heads, HEAD_DIM)

    yield "torch, RoPE and index_copy", inputs, unfused


CASES = [
    (r"product .* (?:(\d)x)?(\d+)x(\d+) M=(\d+)$", product),
    (r"rotate q,k,v G=(\d+) adapters=(\d+) rows=(\d+)$", rotation),
    (r"lora q,k,v r=(\d+) adapters=(\d+) rows=(\d+)$", lora),
    (r"decode attention MHA (\d+) batch=(\d+) context=(\d+)$", lambda h, b, c: attention(h, h, b, 1, c)),
    (r"decode attention GQA (\d+)/(\d+) batch=(\d+) context=(\d+)$", lambda h, kv, b, c: attention(h, kv, b, 1, c)),
    (r"prefill attention MHA (\d+) (\d+)x(\d+)$", lambda h, b, n: attention(h, h, b, n, n)),
    (r"prefill attention GQA (\d+)/(\d+) (\d+)x(\d+)$", lambda h, kv, b, n: attention(h, kv, b, n, n)),
    (rf"add_rms_norm {HIDDEN} rows=(\d+)$", norm),
    (rf"gate_mul {INNER} rows=(\d+)$", gate),
    (rf"store_qkv (\d+) heads of {HEAD_DIM} rows=(\d+)$", store),
]


def peers_of(kernel):
    for pattern, make in CASES:
        found = re.match(pattern, kernel)
        if found:
            return make(*(int(g) if g else 1 for g in found.groups()))
    return []


def main():
    if not torch.cuda.is_available():
        sys.exit(3)
    kernels = json.load(open(sys.argv[1]))["kernels"]
    peers = {}
    for name in (k["name"] for k in kernels):
        if len(sys.argv) > 2 and not any(part in name for part in sys.argv[2:]):
            continue
        for peer, inputs, call in peers_of(name):
            us = time_us(inputs, call)
            torch.cuda.empty_cache()
            if us is not None:
                peers.setdefault(name, []).append({"peer": peer, "us": us})
    print(json.dumps({"torch": torch.__version__, "peers": peers}))


if __name__ == "__main__":
    main()
