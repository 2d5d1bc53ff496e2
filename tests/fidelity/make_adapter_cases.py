#!/usr/bin/env python3
"""Makes tests/fidelity/adapter_cases with the reference implementation:

    pip install torch transformers==5.17.0 peft==0.21.2 safetensors numpy
    python3 tests/fidelity/make_adapter_cases.py [FAMILY ...]

and llama-peft-0.15, OFT as that release has it (no other reads its files), with

    pip install torch transformers==4.51.3 peft==0.15.2 safetensors numpy

    python3 tests/fidelity/make_adapter_cases.py llama-peft-0.15
    python3 tests/fidelity/make_adapter_cases.py --random SEED COUNT FOLDER FAMILY    (tests/core/adapter/random_test.cpp)

One FAMILY.json and FAMILY.safetensors per model family. The JSON holds the tiny model's config, its prompts and each
adapter's config as PEFT saved it; of the weights of both only names, shapes and ranges, because every weight is drawn
from a seed in the same way here and in the test (draw()). The other file holds what transformers + PEFT answer in fp32 on
a CPU, one adapter loaded at a time: the logits of each prompt's last position, eight greedy tokens, the relative error of
the same logits when the reference runs in bf16, and of some adapters the merged weights times a drawn vector.

PEFT's BOFT wants its CUDA extension `fbd` and without it sets boft_n_butterfly_factor to 1 without an error; here it is
replaced by a plain block-diagonal matrix, and the number of factors is asserted after loading.
"""
import copy
import json
import pathlib
import re
import sys
import tempfile
import warnings

import numpy as np
import torch
import peft
import peft.tuners.boft.layer as boft_layer
import peft.tuners.oft.layer as oft_layer
import transformers
from peft import BOFTConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

PROMPTS, GREEDY = 3, 8
OUT = pathlib.Path(__file__).parent / "adapter_cases"


# --- weights from a seed -------------------------------------------------------------------------------------------

def fnv1a(text):
    h = 0xcbf29ce484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001b3 & (1 << 64) - 1
    return h


def draw(seed, shape, scale, mean):
    """mean/1024 + scale/1024 * u, u uniform in [-1, 1) from the top 24 bits of SplitMix64; exact in double, rounded once."""
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(seed)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xbf58476d1ce4e5b9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94d049bb133111eb)
        z = z ^ z >> np.uint64(31)
    u = (z >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1.0
    values = u * (scale / 1024) + mean / 1024
    return torch.from_numpy(values.astype(np.float32)).reshape(list(shape))


def range_of(name, shape, family):
    """(scale, mean) in 1/1024 of a tensor: large enough that every part shows in the logits."""
    leaf = name.rsplit(".", 1)[-1]
    if "boft_R" in name or leaf == "oft_r":
        return 512, 0
    if "boft_s" in name or leaf == "oft_s":
        return 256, 1024
    if "oft_R" in name or "oft_embedding_R" in name:
        return 160, 0
    if "lora_magnitude" in name:
        return 256, 1024
    if "lora_" in name and leaf != "bias":
        return 256, 0
    if "boft_P" in name:
        return 1024, 0
    if leaf == "bias":
        return 256, 0
    if "norm" in name.split(".")[-2]:
        return 256, 0 if family == "gemma" else 1024
    if "embed_tokens" in name or "trainable_tokens" in name:
        return 1024, 0
    if "lm_head" in name:
        return 256, 0
    return int(1024 * 1.5 / shape[-1] ** 0.5), 0


# --- PEFT without its CUDA extension -------------------------------------------------------------------------------

class PlainBlockDiag:
    @staticmethod
    def apply(x):
        return torch.stack([torch.block_diag(*factor) for factor in x])


boft_layer.get_fbd_cuda = lambda: True
boft_layer.FastBlockDiag = PlainBlockDiag

IS_PEFT_0_15 = peft.__version__.startswith("0.15.")
NEW_SERIES = None if IS_PEFT_0_15 else oft_layer.OFTRotationModule._cayley_batch


def old_series(self, q, block_size, use_cayley_neumann=True, num_neumann_terms=5):
    """What PEFT 0.16 and 0.17 computed: I + 2 (S + S^2 + ... + S^(K-1))."""
    if not use_cayley_neumann:
        return NEW_SERIES(self, q, block_size, use_cayley_neumann, num_neumann_terms)
    s = self._pytorch_skew_symmetric(q, block_size)
    r = torch.eye(block_size).repeat(q.shape[0], 1, 1).to(q.dtype)
    power = s
    for _ in range(1, num_neumann_terms):
        r = r + 2 * power
        power = torch.bmm(power, s)
    return r


# --- models --------------------------------------------------------------------------------------------------------

COMMON = dict(vocab_size=80, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128, bos_token_id=None, eos_token_id=None, pad_token_id=None,
              tie_word_embeddings=False)
FAMILIES = {
    "llama": ("Llama", dict(num_key_value_heads=4)),
    "mistral": ("Mistral", dict(sliding_window=8)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(head_dim=16, tie_word_embeddings=True)),
    "gemma": ("Gemma", dict(head_dim=12, tie_word_embeddings=True)),
    "phi3": ("Phi3", dict(original_max_position_embeddings=128)),
    "granite": ("Granite", dict(embedding_multiplier=6.0, attention_multiplier=0.25, residual_multiplier=0.5,
                                logits_scaling=2.0)),
    "smollm3": ("SmolLM3", dict(no_rope_layers=[1, 0], tie_word_embeddings=True)),
    "llama-peft-0.15": ("Llama", dict(num_key_value_heads=4)),
}


def make_base(family, dtype=torch.float32):
    title, extra = FAMILIES[family]
    config = getattr(transformers, title + "Config")(**{**COMMON, **extra})
    config.architectures = [title + "ForCausalLM"]
    torch.manual_seed(0)
    model = getattr(transformers, title + "ForCausalLM")(config).eval()
    tensors = {}
    tied = config.tie_word_embeddings
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            if tied and name == "lm_head.weight":
                continue
            scale, mean = range_of(name, parameter.shape, family)
            parameter.copy_(draw(f"{family}/{name}", parameter.shape, scale, mean))
            tensors[name] = [list(parameter.shape), scale, mean]
    return model.to(dtype), tensors


# --- adapters ------------------------------------------------------------------------------------------------------

QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
ALL = QKVO + MLP
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def lora(**k):
    return LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8, **k})


