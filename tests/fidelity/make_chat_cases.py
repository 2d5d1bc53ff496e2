#!/usr/bin/env python3
"""Makes tests/fixtures/chat_templates.json with Jinja, as transformers runs it (pip install jinja2): small templates of each
family and variant, conversations, and the text each gives. Run from the repository root."""
import json
import pathlib

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHATML_TURNS = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
SPLIT_SYSTEM = ("{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system_message = messages[0]['content'] %}"
                "{% else %}{% set turns = messages %}SET{% endif %}")
LLAMA2_TURNS = ("{% for m in turns %}{% if loop.first and system_message %}{% set text = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
                "m['content'] %}{% else %}{% set text = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
                "{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
LLAMA3_TURN = "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
LLAMA3_END = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"


def mistral(open_, close, answer, condition):
    return ("{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set turns = messages[1:] %}"
            "{%- else %}{%- set turns = messages %}{%- endif %}{{- bos_token }}{%- for m in turns %}{%- if m['role'] == 'user' %}"
            "{%- if " + condition + " and system_message is defined %}{{- '" + open_ + "' + system_message + '\\n\\n' + m['content'] + '" + close + "' }}"
            "{%- else %}{{- '" + open_ + "' + m['content'] + '" + close + "' }}{%- endif %}{%- else %}{{- " + answer + " }}{%- endif %}{%- endfor %}")


TEMPLATES = {
    "ChatML": CHATML_TURNS,
    "ChatML with a default in one literal":
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a test.<|im_end|>\\n' }}{% endif %}" + CHATML_TURNS,
    "ChatML with a default over two lines":
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a test.<|im_end|>\n' }}{% endif %}" + CHATML_TURNS,
    "ChatML with a quoted default in a variable":
        SPLIT_SYSTEM.replace("SET", "{% set system_message = \"You're \\\"kind\\\".\" %}") +
        "{{ '<|im_start|>system\\n' + system_message + '<|im_end|>\\n' }}" + CHATML_TURNS.replace("in messages", "in turns"),
    "ChatML with BOS": "{{ bos_token }}" + CHATML_TURNS,
    "ChatML with tools":
        "{%- if tools %}{{- '<|im_start|>system\\n' }}{{- 'Not this one.' }}{{- '<|im_end|>\\n' }}{%- elif messages[0]['role'] == 'system' %}"
        "{%- else %}{{- '<|im_start|>system\\nYou are a test.<|im_end|>\\n' }}{%- endif %}" + CHATML_TURNS,
    "Llama-2": SPLIT_SYSTEM.replace("SET", "{% set system_message = false %}") + LLAMA2_TURNS,
    "Llama-2 with a default that is switched off":
        SPLIT_SYSTEM.replace("{% else %}", "{% elif false == true %}{% set turns = messages %}{% set system_message = 'Never.' %}{% else %}")
        .replace("SET", "{% set system_message = false %}") + LLAMA2_TURNS,
    "Llama-3": "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}" + LLAMA3_TURN + "{% endfor %}" + LLAMA3_END,
    "Llama-3 with dates":
        "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = \"26 Jul 2024\" %}{%- endif %}"
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set turns = messages[1:] %}"
        "{%- else %}{%- set system_message = \"\" %}{%- set turns = messages %}{%- endif %}"
        "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}{{- \"Cutting Knowledge Date: December 2023\\n\" }}"
        "{{- \"Today Date: \" + date_string + \"\\n\\n\" }}{{- system_message }}{{- \"<|eot_id|>\" }}"
        "{%- for m in turns %}" + LLAMA3_TURN + "{%- endfor %}" + LLAMA3_END,
    "Mistral 0.1": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
                   "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token + ' ' }}{% else %}{{ raise_exception('roles') }}{% endif %}{% endfor %}",
    "Mistral 0.2": mistral(" [INST] ", " [/INST]", "' ' + m['content'] + eos_token", "loop.first"),
    "Mistral 0.3": mistral("[INST] ", "[/INST]", "' ' + m['content']|trim + eos_token", "loop.last"),
}
CONVERSATIONS = [
    [("user", "Hi there")],
    [("system", "Be brief."), ("user", " What is 2+2? ")],
    [("user", "a"), ("assistant", " b "), ("user", "c\n")],
    [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "<s>c</s><|im_end|>")],
]


def raise_exception(message):
    raise TemplateError(message)


def main():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.globals["raise_exception"] = raise_exception
    cases = []
    for name, source in TEMPLATES.items():
        bos, eos = ("", "") if "ChatML" in name else ("<|begin_of_text|>", "") if "Llama-3" in name else ("<s>", "</s>")
        for turns in CONVERSATIONS:
            messages = [{"role": r, "content": c} for r, c in turns]
            try:
                text = env.from_string(source).render(messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos)
            except TemplateError:
                continue
            cases.append({"name": name, "template": source, "messages": messages, "text": text})
    rows = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    pathlib.Path("tests/fixtures/chat_templates.json").write_text("[" + rows + "]\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
