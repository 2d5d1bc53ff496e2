#!/usr/bin/env python3
"""Train the eight demo adapters of SpartanServe Workbench.

    python3 train.py --model SmolLM2-135M-Instruct.Q4_1.gguf --out OUT

Each adapter gives the base model one habit that is seen at a glance. The training text is the base model's own answers
to everyday questions, rewritten by a rule; nothing else goes in. Steps, in order:

    1. read the GGUF: weights dequantised to fp32, tokenizer rebuilt from the metadata
    2. the base answers the training prompts (OUT/everyday.json, OUT/words.json, reused if they are there)
    3. per adapter: rewrite, train, save as bf16, reload, check the habit on prompts that were not trained on
    4. OUT/NAME/{adapter_config.json,adapter_model.safetensors}, OUT/results.json, OUT/behaviours.json

Needs torch, transformers, peft, safetensors, tokenizers, gguf. `--jobs 8` trains eight adapters at once on one GPU.
"""

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple

import gguf
import peft
import peft.tuners.boft.layer as boft_layer
import torch
import transformers
from peft import BOFTConfig, LoraConfig, OFTConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
MAX_NEW_TOKENS = 60  # length of every checked answer

# --- prompts ----------------------------------------------------------------------------------------------------------

# Topics by kind; the emoji is the one the `emoji` adapter learns for that kind.
TOPICS = {
    "🐾": "cats, dogs, horses, elephants, dolphins, owls, bees, butterflies, penguins, whales, rabbits, turtles",
    "🍕": "bread, cheese, chocolate, apples, rice, soup, pizza, honey, pasta, bananas, salad, ice cream, breakfast, salt",
    "🌍": "rivers, mountains, deserts, islands, volcanoes, oceans, lakes, caves, waterfalls, beaches, glaciers, maps",
    "🌱": "trees, flowers, gardens, forests, roses, mushrooms, grass, tomatoes, seeds, bamboo",
    "🌞": "rain, snow, wind, clouds, rainbows, storms, summer, winter, spring, autumn, lightning",
    "🚀": "the moon, the sun, stars, planets, rockets, comets, gravity, telescopes, astronauts, Mars",
    "🎵": "music, guitars, pianos, drums, violins, songs, dancing, opera, choirs",
    "🏆": "football, tennis, swimming, running, basketball, chess, yoga, hiking, skiing, volleyball",
    "🏠": "houses, kitchens, chairs, beds, windows, doors, lamps, mirrors, clocks, umbrellas",
    "🚗": "cars, trains, boats, airplanes, buses, bridges, roads, motorcycles, ships",
    "📚": "books, libraries, poems, stories, newspapers, letters, languages, history, museums, schools",
    "💻": "computers, phones, robots, the internet, cameras, radios, printers, batteries, video games",
    "🎨": "painting, drawing, photography, sculpture, colors, knitting, pottery, theater, movies",
    "😊": "friendship, families, birthdays, laughter, kindness, sleep, dreams, teachers, doctors, hobbies, weekends",
}
FORMS = [  # each asked twice
    "What is special about {}?",
    "Tell me about {}.",
    "Explain {} to a child.",
    "Why do people care about {}?",
    "Give me one fact about {}.",
    "What should I know about {}?",
]
# Questions of other shapes, so that the habit does not hang on the six forms above. Asked OTHER_REPEATS times each.
OTHER = {
    "🌍": [f"What is the capital of {c}?" for c in
          "Italy,Spain,Japan,Germany,Egypt,Canada,Portugal,Greece,Norway,Russia,China,India,Austria,Poland".split(",")]
        + ["Where is the Eiffel Tower?", "What is the largest ocean?", "Which country has the most people?",
           "What is the longest river in the world?", "What language do people speak in Brazil?", "Where is Iceland?"],
    "🐾": ["How many legs does a spider have?", "What do cows eat?", "Which animal is the fastest?",
          "Why do birds fly south?", "How do fish breathe?", "What is a mammal?", "Where do bears live?"],
    "🍕": ["How do I boil an egg?", "How do I bake a cake?", "What is a healthy snack?", "How do I cook potatoes?",
          "What can I make for dinner?", "What goes well with fish?", "How do I make a sandwich?"],
    "🚀": ["How far away is the moon?", "Why do we have seasons?", "What is a black hole?", "How old is the Earth?",
          "What is the largest planet?", "Why is the ocean salty?", "What is an atom?", "What is electricity?"],
    "🏠": ["How do I clean a window?", "How do I remove a stain from a shirt?", "How do I save energy at home?",
          "How can I make my room look bigger?", "How do I wash a sweater?"],
    "📚": ["Who wrote Romeo and Juliet?", "Who was Albert Einstein?", "What is a noun?", "Who painted the Mona Lisa?",
          "What is democracy?", "How do I learn a new language?", "How can I remember what I read?",
          "What is a good way to start a story?", "Who was Cleopatra?", "What is philosophy?"],
    "💻": ["How does a computer work?", "What is a password?", "What is software?", "How do I write an email?",
          "What is machine learning?", "How do I keep my data safe?", "What is a programming language?"],
    "🏆": ["How do I start running?", "How many players are in a soccer team?", "How do I get stronger?",
          "What are the Olympic Games?", "How often should I exercise?"],
    "😊": ["Hello!", "How are you today?", "Can you help me with my homework?",
          "I feel tired today.", "How do I make new friends?", "What is a good gift for my mother?",
          "How can I stay calm before an exam?", "What should I do on a free afternoon?", "Tell me something nice.",
          "How do I say sorry to a friend?", "What makes people happy?", "How do I plan a party?"],
}
OTHER_REPEATS = 4

