"""What `spartan verify` runs: the same prompts through transformers and PEFT in fp32, one adapter loaded at a time.

    python3 verify.py SPEC.json

SPEC: {"model": FOLDER, "adapters": {NAME: FOLDER}, "greedy": N, "prompts": [{"ids": [...], "adapter": NAME or null}],
"logits": FILE of `spartan logits`, "bar": largest allowed max |difference| / max |logit|, "json": bool}.
Exit code 0: all within the bar, and the same greedy tokens; 1: not; 3: a package is missing.
"""
import json
import sys
import warnings

try:
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as missing:
    print(f"{missing.name} is not installed in {sys.executable}: pip install torch transformers peft safetensors", file=sys.stderr)
    sys.exit(3)


def without_cuda_extension():
    """PEFT's BOFT falls back to one butterfly factor where its CUDA extension is missing: give it a plain block-diagonal."""
    import peft.tuners.boft.layer as layer

    class Plain:
        @staticmethod
        def apply(x):
            return torch.stack([torch.block_diag(*factor) for factor in x])

    layer.get_fbd_cuda = lambda: True
    layer.FastBlockDiag = Plain


def reference(spec, adapter):
    model = transformers.AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)
    if adapter is not None:
        try:
            from peft import PeftModel
        except ImportError:
            print(f"peft is not installed in {sys.executable}: pip install peft", file=sys.stderr)
            sys.exit(3)
        without_cuda_extension()
        model = PeftModel.from_pretrained(model, spec["adapters"][adapter])
    return model.eval()


def continuation(model, ids, count):
    ids, picked = list(ids), []
    for _ in range(count):
        picked.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        ids.append(picked[-1])
    return picked


def compare(spec, mine):
    rows = []
    for adapter in [None, *spec["adapters"]]:
        model = reference(spec, adapter)
        for i, prompt in enumerate(spec["prompts"]):
            if prompt["adapter"] != adapter:
                continue
            want = model(input_ids=torch.tensor([prompt["ids"]]), use_cache=False).logits[0].float()
            got = mine[f"logits.{i}"]
            greedy = continuation(model, prompt["ids"], spec["greedy"])
            error = float((got - want).abs().max() / want.abs().max())
            same = mine[f"greedy.{i}"].tolist() == greedy
            rows.append({"adapter": adapter or "base", "tokens": len(prompt["ids"]), "error": error, "same_greedy": same,
                         "good": error <= spec["bar"] and same})
        del model
    return rows


def main():
    with open(sys.argv[1]) as f:
        spec = json.load(f)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with torch.no_grad():
        rows = compare(spec, load_file(spec["logits"]))
    bad = sum(not row["good"] for row in rows)
    if spec["json"]:
        print(json.dumps({"bar": spec["bar"], "rows": rows, "transformers": transformers.__version__}))
    else:
        for row in rows:
            print(f"{row['adapter']:<24} {row['tokens']:>4} tokens   max |difference| / max |logit| {row['error']:.1e}   "
                  f"{spec['greedy']} greedy tokens {'the same' if row['same_greedy'] else 'DIFFER'}")
        print(f"{len(rows) - bad} of {len(rows)} prompts within {spec['bar']:g} of transformers {transformers.__version__}")
    if bad:
        print(f"{bad} of {len(rows)} prompts differ by more than {spec['bar']:g} or in their greedy tokens", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
