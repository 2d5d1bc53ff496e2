#!/usr/bin/env python3
"""Makes tests/fixtures/gguf_tokenizers: vocabularies as GGUF metadata holds them, with what the originals answer.

    make_gguf_tokenizers.py [SmolLM2.gguf]      (pip install sentencepiece tokenizers gguf)

sentencepiece*.json: a small model trained here, {metadata, cases}. smollm2.json, only with the file named: {cases}, from the
`tokenizers` package with the file's own tokens and merges. Run from the repository root.
"""
import json
import pathlib
import random
import sys
import tempfile

import sentencepiece

from make_tokenizers import FIXED, corpus, random_text

ROOT = pathlib.Path("tests/fixtures/gguf_tokenizers")


def texts(n):
    return FIXED + [random_text(random.Random(5000 + i)) for i in range(n)]


def write(name, data):
    ROOT.mkdir(parents=True, exist_ok=True)
    cases = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in data.pop("cases"))
    head = json.dumps(data, ensure_ascii=False, separators=(",", ":"))[1:-1]
    (ROOT / name).write_text("{" + (head + ",\n" if head else "") + '"cases":[' + cases + "]}\n")


def sentencepiece_model(prefix):
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "corpus.txt")
        source.write_text("\n".join(t.replace("\n", " ") for t in corpus()))
        sentencepiece.SentencePieceTrainer.train(
            input=str(source), model_prefix=folder + "/m", vocab_size=600, model_type="bpe", byte_fallback=True,
            character_coverage=0.99, normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=prefix, hard_vocab_limit=False, allow_whitespace_only_pieces=True, minloglevel=2)
        return sentencepiece.SentencePieceProcessor(model_file=folder + "/m.model")


def token_type(model, i):
    kinds = ((model.is_byte, 6), (model.is_unknown, 2), (model.is_control, 3), (model.is_unused, 5))
    return next((kind for test, kind in kinds if test(i)), 1)


def make_sentencepiece(name, prefix):
    model = sentencepiece_model(prefix)
    n = model.vocab_size()
    metadata = {"model": "llama", "tokens": [model.id_to_piece(i) for i in range(n)], "scores": [model.get_score(i) for i in range(n)],
                "token_type": [token_type(model, i) for i in range(n)], "bos": 1, "eos": 2, "unk": 0, "add_space_prefix": prefix}
    # NUL ends a text for SentencePiece, which also reads a typed U+2581 as a space; control tokens are llama.cpp's matter.
    kept = [t for t in texts(80) if "\0" not in t and "\u2581" not in t and "<" not in t]
    cases = [{"text": t, "ids": model.encode(t), "decoded": model.decode(model.encode(t))} for t in kept]
    write(name, {"metadata": metadata, "cases": cases})


def make_smollm2(path):
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types = get("tokens"), get("token_type")
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in get("merges")]))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    rows = [(t, tok.encode(t).ids) for t in texts(80) + ["<|im_start|>user\nHi<|im_end|>\n"]]
    write("smollm2.json", {"cases": [{"text": t, "ids": ids, "decoded": tok.decode(ids)} for t, ids in rows]})


if __name__ == "__main__":
    make_sentencepiece("sentencepiece.json", True)
    make_sentencepiece("sentencepiece_no_prefix.json", False)
    if len(sys.argv) > 1:
        make_smollm2(sys.argv[1])
