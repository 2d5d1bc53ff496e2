#!/usr/bin/env python3
"""Makes tests/fixtures/models/NAME.json: one tiny model per family and configuration, answered by transformers.

    pip install torch==2.11.0 transformers==5.17.0 safetensors==0.8.0
    python3 tests/fidelity/make_model_cases.py [NAME ...]

A case holds config.json as a checkpoint would have it, the names and shapes of its tensors, prompts, and what
transformers gives for them on a CPU in fp32: the logits of the last position and 16 greedy tokens; and the relative
error of those logits when the same model runs in bf16. No weights: both sides draw them from the tensors' names, see
draw(). Nothing in a case is near a tie, so greedy tokens are well defined.
"""

import json
import math
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "models"
VOCAB, GREEDY = 96, 16
LENGTHS = (1, 3, 9, 17, 33, 50, 64, 75)

SIZES = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)


def config(kind, architecture, **changes):
    merged = {"architectures": [architecture], "model_type": kind, **SIZES, **changes}
    return {k: v for k, v in merged.items() if v != "absent"}


def llama(**changes):
    return config("llama", "LlamaForCausalLM", **{"hidden_act": "silu", "tie_word_embeddings": False, **changes})


def scaling(**parameters):
    return {"rope_theta": 10000.0, "rope_scaling": parameters}


CASES = {
    "llama": llama(rope_theta=10000.0),
    "llama-biases-head-dim": llama(attention_bias=True, mlp_bias=True, head_dim=12, tie_word_embeddings=True),
    "llama-linear": llama(**scaling(type="linear", factor=2.5)),
    "llama-dynamic": llama(**scaling(rope_type="dynamic", factor=4.0)),
    "llama-llama3": llama(head_dim=16, **scaling(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                                 high_freq_factor=4.0, original_max_position_embeddings=64)),
    "llama-yarn": llama(head_dim=16, **scaling(type="yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama-yarn-mscale": llama(head_dim=16, rope_parameters=dict(
        rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=32, mscale=0.8,
        mscale_all_dim=0.4, beta_fast=8.0, beta_slow=2.0, truncate=False)),
    "llama-tied-with-head": llama(tie_word_embeddings=True),
    "llama-gelu": llama(hidden_act="gelu_new"),
    "mistral-window": config("mistral", "MistralForCausalLM", sliding_window=20, head_dim=12, rope_theta=1e6),
    "mistral-full": config("mistral", "MistralForCausalLM", sliding_window=None),
    "qwen2": config("qwen2", "Qwen2ForCausalLM", tie_word_embeddings=True, use_sliding_window=False,
                    sliding_window=16, max_window_layers=3),
    "qwen2-windows": config("qwen2", "Qwen2ForCausalLM", use_sliding_window=True, sliding_window=7,
                            max_window_layers=1),
    "qwen3": config("qwen3", "Qwen3ForCausalLM", head_dim=24, tie_word_embeddings=True, rope_theta=1e6),
    "qwen3-bias-windows-yarn": config(
        "qwen3", "Qwen3ForCausalLM", head_dim=16, attention_bias=True, use_sliding_window=True, sliding_window=33,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **scaling(rope_type="yarn", factor=2.0, original_max_position_embeddings=64, attention_factor=1.3)),
    "gemma": config("gemma", "GemmaForCausalLM", head_dim=16, num_key_value_heads=1, hidden_act="gelu_pytorch_tanh",
                    hidden_activation=None),
    "gemma-exact-gelu": config("gemma", "GemmaForCausalLM", head_dim=16, hidden_act="gelu"),
    "phi3": config("phi3", "Phi3ForCausalLM", pad_token_id=0, num_key_value_heads="absent"),
    "phi3-partial-window": config("phi3", "Phi3ForCausalLM", pad_token_id=0, hidden_size=64,
                                  num_attention_heads=4, partial_rotary_factor=0.75, sliding_window=12),
    "granite": config("granite", "GraniteForCausalLM", embedding_multiplier=3.0, attention_multiplier=0.2,
                      residual_multiplier=0.22, logits_scaling=3.0, tie_word_embeddings=True),
    "granite-biases": config("granite", "GraniteForCausalLM", embedding_multiplier=2.0, attention_multiplier=0.35,
                             residual_multiplier=0.7, logits_scaling=0.5, attention_bias=True, mlp_bias=True),
    "smollm3": config("smollm3", "SmolLM3ForCausalLM", pad_token_id=0, num_hidden_layers=4),
    "smollm3-windows": config("smollm3", "SmolLM3ForCausalLM", pad_token_id=0, no_rope_layers=[1, 0, 1],
                              use_sliding_window=True, sliding_window=10, attention_bias=True),
}

MASK = (1 << 64) - 1


def draw(name, shape, kind):
    """Uniform values: 24 bits of SplitMix64's finaliser over a counter that starts at FNV-1a of the name."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & MASK
    x = np.arange(math.prod(shape), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    unit = ((x >> np.uint64(40)).astype(np.int64) - (1 << 23)).astype(np.float32) / np.float32(1 << 23)
    if len(shape) == 2:
        return (unit * np.float32(3 / math.sqrt(shape[1]))).reshape(shape)
    if name.endswith(".bias"):
        return unit * np.float32(0.5)
    return unit * np.float32(0.5) + np.float32(0 if kind == "gemma" else 1)


def tensors_of(json_config, name):
    cls = getattr(transformers, json_config["architectures"][0])
    with torch.device("meta"):
        model = cls(cls.config_class.from_dict(dict(json_config)))
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings and name != "llama-tied-with-head":
        shapes.pop("lm_head.weight")
    return shapes


def last_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()


def greedy(model, ids):
    """Without a cache. None when two logits are so close that another order of additions could swap them."""
    ids, out = list(ids), []
    for _ in range(GREEDY):
        top = torch.topk(last_logits(model, ids), 2).values
        if top[0] - top[1] < 2e-3 * top[0].abs():
            return None
        out.append(int(last_logits(model, ids).argmax()))
        ids.append(out[-1])
    return out


def make(name, json_config):
    shapes = tensors_of(json_config, name)
    with tempfile.TemporaryDirectory() as folder:
        weights = {k: draw(k, s, json_config["model_type"]) for k, s in shapes.items()}
        save_file(weights, folder + "/model.safetensors", metadata={"format": "pt"})
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(json_config))
        load = transformers.AutoModelForCausalLM.from_pretrained
        model, info = load(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
        small = load(folder, dtype=torch.bfloat16, attn_implementation="eager")
    prompts, draws = [], np.random.default_rng(1)
    for length in LENGTHS:
        while True:
            ids = draws.integers(0, VOCAB, length).tolist()
            tokens = greedy(model, ids)
            if tokens is not None:
                break
        logits = last_logits(model, ids)
        error = float((last_logits(small, ids) - logits).norm() / logits.norm())
        prompts.append({"ids": ids, "greedy": tokens, "bf16_error": round(error, 6),
                        "logits": [float(f"{v:.8g}") for v in logits.tolist()]})
    case = {"made_with": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}",
            "config": json_config, "tensors": shapes, "prompts": prompts}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(case, separators=(",", ":")) + "\n")
    print(f"{name}: bf16 error of the reference {np.mean([p['bf16_error'] for p in prompts]):.4f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for wanted in sys.argv[1:] or CASES:
        make(wanted, CASES[wanted])