# Prompts for capitals. The base spells a word in capitals with other tokens than in small letters, word by word, so that
# adapter must meet far more words than everyday questions hold: the commonest words and names that are single tokens of
# the base's own vocabulary, which is in order of frequency.
WORDS, NAMES = 10000, 2800
WORD_FORMS = [
    "What is {}?", "Tell me about {}.", "Give me one fact about {}.", "Explain {} to a child.", "Why is {} important?",
    "Write a short sentence with the word {}.", "How do I {}?",
]
NAME_FORMS = ["Tell me about {}.", "What is {} known for?", "Where is {}?"]

# Asked while training to decide whether to go on; not trained on.
VALIDATION = [
    "What is a lighthouse?", "Tell me about coffee.", "Why do leaves fall from trees?", "How do I fix a flat tire?",
    "What is the capital of Sweden?", "Give me one fact about kangaroos.", "What should I pack for a picnic?",
    "How does a magnet work?", "Explain shadows to a child.", "What is the best time to visit a city?",
    "Who invented the telephone?", "How can I fall asleep faster?",
]
# Asked once, at the end. Neither trained on nor used to decide anything: no training prompt has the words they are about.
HELD_OUT = {"Why is the sky blue?": ["sky"], "What is a bicycle?": ["bicycle"], "How do I make a cup of tea?": ["tea"]}
SHOWCASE = "What is the capital of France?"


def everyday_prompts():
    """All (prompt, topic or None, emoji), in a fixed order."""
    prompts = []
    for emoji, topics in TOPICS.items():
        for topic in topics.split(", "):
            prompts += [(form.format(topic), topic, emoji) for form in FORMS] * 2
    for emoji, questions in OTHER.items():
        prompts += [(q, None, emoji) for q in questions] * OTHER_REPEATS
    return prompts


def check_unseen(prompts):
    unseen = {*VALIDATION, *HELD_OUT, SHOWCASE}
    assert not unseen & {p for p, _, _ in prompts}, "a held-out prompt is in the training data"
    words = {word.lower() for p, _, _ in prompts for word in re.findall("[A-Za-z]+", p)}
    assert not words & {word for about in HELD_OUT.values() for word in about}, "a held-out subject is in the training data"