def boft(b=0, m=1, num=0, **k):
    return BOFTConfig(task_type="CAUSAL_LM", boft_block_size=b, boft_block_num=num, boft_n_butterfly_factor=m, **k)


def oft(b=0, r=0, **k):
    return OFTConfig(task_type="CAUSAL_LM", oft_block_size=b, r=r, **{"use_cayley_neumann": False, **k})


def everywhere(t):
    return {
        "lora": lora(target_modules=t),
        "lora-rs-two": lora(target_modules=t[:2], use_rslora=True, r=6),
        "dora": lora(target_modules=t, use_dora=True, r=3),
        "boft-b8-m2": boft(8, 2, target_modules=t),
        "oft-b8": oft(8, target_modules=t),
        "oft-neumann": oft(6, target_modules=t, use_cayley_neumann=True),
    }


def oft_of_peft_0_15(b=0, r=0, **k):
    return OFTConfig(task_type="CAUSAL_LM", oft_block_size=b, r=r, **k)


# eps so that some layers reach their limit, eps * ceil(out / blocks)^2 / sqrt(rows), and some do not.
def cases_of_peft_0_15():
    return {
        "oft-b8": oft_of_peft_0_15(8, target_modules=ALL),
        "oft-share": oft_of_peft_0_15(6, target_modules=ALL, block_share=True),
        "oft-constrained": oft_of_peft_0_15(8, target_modules=ALL, coft=True, eps=0.05),
        "oft-constrained-eps": oft_of_peft_0_15(r=6, target_modules=QKVO, coft=True),
        "oft-constrained-share": oft_of_peft_0_15(4, target_modules=ALL, coft=True, eps=0.05, block_share=True),
        "oft-constrained-adjusted": oft_of_peft_0_15(5, target_modules=["q_proj", "down_proj"], coft=True, eps=0.02),
        "oft-constrained-head": oft_of_peft_0_15(12, target_modules=["lm_head", "v_proj"], coft=True, eps=0.005),
    }


