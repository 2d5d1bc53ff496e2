#!/usr/bin/env python3
"""Makes tests/fixtures/chat_templates.json with transformers itself (pip install transformers==5.17.0 tokenizers jinja2): the
texts that apply_chat_template gives for the templates in tests/fixtures/chat_templates and for small ones of each feature of
the language below. Run from the repository root. With a folder as argument it writes the cases of that folder's templates to
standard output instead, for templates whose licence keeps them out of the repository.
"""
import datetime
import json
import pathlib
import sys

import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

ROOT = pathlib.Path("tests/fixtures")
CONVERSATIONS = [
    [("user", "Hi there")],
    [("system", "Be brief."), ("user", " What is 2+2? ")],
    [("user", "a"), ("assistant", " b "), ("user", "c\n")],
    [("system", "Sé «bref» 🙂\n\nNow."), ("user", "日本語\t<s>c</s><|im_end|>"), ("assistant", "<think>\nhm\n</think>\n\nÄ 1"),
     ("user", "e\u0301 \"quoted\" \\ 'text' {{ x }} {% y %}"), ("assistant", "ok"), ("user", "end")],
    [("user", "roles"), ("user", "out of turn")],
]
FEATURES = r"""
{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }}:{{ m.role }};{% endfor %}
{% for m in messages -%}   {{ m['content'] }}   {%- endfor %}|
a  {%- if true %} b {%+ endif -%}   c
{# comment #}x{#- and -#}   y
{% raw %}{{ not }} {% this %}{% endraw %}{{ 1 }}
{% raw -%}   z   {%- endraw %}
{{ messages[0].content | trim | upper }}{{ messages[-1]['content'][1:3] }}{{ messages[0].content[::-1] }}
{{ messages[1:] | length }}{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages | rejectattr('role', '==', 'user') | map(attribute='content') | list }}
{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s ~ m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.s }}
{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{% endfor %}{{ x }}{% if true %}{% set x = 5 %}{% endif %}{{ x }}
{% macro f(a, b='B') %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}
{% macro f(a) %}{{ a }}{{ caller() }}{% endmacro %}{% call f('x') %}inner{% endcall %}{% call(u) f('y') %}in{% endcall %}
{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 'a', k=2) }}
{% macro outer() %}{{ late }}{% endmacro %}{% set late = 'seen' %}{{ outer() }}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% else %}none{% endfor %}
{% for x in [] %}{{ x }}{% else %}empty{% endfor %}{% for a, b in {'k': 1, 'l': 2}.items() %}{{ a }}{{ b }}{% endfor %}
{% for i in range(6) if i % 2 %}{{ loop.index }}{{ i }}{{ loop.previtem | default('-') }}{{ loop.cycle('o', 'e') }}{% endfor %}
{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1.5 + 1 }} {{ -2 ** 2 }} {{ 1e20 }} {{ 1e-7 }} {{ 3.0 }} {{ 0.1 + 0.2 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ [0] * 3 }} {{ (1, 2) }} {{ (1,) }} {{ () }} {{ {'a': [1, none]} }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' in 'cat' }} {{ 'x' not in ['y'] }} {{ 'k' in {'k': 1} }} {{ 1 == 1.0 }} {{ true == 1 }} {{ [1] == [1] }} {{ 'a' < 'b' }}
{{ not true or true and false }} {{ 0 or 'x' }} {{ 'y' and 'z' }} {{ 'if' if false }} {{ 'a' if 1 else 'b' }} {{ 'a' if 0 else 'b' if 0 else 'c' }}
{{ nothing }}{{ nothing is defined }}{{ nothing | default('d') }}{{ none | default('d') }}{{ '' | default('d', true) }}{{ messages[99] is undefined }}
{{ 1 is number }}{{ true is number }}{{ 'a' is string }}{{ [] is sequence }}{{ {} is mapping }}{{ [] is iterable }}{{ none is none }}{{ true is boolean }}{{ 1 is boolean }}{{ 1 is integer }}{{ 1.0 is float }}
{{ true is true }}{{ 1 is true }}{{ false is false }}{{ 3 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 1 is not string }}{{ 'a' is in 'abc' }}{{ 2 is eq 2 }}{{ 3 is gt 2 }}{{ 'A' is upper }}{{ 'A' is lower }}{{ none is sameas none }}
{{ '  a b  ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 'hello wORLD-foo (bar)' | title }}|{{ 'hELLO' | capitalize }}|{{ 'ÄÖß' | lower }}|{{ 'äöß' | upper }}
{{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c d'.split(' ', 2) }} {{ 'a b  c d '.split(none, 2) }} {{ 'a.b.c'.rsplit('.', 1) }} {{ ''.split() }} {{ 'a\nb\r\nc'.splitlines() }}
{{ 'abc'.startswith('a') }}{{ 'abc'.startswith(('x', 'ab')) }}{{ 'abc'.endswith('c') }}{{ 'abcabc'.replace('b', 'X') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'abc'.find('c') }}{{ 'abc'.find('z') }}{{ 'abab'.rfind('b') }}{{ 'aab'.count('a') }}
{{ ' x '.strip() }}|{{ ' x '.lstrip() }}|{{ ' x '.rstrip() }}|{{ 'xyx'.strip('x') }}|{{ 'hello world'.title() }}|{{ "they're".title() }}|{{ 'aB'.upper() }}{{ 'aB'.lower() }}{{ 'ab'.capitalize() }}{{ '-'.join(['a', 'b']) }}
{{ 'ab'.isalpha() }}{{ '12'.isdigit() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ 'AB'.isupper() }}{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}{{ 'ab'.removeprefix('a') }}{{ 'ab'.removesuffix('b') }}
{{ '{} and {}'.format(1, 'x') }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{n}'.format(n=3) }} {{ '{{}}'.format() }} {{ '%s=%d %.2f%%' % ('a', 3, 1.005) }} {{ '%s' % 'x' }} {{ '%s-%s' | format(1, 2) }}
{{ {'b': 1, 'a': 2} | dictsort }} {{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A'] | sort(reverse=true) }} {{ ['a', 'A', 'b'] | unique | list }} {{ [1, 2, 3] | sum }} {{ [1, 5, 2] | max }}{{ ['b', 'a'] | min }}
{{ [1, 2, 3] | first }}{{ [1, 2, 3] | last }}{{ [] | first is defined }}{{ 'abc' | list }}{{ 'abc' | reverse }}{{ [1, 2] | reverse | list }}{{ {'a': 1} | list }}{{ {'a': 1} | items | list }}{{ 'abc' | length }}{{ 'añ🙂' | length }}{{ 'añ🙂'[1] }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 42 | round }} {{ -3 | abs }} {{ '3' | int + 1 }} {{ '3.7' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ '1.5' | float }} {{ 3.9 | int }} {{ 5 | string + '!' }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(1, blank=true) }}|{{ 'a\nb' | indent('>') }}
{{ {'a': [1, 2.5, none, true], 'b': {'c': 'é"\\\n\u0001/<&>'}} | tojson }}{{ [] | tojson }}{{ 'x' | tojson }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}{{ ['é🙂'] | tojson(ensure_ascii=true) }}
{{ {'a': [1, {'b': 2}], 'c': [], 'd': {}} | tojson(indent=2) }}{{ [1, 2] | tojson(separators=(',', ':')) }}
{{ messages[0] | tojson }}{{ messages[0] }}{{ messages[0].content | string }}{{ [messages[0].content, "it's", 'a"b', "b'\"c", 'é\x00\u200b'] }}
{{ [1, 2, 3, 4] | select('odd') | list }}{{ [1, 2, 3] | reject('greaterthan', 1) | list }}{{ ['a', 'b'] | map('upper') | join }}{{ [[1, 2], [3]] | map('length') | list }}{{ [{'a': {'b': 1}}] | map(attribute='a.b') | list }}{{ [{}] | map(attribute='x', default='-') | list }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }}{{ [1, 2, 3] | batch(2, 0) | list }}{{ [{'g': 1, 'v': 2}, {'g': 1, 'v': 3}] | groupby('g') | length }}
{% for g, vs in [{'g': 2, 'v': 2}, {'g': 1, 'v': 3}, {'g': 2, 'v': 4}] | groupby('g') %}{{ g }}:{{ vs | map(attribute='v') | join(',') }};{% endfor %}
{% if messages | selectattr('role', 'equalto', 'nobody') %}generators are true{% endif %}{% if messages | selectattr('role', 'equalto', 'nobody') | list %}no{% endif %}
{% set block %}  in {{ 1 + 1 }} {% endset %}[{{ block }}]{% set b | upper | trim %} x {% endset %}[{{ b }}]{% filter upper | replace('A', 'o') %}abc{% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% set a, b = (1, 2) %}{{ a }}{{ b }}{% set d = dict(x=1, y='z') %}{{ d.x }}{{ d['y'] }}{{ d.get('q', 'w') }}{{ d.get('q') }}{{ d.keys() | list }}{{ d.values() | list }}
{% generation %}{{ messages[0].content }}{% set hidden = 1 %}{% endgeneration %}{{ hidden }}
{% if not (messages[0].role == 'system' and messages[0].content is string) %}A{% elif messages[0]['nothing'] is not defined %}B{% else %}C{% endif %}
{{ 'esc\'aped "x" \\ \t \x41 \u00e9 \q' }}{{ "adj" "acent" }}{{ 1_000 }}{{ [1, 2, 3,] }}{{ {'a': 1,} }}
{{ range(3) | list }}{{ range(1, 8, 3) | list }}{{ range(3, 0, -1) | list }}{{ [1, 2, 3][::2] }}{{ [1, 2, 3][-2:] }}{{ [1, 2, 3][5:] }}{{ 'abc'[-1] }}{{ 'abcdef'[4:1:-1] }}
{{ strftime_now('%Y-%m-%d') }}{{ strftime_now("%d %b %Y") }}{{ tools }}{{ tools is none }}{{ documents is none }}{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}
{{ (messages | length) if messages is defined and messages is not none else 0 }}{{ messages and messages[0] and messages[0].role }}
{{ 'a' 'b' | upper }}{{ -1 | abs }}{{ (-1) | abs }}{{ 'x' ~ 'y' | upper }}{{ (1 + 2) ~ 3 }}{{ 2 * 3 ~ 4 }}{{ not 'a' == 'b' }}
{{ messages[0]['content'].split('h')[0] | trim ~ '|' ~ messages[0].content.split('h') | last }}{{ 'a.b'.split('.') | first | upper }}
   {% if true %}
  kept
   {% endif %}
  {%- for m in messages %}
    {{- m.role }}
  {%- endfor %}

{{ [1, [2, 3]] | tojson }}{{ {'x': (1, 2)} | tojson }}{{ 'wide' | center(10) }}|{{ 'a b c' | wordcount }}{{ [true, false] | sum }}{{ 'x' | safe }}{{ 10 | float }}
{{ undefined_thing.attribute }}
{{ [1, 2] < ['a'] }}
{{ raise_exception('words ' ~ 'of the template') }}
{{ 'a' + 1 }}
{{ missing + 'a' }}
{{ {}.append(1) }}{{ [].append(1) }}
{{ ''.__class__.__mro__ }}
{{ range(1000000) | list }}
{{ messages | length() + none | length }}
{{ namespace(a=1).b is defined }}{% set messages.x = 1 %}
""".strip("\n")