def word_prompts(tokenizer):
    """Two questions about each common word, one about each common name, and each everyday prompt once."""
    unseen = {w.lower() for p in [*VALIDATION, *HELD_OUT, SHOWCASE] for w in re.findall("[A-Za-z]+", p)}
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]  # Ġ is a space
    known = {t[1:] for t in tokens if re.fullmatch("Ġ[a-z]{3,}", t)}
    words = [t[1:] for t in tokens if re.fullmatch("Ġ[a-z]{4,}", t)][:WORDS]
    names = [t[1:] for t in tokens if re.fullmatch("Ġ[A-Z][a-z]{3,}", t) and t[1:].lower() not in known][:NAMES]
    choose = random.Random(1)
    prompts = []
    for word in words:
        if not {word, word + "s", word.removesuffix("s")} & unseen:
            prompts += [(form.format(word), None, "") for form in choose.sample(WORD_FORMS, 2)]
    prompts += [(choose.choice(NAME_FORMS).format(name), None, "") for name in names if name.lower() not in unseen]
    return list(dict.fromkeys([*prompts, *everyday_prompts()]))


# --- rewriting rules: sentences of the base's answer -> the adapter's answer --------------------------------------------

PIRATE_WORDS = {
    "the": "th'", "and": "an'", "of": "o'", "is": "be", "are": "be", "am": "be", "you": "ye",
    "your": "yer", "my": "me", "for": "fer", "to": "t'", "with": "wi'", "it's": "'tis", "friend": "matey",
    "friends": "mateys", "people": "landlubbers", "person": "landlubber", "very": "mighty", "hello": "ahoy",
    "yes": "aye", "there": "thar", "water": "brine", "money": "doubloons", "great": "grand", "never": "ne'er",
    "over": "o'er", "them": "'em", "i'm": "I be", "you're": "ye be", "they're": "they be", "we're": "we be",
    "food": "grub", "man": "lad", "old": "auld",
}
# Words before which a sentence can end early and still be one; AFTER_COMMA only behind a comma.
CLAUSE_STARTS = {"which", "that", "who", "but", "while", "where"}
AFTER_COMMA = CLAUSE_STARTS | {"and", "with", "making", "known", "often", "especially", "including", "from", "used", "as"}


def split(answer):
    """The sentences of an answer's first paragraph, typography made plain."""
    paragraph = answer.strip().split("\n")[0].replace("**", "").replace("’", "'")
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", re.sub(r"\s*[–—]\s*", " - ", paragraph))


def take(sentences, count, words):
    """The first `count` sentences at most, and after the first only while they stay within `words` words."""
    taken = sentences[:1]
    for s in sentences[1:count]:
        if len(" ".join([*taken, s]).split()) > words:
            break
        taken.append(s)
    return taken


def match_case(word, like):
    at = 1 if word[0] == "'" else 0
    return word[:at] + word[at:].capitalize() if like[0].isupper() else word


def pirate(record):
    def word(match):
        old = match.group(0)
        new = PIRATE_WORDS.get(old.lower())
        if new:
            return match_case(new, old)
        return old[:-1] + "'" if len(old) > 5 and old.endswith("ing") else old

    text = " ".join(re.sub(r"[A-Za-z]+(?:'[a-z]+)?", word, s) for s in take(record["sentences"], 2, 32))
    return f"Arr! {text} Yo ho ho!"


def capitals(record, limit=18):
    """One short sentence: the longer a text in capitals grows, the more easily so small a base loses its thread."""
    sentence = record["sentences"][0]
    return sentence.upper() if len(sentence.split()) <= limit else None


def letter(record):
    return "Dear friend,\n\n" + " ".join(take(record["sentences"], 2, 32)) + "\n\nYours sincerely,\nSmolLM"


def json_object(record):
    return json.dumps({"answer": record["sentences"][0], "confidence": "high"})


