#!/usr/bin/env python3
"""Makes tests/fixtures/gguf_blocks.json: random blocks of every quantised type that is read, and their values as the
`gguf` package of the ggml project widens them.

    pip install gguf==0.19.0 numpy
    python3 tests/fidelity/make_gguf_blocks.py
"""

import base64
import json
import pathlib

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "gguf_blocks.json"
BLOCKS = 3
# Where the fp16 scales of a block lie: any other byte may hold anything.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

draws = np.random.default_rng(7)
cases = {}
for name, scales in SCALES.items():
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = draws.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for at in scales:
        blocks[:, at:at + 2] = draws.normal(0, 0.1, (BLOCKS, 1)).astype(np.float16).view(np.uint8)
    values = gguf.quants.dequantize(blocks, kind).astype(np.float32).reshape(-1)
    assert values.size == BLOCKS * elements and np.isfinite(values).all()
    cases[name] = {"type": int(kind), "elements": elements, "bytes": size,
                   "blocks": base64.b64encode(blocks.tobytes()).decode(),
                   "values": base64.b64encode(values.tobytes()).decode()}
OUT.write_text(json.dumps(cases, indent=1) + "\n")