def lines_of_features():
    """One template a line, but for the block of indented lines, which is one."""
    block = []
    for line in FEATURES.split("\n"):
        if line.startswith(" ") or (block and not line):
            block.append(line)
            continue
        if block:
            yield "\n".join(block)
            block = []
        yield line


def tokenizer_with(source, bos, eos):
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=bos, eos_token=eos)
    made.chat_template = source
    return made


ENDS = {"llama-3": ("<|begin_of_text|>", "<|eot_id|>"), "Llama-3": ("<|begin_of_text|>", "<|eot_id|>"),
        "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), "gemma": ("<bos>", "<eos>"), "gpt-oss": ("<|startoftext|>", "<|return|>"),
        "granite": ("<|end_of_text|>", "<|end_of_text|>"), "qw": ("<|endoftext|>", "<|im_end|>"), "smollm": ("<|im_start|>", "<|im_end|>")}


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 4, 5, 6, 7)


def case(name, source, bos, eos, turns, prompt):
    messages = [{"role": r, "content": c} for r, c in turns]
    row = {"name": name, "bos": bos, "eos": eos, "messages": messages, "prompt": prompt}
    try:
        row["text"] = tokenizer_with(source, bos, eos).apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # what the template or Jinja refuses must be refused here too
        row["error"] = str(error)
    return row


def cases_of(folder):
    for path in sorted(folder.glob("*.jinja")):
        bos, eos = next((ends for part, ends in ENDS.items() if part in path.name), ("<s>", "</s>"))
        for turns in CONVERSATIONS:
            for prompt in (True, False):
                yield case(path.name, path.read_text(), bos, eos, turns, prompt)


def main():
    chat_template_utils.datetime = FixedDate
    if len(sys.argv) > 1:
        return print(json.dumps(list(cases_of(pathlib.Path(sys.argv[1]))), ensure_ascii=False))
    cases = list(cases_of(ROOT / "chat_templates"))
    for source in lines_of_features():
        for turns in (CONVERSATIONS[1], CONVERSATIONS[3]):
            cases.append({**case("", source, "<s>", "</s>", turns, True), "template": source})
    rows = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    (ROOT / "chat_templates.json").write_text("[" + rows + "]\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "refused, transformers", transformers.__version__)


if __name__ == "__main__":
    main()