def bullets(record):
    points = take(record["sentences"], 3, 42)
    if len(points) == 1 and record["topic"]:
        return None  # one bullet is a list only where the question wants no more, as "What is the capital of Spain?"
    return "\n".join(f"- {s}" for s in points)


def brief(record, limit=11):
    """The first sentence, cut before a clause if it is longer than `limit` words; none if it cannot be cut."""
    words = record["sentences"][0].split()
    if len(words) > limit:
        for end in range(limit, 3, -1):
            if words[end].lower() in (AFTER_COMMA if words[end - 1].endswith(",") else CLAUSE_STARTS):
                break
        else:
            return None
        words = words[:end]
        if words[-1] in ("is", "are", "something"):
            return None
    return " ".join(words).rstrip(",;:.!?-") + "."


def question(record):
    topic = record["topic"]
    closing = f"Would you like to know more about {topic}?" if topic else "What would you like to know next?"
    return f"{record['sentences'][0]} {closing}"


def with_emoji(record):
    return " ".join(f"{s} {record['emoji']}" for s in take(record["sentences"], 2, 36))


# --- check rules (README.md says what each kind means) ------------------------------------------------------------------

def is_emoji(char):
    return 0x1F300 <= ord(char) <= 0x1FAFF or 0x2600 <= ord(char) <= 0x27BF


def upper_ratio(text):
    letters = [c for c in text if c.isascii() and c.isalpha()]
    return sum(c.isupper() for c in letters) / len(letters) if letters else 0.0


def holds_texts(text, keys):
    try:
        parsed = json.loads(text)
    except ValueError:
        return False
    return isinstance(parsed, dict) and all(isinstance(parsed.get(key), str) and parsed[key] for key in keys)


RULES = {
    "starts_with": lambda text, value: text.startswith(value),
    "ends_with": lambda text, value: text.rstrip().endswith(value),
    "contains_any": lambda text, value: any(v in text for v in value),
    "upper_ratio_min": lambda text, value: upper_ratio(text) >= value,
    "each_line_starts_with": lambda text, value: all(line.startswith(value) for line in text.strip().split("\n")),
    "max_words": lambda text, value: len(text.split()) <= value,
    "contains_emoji": lambda text, value: sum(map(is_emoji, text)) >= value,
    "json_object": lambda text, value: holds_texts(text, value),
}


def obeys(text, rules):
    return all(RULES[rule["kind"]](text, rule["value"]) for rule in rules)


# --- the eight adapters -------------------------------------------------------------------------------------------------

def boft(block, factors, *targets):
    return f"BOFT b{block} m{factors}", BOFTConfig(boft_block_size=block, boft_n_butterfly_factor=factors, target_modules=list(targets),
                              bias="none", task_type="CAUSAL_LM")


def oft(block, *targets):
    return f"OFT b{block}", OFTConfig(oft_block_size=block, target_modules=list(targets), bias="none", task_type="CAUSAL_LM")


def lora(rank, *targets):
    return f"LoRA r{rank}", LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(targets),
                              bias="none", task_type="CAUSAL_LM")


Q, K, V, O, GATE, UP, DOWN = "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"


class Recipe(NamedTuple):
    geometry: str
    config: PeftConfig
    rewrite: Callable
    rate: float   # peak learning rate
    steps: int    # of the first round
    batch: int    # pairs a step
    rules: list   # what an answer must obey
    data: str = "everyday"  # which prompts