def special(family):
    if family == "llama":
        cases = {
            "lora-patterns": lora(target_modules=ALL, rank_pattern={"q_proj": 2, "layers.1.self_attn.k_proj": 7, ".*mlp.up_proj": 1},
                                  alpha_pattern={"v_proj": 3, "^model.layers.0.mlp.*": 32}),
            "lora-rs-patterns": lora(target_modules=ALL, use_rslora=True, rank_pattern={r"layers\.[01]\.mlp\.down_proj": 9}),
            "lora-regex": lora(target_modules=r"model\.layers\.\d+\.(self_attn\.q_proj|mlp\.down_proj)"),
            "lora-all-linear": lora(target_modules="all-linear", r=2),
            "lora-exclude": lora(target_modules=ALL, exclude_modules=["up_proj", "layers.0.self_attn.q_proj"]),
            "lora-layer-1": lora(target_modules=ALL, layers_to_transform=[1], layers_pattern="layers"),
            "lora-output-bias": lora(target_modules=ALL, lora_bias=True),
            "lora-bf16-file": lora(target_modules=ALL, r=5),
            "lora-head": lora(target_modules=["q_proj", "lm_head"]),
            "lora-embedding": lora(target_modules=["v_proj", "embed_tokens"]),
            "dora-tables": lora(target_modules=["o_proj", "embed_tokens", "lm_head"], use_dora=True),
            "lora-saved-tables": lora(target_modules=QKVO, modules_to_save=["lm_head", "embed_tokens"]),
            "lora-saved-norms": lora(target_modules=["q_proj"], modules_to_save=["norm", "input_layernorm", "post_attention_layernorm"]),
            "lora-tokens": lora(target_modules=["q_proj"], trainable_token_indices=[3, 17, 64]),
            "lora-tokens-both": lora(target_modules=["k_proj"], trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [70, 2]}),
            "boft-b4-m3": boft(4, 3, target_modules=ALL),
            "boft-b2-m4": boft(2, 4, target_modules=ALL),
            "boft-b3-m1": boft(3, 1, target_modules=["k_proj", "up_proj"]),
            "boft-num12-m2": boft(0, 2, num=12, target_modules=ALL),
            "boft-num16": boft(0, 1, num=16, target_modules=["q_proj", "gate_proj"]),
            "boft-with-p": boft(4, 2, target_modules=["q_proj", "down_proj"]),
            "boft-head": boft(4, 2, target_modules=["lm_head", "v_proj"]),
            "boft-saved-norm": boft(4, 1, target_modules=["o_proj"], modules_to_save=["norm"]),
            "oft-r6": oft(r=6, target_modules=ALL),
            "oft-b5-adjusted": oft(5, target_modules=["q_proj", "down_proj"]),
            "oft-share": oft(8, target_modules=ALL, block_share=True),
            "oft-constrained": oft(8, target_modules=ALL, coft=True, eps=0.5),
            "oft-constrained-share": oft(4, target_modules=QKVO, coft=True, eps=0.1, block_share=True),
            "oft-embedding": oft(8, target_modules=["embed_tokens", "q_proj"]),
            "oft-head": oft(12, target_modules=["lm_head", "up_proj"], use_cayley_neumann=True),
            "oft-old-series": oft(8, target_modules=ALL, use_cayley_neumann=True),
            "oft-old-file": boft(8, 1, target_modules=ALL),
        }
        for terms in (1, 2, 3, 4, 6):
            cases[f"oft-terms-{terms}"] = oft(8, target_modules=["q_proj"], use_cayley_neumann=True, num_cayley_neumann_terms=terms)
        return cases
    if family == "qwen2":
        return {
            "lora-bias-all": lora(target_modules=["q_proj", "down_proj"], bias="all"),
            "lora-bias-only": lora(target_modules=["q_proj", "v_proj"], bias="lora_only"),
            "lora-output-bias": lora(target_modules=QKVO, lora_bias=True, use_rslora=True),
            "boft-bias-all": boft(4, 2, target_modules=["q_proj", "k_proj"], bias="all"),
            "boft-bias-only": boft(8, 1, target_modules=QKVO, bias="boft_only"),
            "lora-tied-tokens": lora(target_modules=["q_proj"], trainable_token_indices=[1, 40, 41]),
            "lora-tied-embedding": lora(target_modules=["q_proj", "embed_tokens"]),
            "lora-tied-head": lora(target_modules=["q_proj", "lm_head"]),
            "lora-tied-saved-head": lora(target_modules=["v_proj"], modules_to_save=["lm_head"]),
            "lora-tied-tokens-both": lora(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [7, 3], "lm_head": [7, 3]}),
            "lora-ensured-saved": lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
            "lora-ensured-embedding": lora(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True),
            "dora-ensured-embedding": lora(target_modules=["v_proj", "embed_tokens"], ensure_weight_tying=True, use_dora=True),
        }
    if family == "qwen3":
        return {
            "lora-saved-norms": lora(target_modules=["q_proj"], modules_to_save=["q_norm", "k_norm", "norm"]),
            "lora-tied-saved-embedding": lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        }
    if family == "gemma":
        return {
            "lora-embedding": lora(target_modules=["v_proj", "embed_tokens"]),
            "lora-tokens": lora(target_modules=["q_proj"], trainable_token_indices=[3, 17, 64]),
            "lora-saved-norms": lora(target_modules=["q_proj"], modules_to_save=["norm", "input_layernorm"]),
        }
    if family == "granite":
        return {
            "lora-tables": lora(target_modules=["v_proj", "embed_tokens", "lm_head"]),
            "lora-saved-tables": lora(target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"]),
        }
    return {}


def random_config(rng, family):
    """Any kind, sizes, patterns and targets that PEFT takes for this model."""
    names = FUSED if family == "phi3" else ALL
    targets = [str(t) for t in rng.choice(names, rng.integers(1, len(names) + 1), replace=False)]
    kind = rng.choice(["lora", "lora", "boft", "boft", "oft", "oft"])
    tied = COMMON | FAMILIES[family][1]
    if kind == "lora":
        k = dict(r=int(rng.integers(1, 10)), lora_alpha=int(rng.integers(1, 24)), use_rslora=bool(rng.integers(2)),
                 use_dora=bool(rng.random() < 0.3))
        if rng.random() < 0.4:
            k["rank_pattern"] = {str(rng.choice(targets)): int(rng.integers(1, 12)) for _ in range(2)}
        if rng.random() < 0.4:
            k["alpha_pattern"] = {r"layers\.%d\..*" % rng.integers(2): int(rng.integers(1, 40))}
        if rng.random() < 0.3:
            k["layers_to_transform"] = [int(rng.integers(2))]
        elif rng.random() < 0.4:
            targets.append(str(rng.choice(["embed_tokens", "lm_head"])))
        elif rng.random() < 0.3:
            k["trainable_token_indices"] = [int(t) for t in rng.choice(80, 4, replace=False)]
        if rng.random() < 0.2 and not tied["tie_word_embeddings"] and not set(targets) & {"embed_tokens", "lm_head"}:
            k["modules_to_save"] = ["norm", "lm_head"]
        return lora(target_modules=targets, **k)
    if kind == "boft":  # every width of these models is a multiple of 16 or 12
        b, m = [(2, 1), (2, 2), (2, 3), (4, 1), (4, 2), (8, 1), (3, 1), (6, 1), (12, 1)][rng.integers(9)]
        if b % 3 == 0:  # of 48 and 96 wide layers only; 64 where heads are wider
            targets = [t for t in targets if t != "o_proj" or family != "qwen3"] or [names[0]]
        if rng.random() < 0.3:
            targets.append("lm_head")
        return boft(b, m, target_modules=targets)
    k = dict(use_cayley_neumann=bool(rng.integers(2)), num_cayley_neumann_terms=int(rng.integers(2, 8)),
             coft=bool(rng.random() < 0.3), eps=float(rng.choice([0.05, 0.3])), block_share=bool(rng.random() < 0.3))
    if rng.random() < 0.3:
        targets.append(str(rng.choice(["embed_tokens", "lm_head"])))
    return oft(int(rng.choice([2, 4, 5, 8, 12, 16])), target_modules=targets, **k)


MERGED = {"llama": ["lora", "dora", "dora-tables", "boft-b4-m3", "oft-neumann", "lora-saved-tables", "lora-tokens",
                    "oft-embedding", "boft-head"],
          "qwen2": ["lora", "lora-bias-all", "boft-b8-m2", "boft-bias-all"], "phi3": ["lora", "boft-b8-m2", "dora"],
          "gemma": ["lora-saved-norms", "oft-b8"]}


def save_adapter(family, name, config, salt, folder):
    """The folder as PEFT saves it, all weights redrawn; returns the ranges."""
    base, _ = make_base(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base, copy.deepcopy(config))
        model.save_pretrained(folder)
    path = folder / "adapter_model.safetensors"
    tensors, ranges, out = load_file(path), {}, {}
    if config.peft_type == "BOFT":
        assert all(t.shape[0] == config.boft_n_butterfly_factor for n, t in tensors.items() if "boft_R" in n)
    base_tensors = {**base_names(family)}
    if name == "lora-bias-only" or name == "boft-bias-only":  # releases before 0.21 kept none; a later one keeps these
        assert any(n.endswith("bias") for n in tensors), "no biases saved"
    for key in sorted(tensors):
        shape = list(tensors[key].shape)
        plain = key.removeprefix("base_model.model.").replace(".base_layer", "")
        if ".base_layer" in key and plain not in base_tensors:  # a tied head
            plain = "model.embed_tokens.weight"
        if ".base_layer.weight" in key or (plain in base_tensors and not is_saved_module(plain, config) and plain.endswith("weight")):
            ranges[key] = [shape, "base", plain]  # a copy of the base's
            out[key] = draw(f"{family}/{plain}", *base_tensors[plain])
            continue
        drawn_as, transposed = tied_to(key) if "-ensured-" in name else (key, False)
        scale, mean = range_of(drawn_as, shape, family)
        ranges[key] = [shape, scale, mean]
        if drawn_as != key:
            ranges[key] += ["F32", drawn_as, transposed]
        drawn = draw(f"{family}/{name}/{salt}/{drawn_as}", shape[::-1] if transposed else shape, scale, mean)
        out[key] = drawn.T.contiguous() if transposed else drawn
        if name.endswith("bf16-file") or (name.startswith("random") and salt_free(name) % 3 == 0):
            ranges[key].append("BF16")
            out[key] = out[key].to(torch.bfloat16)
    save_file(out, path, {"format": "pt"})
    return ranges


def tied_to(key):
    """What a head that ensure_weight_tying ties is drawn as, and whether that is transposed."""
    for of_head, of_embedding, transposed in (("lm_head.lora_A.weight", "model.embed_tokens.lora_embedding_B", True),
                                              ("lm_head.lora_B.weight", "model.embed_tokens.lora_embedding_A", True),
                                              ("lm_head.weight", "model.embed_tokens.weight", False)):
        if key.endswith(of_head):
            return key.replace(of_head, of_embedding), transposed
    return key, False


def salt_free(name):
    return int(name.rsplit("-", 1)[1])


def base_names(family):
    return make_base(family)[1]


def is_saved_module(plain, config):
    saved = config.modules_to_save or []
    return any(plain.removesuffix(".weight").endswith(s) for s in saved)


def edit_for_file(name, folder, family):
    """What the committed file holds where it is not what PEFT 0.21 reads: (config, ranges) -> (config, ranges)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = family
    if name == "oft-old-series":
        config.pop("peft_version")  # as 0.16 and 0.17 wrote it
    if name == "oft-old-file":  # PEFT 0.14 and 0.15: the same function of other names
        for key in [k for k in config if k.startswith("boft_")] + ["peft_version"]:
            config.pop(key)
        config.update({"peft_type": "OFT", "r": 0, "oft_block_size": 8, "coft": False, "eps": 6e-5, "block_share": False,
                       "module_dropout": 0.0})
    return config


def rename_for_file(name, ranges):
    if name == "oft-old-file":
        renamed = {}
        for key, (shape, scale, mean) in ranges.items():
            new = key.replace("boft_R", "oft_r").replace("boft_s", "oft_s")
            renamed[new] = [shape[1:] if "boft_R" in key else shape, scale, mean, "F32", key]
        return renamed
    if name == "boft-with-p":
        extra = {k.replace("boft_R", "boft_P"): [[r[0][0], 4, 4], 1024, 0] for k, r in ranges.items() if "boft_R" in k}
        return {**ranges, **extra}
    return ranges


def answers(model, prompts):
    logits, greedy, margin = [], [], 1e9
    with torch.no_grad():
        for prompt in prompts:
            ids, picked = list(prompt), []
            for step in range(GREEDY):
                row = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
                if step == 0:
                    logits.append(row)
                top = torch.topk(row, 2).values
                margin = min(margin, float((top[0] - top[1]) / row.abs().max()))
                picked.append(int(row.argmax()))
                ids.append(picked[-1])
            greedy.append(picked)
    return torch.stack(logits), torch.tensor(greedy), margin


def load_adapted(family, name, folder, dtype=torch.float32):
    if IS_PEFT_0_15 and dtype != torch.float32:  # its OFT runs in one dtype only: what it merged, rounded
        return load_adapted(family, name, folder).merge_and_unload().to(dtype)
    base, _ = make_base(family, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(base, folder).eval()
    for module in model.modules():
        if hasattr(module, "boft_R") and hasattr(module.boft_R, "keys"):
            assert module.boft_R["default"].shape[0] == model.peft_config["default"].boft_n_butterfly_factor
    return model


def run_case(family, name, config, prompts, expected):
    if not IS_PEFT_0_15:
        oft_layer.OFTRotationModule._cayley_batch = old_series if name == "oft-old-series" else NEW_SERIES
    for salt in range(50):
        with tempfile.TemporaryDirectory() as t:
            folder = pathlib.Path(t)
            ranges = save_adapter(family, name, config, salt, folder)
            logits, greedy, margin = answers(load_adapted(family, name, folder), prompts)
            if margin < 2e-3:
                continue  # too close for fp32 sums in another order
            half, _, _ = answers(load_adapted(family, name, folder, torch.bfloat16), prompts)
            expected[f"{name}.logits"], expected[f"{name}.greedy"] = logits, greedy
            expected[f"{name}.bf16_error"] = (half - logits).norm(dim=1) / logits.norm(dim=1)
            if name in MERGED.get(family, []):
                merged = load_adapted(family, name, folder).merge_and_unload().state_dict()
                for key, value in merged.items():
                    vector = draw("probe", value.shape[-1:], 1024, 0)
                    expected[f"{name}.merged.{key}"] = (value @ vector).reshape(-1)
            return {"name": name, "salt": salt, "config": edit_for_file(name, folder, family),
                    "tensors": rename_for_file(name, ranges)}
    raise SystemExit(f"{family} {name}: no salt gives clear winners")


def changes(expected, name):
    return float((expected[f"{name}.logits"] - expected["base.logits"]).norm() / expected["base.logits"].norm())


def run_family(family, cases=None, out=OUT):
    base, tensors = make_base(family)
    prompts = [[int(v) for v in draw(f"{family}/prompt/{i}", [5 + 7 * i], 40 * 1024, 40 * 1024).floor().clamp(0, 79)]
               for i in range(PROMPTS)]
    expected = {}
    expected["base.logits"], expected["base.greedy"], margin = answers(base, prompts)
    assert margin > 1e-3, (family, margin)
    half, _, _ = answers(make_base(family, torch.bfloat16)[0], prompts)
    expected["base.bf16_error"] = (half - expected["base.logits"]).norm(dim=1) / expected["base.logits"].norm(dim=1)
    adapters = []
    assert IS_PEFT_0_15 == (family == "llama-peft-0.15"), f"{family} wants another release of PEFT"
    cases = cases or (cases_of_peft_0_15() if IS_PEFT_0_15 else
                      {**everywhere(FUSED if family == "phi3" else ALL), **special(family)})
    for name, config in cases.items():
        try:
            adapters.append(run_case(family, name, config, prompts, expected))
        except Exception as e:  # noqa: BLE001 - the reason is what matters
            print(f"{family} {name}: NOT MADE: {type(e).__name__}: {str(e)[:300]}", flush=True)
            continue
        moved = changes(expected, name)
        print(f"{family} {name}: salt {adapters[-1]['salt']}, moves logits by {moved:.2f}, "
              f"bf16 error {float(expected[name + '.bf16_error'].mean()):.1e}", flush=True)
        assert moved > 1e-3 or name == "oft-terms-1" or cases is not None and name.startswith("random"), "an adapter without effect proves nothing"
    with tempfile.TemporaryDirectory() as t:
        base.config.save_pretrained(t)
        config = json.loads((pathlib.Path(t) / "config.json").read_text())
    out.mkdir(exist_ok=True)
    text = json.dumps({"family": family, "made_with": {"transformers": transformers.__version__, "peft": peft.__version__},
                       "config": config, "tensors": tensors, "prompts": prompts, "adapters": adapters}, indent=None,
                      separators=(",", ":"))
    # One adapter a line keeps differences readable.
    (out / f"{family}.json").write_text(re.sub(r'\{"name":', '\n{"name":', text) + "\n")
    save_file({k: v.contiguous() for k, v in expected.items()}, out / f"{family}.safetensors")
    return len(adapters)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--random"]:
        seed, count, folder, family = int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4]), sys.argv[5]
        rng = np.random.default_rng(seed)
        made = run_family(family, {f"random-{i}": random_config(rng, family) for i in range(count)}, folder)
        sys.exit(0 if made == count else 1)
    total = sum(run_family(f) for f in (sys.argv[1:] or [f for f in FAMILIES if f != "llama-peft-0.15"]))
    print(f"{total} adapters")
