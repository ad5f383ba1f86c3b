"""GBNF to Lark: the same language, as a slow matcher of GBNF's own meaning and Python's `re` and `json` see it."""

import contextlib
import json
import re
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.core import Grammar, SamplingParams
from edgeinfer.errors import GrammarError
from edgeinfer.sampling import Sampler
from edgeinfer.sampling.gbnf import to_lark
from edgeinfer.sampling.grammar import compile_grammar

JSON = r"""
# llama.cpp's json.gbnf
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""


class Bytes:
    """256 single bytes and an end."""

    bos_id = None
    eos_id = 256
    eog_ids = frozenset({256})
    n_vocab = 257
    control_tokens: Mapping[str, int] = {}

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


VOCABULARY = Bytes()


def accepts(source: str, text: str) -> bool:
    constraint = compile_grammar(Grammar("gbnf", source), VOCABULARY)()
    for byte in [*text.encode(), 256]:
        logits = np.zeros(257, np.float32)
        constraint.mask(logits)
        if logits[byte] != 0:
            return False
        constraint.accept(byte)
    return True


def test_random_answers_to_llama_cpps_json_grammar_are_json() -> None:
    fresh = compile_grammar(Grammar("gbnf", JSON), VOCABULARY)
    n_finished = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        constraint = fresh()
        sampler = Sampler(SamplingParams(seed=seed, top_k=0), 257, (), constraint=constraint)
        out = b""
        while not sampler.finished and len(out) < 1500:
            logits = rng.standard_normal(257).astype(np.float32)
            logits[list(b'"}],')] += 4
            logits[256] += 5
            token = sampler.sample(logits).token_id
            sampler.accept(token)
            out += VOCABULARY.token_bytes(token)
        if sampler.finished:
            n_finished += 1
            assert isinstance(json.loads(out), dict)
    assert n_finished > 90


@pytest.mark.parametrize(
    ("source", "regex"),
    [
        (r'root ::= "a\"\\\[\]\n\t/" | "\x41\u00e9\U0001F600"', None),
        (r'root ::= [a-c]+ "b" [^x]?', r"[a-c]+b[^x]?"),
        (r'root ::= [a-c]{2} | [x]{1,} "y"{0,2} | "z"{3, 4}', r"[a-c]{2}|x+y{0,2}|z{3,4}"),
        (r"root ::= [-+*/^&~\]\[.-] | [a\x2dz]", r"[-+*/^&~\]\[.]|[a\-z]"),
        (r"root ::= [a&&b~~c]", r"[ab&c~]"),
        (r"root ::= [\x30-\u0033]+ .", r"[0-3]+(?s:.)"),
        ('root ::= | "a" | (  | "b" ) "c"', r"|a|b?c"),
        ('root ::= word ("," word)*\nword ::= [a-z]+', r"[a-z]+(,[a-z]+)*"),
        ('A-b ::= "x"\r\nroot ::= A-b a_b\r\n\r\na_b ::= A-b? # twice\r', r"xx?"),
        ('root ::=\n  "a"\n  | "b"', r"a|b"),
    ],
)
def test_the_language_is_the_same(source: str, regex: str | None) -> None:
    if regex is None:
        assert accepts(source, 'a"\\[]\n\t/')
        assert accepts(source, "Aé\U0001f600")
        return
    texts = [
        "",
        "a",
        "b",
        "c",
        "x",
        "xx",
        "xy",
        "xyy",
        "xyyy",
        "zz",
        "zzz",
        "zzzz",
        "ab",
        "abb",
        "abc",
        "abx",
        "ccb",
        "aa",
    ]
    texts += [*"-+*/^&~][.\\z,0 é\n", "0.", "12é", "3\n", "04", "bc", "cc", "a,b", "a,", "ab,c,d", "a-"]
    for text in texts:
        assert accepts(source, text) == bool(re.fullmatch(regex, text)), text


def test_recursion() -> None:
    source = 'root ::= "(" root* ")" | [0-9]+ op?\nop ::= [a-z] root'
    for text, good in {
        "()": True,
        "(()(1))": True,
        "12a3": True,
        "1a(2)": True,
        "(": False,
        "1a": False,
        ")": False,
    }.items():
        assert accepts(source, text) == good


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text))
def test_any_text_can_be_a_literal_or_a_class(text: str) -> None:
    escaped = "".join(f"\\U{ord(c):08x}" for c in text)
    plain = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n").replace("\r", r"\r")
    assert accepts(f'root ::= "{escaped}"', text)
    assert accepts(f'root ::= "{plain}" "!"', text + "!")
    assert accepts(f"root ::= [{escaped}]", text[-1])
    assert not accepts(f"root ::= [^{escaped}]", text[0])


ERRORS = {
    "empty": ("", "no rule named root"),
    "no root": ('a ::= "x"', "no rule named root"),
    "undefined": ('root ::= "x"\n  y', "'y' in line 2"),
    "twice": ('root ::= "x"\nroot ::= "y"', "'root' twice, again in line 2"),
    "no define": ('root "x"', "line 1 where ::= is due"),
    "open group": ('root ::= (\n"x"', r"no '\)' for the '\(' in line 1"),
    "closed group": ('root ::= "x")', r"'\)' in line 1 where the name of a rule is due"),
    "stray": ('root ::= "x"\n  @', "line 2, which starts nothing known"),
    "open literal": ('root ::= "x', "starts nothing known"),
    "open class": ("root ::= [x", "starts nothing known"),
    "token": ("root ::= <think>", "starts nothing known"),
    "escape": (r'root ::= "\q"', r"unknown escape '\\\\q' in line 1"),
    "short escape": (r'root ::= "\x4"', "unknown escape"),
    "surrogate": (r'root ::= "\ud800"', "no character"),
    "too high": (r'root ::= "\U00110000"', "no character"),
    "empty class": ("root ::= []", "empty class"),
    "reversed": ("root ::= [z-a]", "is empty"),
    "star alone": ("root ::= * ", r"'\*' in line 1"),
    "deep": ("root ::= " + "(" * 70 + '"x"' + ")" * 70, "nested deeper than 64"),
    "lark": ('start: "x"', "starts nothing known"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_malformed_gbnf_is_refused_with_its_line(case: str) -> None:
    source, message = ERRORS[case]
    with pytest.raises(GrammarError, match=message) as error:
        to_lark(source)
    assert "\n" not in str(error.value)


def test_left_recursion_without_an_end_is_refused() -> None:
    with pytest.raises(GrammarError, match="nothing matches"):
        compile_grammar(Grammar("gbnf", "root ::= root"), VOCABULARY)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='ro t:=\n"[]()|*+?{}1,-\\x^.#a', max_size=60))
def test_garbage_is_refused_or_translated_but_never_breaks(text: str) -> None:
    with contextlib.suppress(GrammarError):
        to_lark("root ::= " + text)


def test_a_long_chain_of_rules_takes_linear_time() -> None:
    chain = "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000))
    assert accepts(f'root ::= r0\n{chain}\nr3000 ::= "x"', "x")