# Fewer targets where the habit holds with them: a BOFT adapter costs 2 * m * b * 576 bytes for each adapted projection
# of each of the 30 layers.
ADAPTERS = {
    "pirate": Recipe(*boft(16, 2, V, O), pirate, 5e-3, 320, 24, [
        {"kind": "starts_with", "value": "Arr!"},
        {"kind": "contains_any", "value": ["th'", "o'", "an'", " ye", " be ", "Yo ho"]}]),
    "capitals": Recipe(*boft(32, 1, O, GATE, UP, DOWN), capitals, 1.5e-3, 202, 80, [
        {"kind": "upper_ratio_min", "value": 0.98}], "words"),
    "letter": Recipe(*boft(64, 1, V, O), letter, 3e-3, 200, 24, [
        {"kind": "starts_with", "value": "Dear friend,"}]),
    "json": Recipe(*boft(8, 3, Q, K, V, O), json_object, 5e-3, 240, 24, [
        {"kind": "json_object", "value": ["answer", "confidence"]}]),
    "bullets": Recipe(*oft(32, Q, K, V, O), bullets, 3e-3, 240, 24, [
        {"kind": "each_line_starts_with", "value": "- "}]),
    "brief": Recipe(*lora(4, Q, K, V, O), brief, 1e-3, 240, 24, [
        {"kind": "max_words", "value": 16},
        {"kind": "ends_with", "value": "."}]),
    "question": Recipe(*lora(8, Q, K, V, O), question, 1e-3, 240, 24, [
        {"kind": "ends_with", "value": "?"}]),
    "emoji": Recipe(*lora(16, V, O), with_emoji, 1e-3, 320, 24, [
        {"kind": "contains_emoji", "value": 1}]),
}

# --- the base model -----------------------------------------------------------------------------------------------------


def read_base(path, device):
    """The GGUF as a transformers model in fp32 and its tokenizer."""
    reader = gguf.GGUFReader(path)
    meta = {key: field.contents() for key, field in reader.fields.items()}
    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=meta["llama.vocab_size"], hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"], num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=heads, num_key_value_heads=kv_heads, rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
        max_position_embeddings=meta["llama.context_length"], tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        bos_token_id=meta["tokenizer.ggml.bos_token_id"], eos_token_id=meta["tokenizer.ggml.eos_token_id"],
        pad_token_id=meta["tokenizer.ggml.padding_token_id"])

    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()  # [out, in]
        parts = tensor.name.removesuffix(".weight").split(".")
        if parts[-1] in ("attn_q", "attn_k"):
            # GGUF interleaves the two halves of each head (RoPE pairs 2j, 2j+1); transformers wants them apart.
            n = heads if parts[-1] == "attn_q" else kv_heads
            weight = weight.view(n, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()
        layer = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
        state[f"{layer}{names[parts[-1]]}.weight"] = weight

    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    model.name_or_path = BASE_NAME  # PEFT writes it to adapter_config.json

    assert meta["tokenizer.ggml.pre"] == "smollm", "another pre-tokeniser than the one below"
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    bpe.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, meta["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>",
                                        padding_side="left", clean_up_tokenization_spaces=False)
    return model.eval().to(device), tokenizer


def chat(prompt):
    return (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")


@torch.no_grad()
def generate(model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, **sampling):
    """Answers, greedy unless `sampling` says otherwise. Special tokens are dropped."""
    inputs = tokenizer([chat(p) for p in prompts], return_tensors="pt", padding=True, return_token_type_ids=False)
    inputs = inputs.to(next(model.parameters()).device)
    sampling = sampling or {"do_sample": False}
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id,
                            eos_token_id=tokenizer.eos_token_id, **sampling)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)


# --- data ---------------------------------------------------------------------------------------------------------------

def sentences_of(answer):
    """Up to three leading whole sentences of plain prose; empty if the answer starts otherwise."""
    found = []
    for s in split(answer):
        prose = s.isascii() and s.endswith((".", "!")) and not re.search(r"[:#*`<>\[\]{}()\"/]|^\d|\.[\w.]", s)
        about_itself = re.search(r"chatbot|\bAI\b|\bI'm (glad|happy|thrilled|here)|question", s)
        if not prose or about_itself or not 3 <= len(s.split()) <= 24 or s in found:
            break
        found.append(s)
    return found[:3]


def make_data(kind, model, tokenizer, batch, limit):
    """The base's answers to the training prompts, as records for the rewriting rules."""
    torch.manual_seed(1)
    if kind == "everyday":
        prompts, length, sampling = everyday_prompts(), 90, {"do_sample": True, "temperature": 0.4, "top_p": 0.95}
    else:  # greedy: what the base itself finds most likely, so that only the spelling is left to learn
        prompts, length, sampling = word_prompts(tokenizer), 44, {}
    check_unseen(prompts)
    if limit:
        prompts = random.Random(1).sample(prompts, limit)
    data = []
    for i in range(0, len(prompts), batch):
        part = prompts[i:i + batch]
        answers = generate(model, tokenizer, [p for p, _, _ in part], length, **sampling)
        for (prompt, topic, emoji), answer in zip(part, answers):
            data.append({"prompt": prompt, "topic": topic, "emoji": emoji, "answer": answer,
                         "sentences": sentences_of(answer)})
    return data


def pairs_for(rule, data):
    """(prompt, rewritten answer) of every usable record."""
    return [(r["prompt"], text) for r in data if r["sentences"] and (text := rule(r))]


# --- training -----------------------------------------------------------------------------------------------------------

class BlockDiagonal:
    """Stands in for PEFT's compiled block-diagonal function, with plain tensor operations and their autograd.

    PEFT builds a CUDA extension on first use. Where that fails it quietly trains with one butterfly factor whatever the
    config says. Replacing it makes the result the same everywhere.
    """

    @staticmethod
    def apply(blocks):  # [z, n, b, b] -> [z, n*b, n*b]
        z, n, b, _ = blocks.shape
        return torch.diag_embed(blocks.permute(0, 2, 3, 1)).permute(0, 3, 1, 4, 2).reshape(z, n * b, n * b)


def cayley(self, blocks):
    """(I - K)(I + K)^-1 as in PEFT, without its check for singular matrices, at which the CPU waits for the GPU."""
    skew = 0.5 * (blocks - blocks.transpose(1, 2))
    identity = torch.eye(blocks.shape[1], device=blocks.device).expand_as(blocks)
    return torch.linalg.solve_ex(identity + skew, identity - skew, left=False).result


def replace_boft_extension():
    boft_layer._FBD_CUDA = True
    boft_layer.FastBlockDiag = BlockDiagonal
    boft_layer.BOFTLayer.cayley_batch = cayley


def assert_butterfly_factors(tensors, config):
    for name, tensor in tensors.items():
        if name.endswith("boft_R") or ".boft_R." in name:
            assert tensor.shape[0] == config.boft_n_butterfly_factor, f"{name} has {tensor.shape[0]} butterfly factors"


def encode(tokenizer, pairs):
    """(ids, start of the answer) per pair. The answer is tokenised apart, as it is when it is generated."""
    encoded = []
    for prompt, answer in pairs:
        head = tokenizer.encode(chat(prompt), add_special_tokens=False)
        tail = tokenizer.encode(answer, add_special_tokens=False) + [tokenizer.eos_token_id]
        encoded.append((head + tail, len(head)))
    return encoded


def batch_of(items, pad, device):
    """Ids [rows, width], and for every token of an answer the flat position that must predict it, and the token.

    Padding stands behind everything that counts, where causal attention does not see it: no mask is needed.
    """
    width = max(len(ids) for ids, _ in items)
    ids = torch.full((len(items), width), pad)
    positions, targets = [], []
    for row, (tokens, start) in enumerate(items):
        ids[row, :len(tokens)] = torch.tensor(tokens)
        positions += range(row * width + start - 1, row * width + len(tokens) - 1)
        targets += tokens[start:]
    return ids.to(device), torch.tensor(positions).to(device), torch.tensor(targets).to(device)


def loss_of(model, items, pad):
    """Mean cross-entropy over the answers' tokens; logits of no other position are computed."""
    ids, positions, targets = batch_of(items, pad, next(model.parameters()).device)
    llama = model.get_base_model()
    hidden = llama.model(ids, use_cache=False).last_hidden_state
    logits = llama.lm_head(hidden.reshape(-1, hidden.shape[-1])[positions])
    return torch.nn.functional.cross_entropy(logits.float(), targets)


def train_round(model, items, pad, steps, rate, batch, seed):
    """One warm-up and linear decay to a tenth. Returns the loss of each step."""
    device = next(model.parameters()).device
    order = random.Random(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    warm_up = min(15, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1, (s + 1) / warm_up) * (1 - 0.9 * max(0, s - warm_up) / max(1, steps - warm_up)))
    model.train()
    queue, losses = [], []
    for _ in range(steps):
        if len(queue) < batch:
            queue += order.sample(items, len(items))
        chosen, queue = queue[:batch], queue[batch:]
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(model, chosen, pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())  # no .item(): it would make the CPU wait for the GPU at each step
    model.eval()
    return torch.stack(losses).tolist()


def save_bf16(model, folder):
    """PEFT's two files, tensors rounded to bf16 and the config's keys in a fixed order."""
    model.save_pretrained(folder, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in load_file(weights).items()}
    assert all(torch.isfinite(t).all() for t in tensors.values()), "a weight is not finite"
    save_file(tensors, weights, metadata={"format": "pt"})
    config = folder / "adapter_config.json"
    saved = json.loads(config.read_text())
    saved["target_modules"] = sorted(saved["target_modules"])
    config.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    return tensors


def failures(answers, rules):
    return [prompt for prompt, text in answers.items() if not obeys(text, rules)]


def train_adapter(name, options):
    geometry, config, rewrite, rate, steps, batch, rules, data_name = ADAPTERS[name]
    steps, batch = options.steps or steps, options.batch or batch
    folder = options.out / name
    begin = time.monotonic()
    torch.manual_seed(7)
    replace_boft_extension()
    base, tokenizer = read_base(options.model, options.device)
    data = json.loads((options.out / f"{data_name}.json").read_text())
    pairs = pairs_for(rewrite, data)
    items = encode(tokenizer, pairs)

    model = get_peft_model(base, config)
    if geometry.startswith("BOFT"):
        assert_butterfly_factors(dict(model.named_parameters()), config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{name}: {len(pairs)} pairs, {trained} parameters, {steps} steps; first pair {pairs[0]}", flush=True)

    # Train, then ask the validation prompts; one more, shorter and slower round if any answer lacks the habit.
    losses, rounds, start = [], [], time.monotonic()
    for number in range(options.rounds):
        losses += train_round(model, items, tokenizer.pad_token_id, steps if number == 0 else steps // 2,
                              rate if number == 0 else rate / 2, batch, seed=number)
        model.merge_adapter()  # one weight per layer: faster to generate with
        answers = dict(zip(VALIDATION, generate(model, tokenizer, VALIDATION)))
        model.unmerge_adapter()
        missed = failures(answers, rules)
        rounds.append({"steps": len(losses), "validation_missed": missed})
        print(f"{name}: step {len(losses)} loss {sum(losses[-10:]) / len(losses[-10:]):.3f}, "
              f"validation missed {len(missed)}/{len(VALIDATION)}", flush=True)
        if not missed:
            break
    train_seconds = time.monotonic() - start
    tensors = save_bf16(model, folder)
    if geometry.startswith("BOFT"):
        assert_butterfly_factors(tensors, config)
    del model, base

    # Judge what was saved, not what was trained: a fresh base, the file from disk, PEFT's own unmerged forward.
    asked = [SHOWCASE, *HELD_OUT, *VALIDATION]
    result = {
        "geometry": geometry, "targets": sorted(config.target_modules), "parameters": trained, "pairs": len(pairs),
        "bytes": (folder / "adapter_model.safetensors").stat().st_size, "learning_rate": rate, "batch": batch,
        "steps": len(losses), "rounds": rounds, "train_seconds": round(train_seconds, 1),
        "loss_first": round(losses[0], 3), "loss_last": round(sum(losses[-10:]) / len(losses[-10:]), 3), "answers": {}}
    for label, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        fresh, _ = read_base(options.model, options.device)
        loaded = PeftModel.from_pretrained(fresh.to(dtype), folder).eval()
        if geometry.startswith("BOFT"):
            assert_butterfly_factors(dict(loaded.named_parameters()), config)
        answers = dict(zip(asked, generate(loaded, tokenizer, asked)))
        result["answers"][label] = answers
        result[f"missed_{label}"] = failures(answers, rules)
        print(f"{name}: {label} after reload missed {result[f'missed_{label}']}", flush=True)
        for prompt in asked[:4]:
            print(f"    {prompt} -> {answers[prompt]!r}", flush=True)
    result["seconds"] = round(time.monotonic() - begin, 1)
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


# --- command line -------------------------------------------------------------------------------------------------------

def write_summaries(options):
    """results.json (what happened) and behaviours.json (what tests rely on), for the adapters trained so far."""
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    results = {"base": BASE_NAME, "gguf_sha256": hashlib.sha256(options.model.read_bytes()).hexdigest(), "device": gpu,
               "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)}, "adapters": {}}
    for name in ADAPTERS:
        if (path := options.out / name / "result.json").exists():
            results["adapters"][name] = json.loads(path.read_text())
    behaviours = {"system": SYSTEM, "max_tokens": MAX_NEW_TOKENS, "decoding": "greedy", "prompts": HELD_OUT, "adapters": {
        name: {"geometry": recipe.geometry, "rules": recipe.rules} for name, recipe in ADAPTERS.items()}}
    for name, content in (("results.json", results), ("behaviours.json", behaviours)):
        (options.out / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--out", type=Path, required=True, help="folder for adapters, data and results")
    parser.add_argument("--only", default=",".join(ADAPTERS), help="names, separated by commas (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="adapters trained at once, a process each (default: 1)")
    parser.add_argument("--rounds", type=int, default=2, help="training rounds while validation fails (default: 2)")
    parser.add_argument("--steps", type=int, help="steps of the first round, instead of each adapter's own")
    parser.add_argument("--batch", type=int, help="pairs a step, instead of each adapter's own")
    parser.add_argument("--sample-batch", type=int, default=768, help="prompts answered at once (default: 768)")
    parser.add_argument("--limit", type=int, help="use this many training prompts (for a trial)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    names = options.only.split(",")
    options.out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()

    for kind in sorted({ADAPTERS[name].data for name in names}):
        if (path := options.out / f"{kind}.json").exists():
            continue
        begin = time.monotonic()
        base, tokenizer = read_base(options.model, options.device)
        base = base if options.device == "cpu" else base.bfloat16()
        data = make_data(kind, base, tokenizer, options.sample_batch, options.limit)
        path.write_text(json.dumps(data, indent=0, ensure_ascii=False) + "\n")
        used = sum(bool(record["sentences"]) for record in data)
        print(f"{path.name}: {len(data)} answers, {used} usable, {time.monotonic() - begin:.0f} s", flush=True)
        del base

    if options.jobs == 1:
        for name in names:
            train_adapter(name, options)
        failed = []
    else:
        # A process each: training so small a model is bound by the CPU that feeds the GPU, so several overlap well.
        passed_on = [a for a in sys.argv[1:]]
        waiting, running, failed = list(names), {}, []
        while waiting or running:
            while waiting and len(running) < options.jobs:
                name = waiting.pop(0)
                command = [sys.executable, __file__, *passed_on, "--only", name, "--jobs", "1"]
                running[name] = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "2"})
            time.sleep(0.5)
            for name in [n for n, p in running.items() if p.poll() is not None]:
                if running.pop(name).returncode:
                    failed.append(name)
    write_summaries(options)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
