"""Grammars over a vocabulary of bytes: what they admit, how they end, what they refuse."""

import gc
import json
import re
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.core import Grammar, GrammarKind, SamplingParams
from edgeinfer.errors import EngineError, GrammarError
from edgeinfer.sampling import Sampler
from edgeinfer.sampling import grammar as grammar_module
from edgeinfer.sampling.grammar import compile_grammar
from edgeinfer.sampling.sampler import Constraint
from edgeinfer.sampling.samplers import Floats
from edgeinfer.text.byte_tokenizer import ByteTokenizer

WORDS = [
    b"ab",
    b"abc",
    b"true",
    b'": ',
    b'", "',
    b'{"',
    b'"}',
    b"}]",
    b"<|end|>",
    b" ",
    b"\xff",
    b"\xffx",
    "é".encode(),
    b"ab",
]


class Bytes:
    """256 single bytes, some words (two of them alike, two no UTF-8), then a control token and two ends."""

    bos_id = None

    def __init__(self, ends: bool = True) -> None:
        self._pieces = [bytes([i]) for i in range(256)] + WORDS + [b""] + [b"", b"</s>"] * ends
        self.n_vocab = len(self._pieces)
        self.control = 256 + len(WORDS)
        self.eog_ids = frozenset((self.control + 1, self.control + 2) if ends else ())
        self.eos_id = min(self.eog_ids) if ends else None
        self.control_tokens: Mapping[str, int] = {"<|end|>": self.control}

    def token_bytes(self, token_id: int) -> bytes:
        return self._pieces[token_id]


VOCABULARY = Bytes()
N = VOCABULARY.n_vocab


def start(kind: GrammarKind, source: str) -> Constraint:
    return compile_grammar(Grammar(kind, source), VOCABULARY)()


def admitted(constraint: Constraint, n: int = N) -> set[int]:
    logits = np.zeros(n, np.float32)
    constraint.mask(logits)
    assert set(np.unique(logits)) <= {0.0, -np.inf}
    return set(np.flatnonzero(logits == 0).tolist())


def feed(constraint: Constraint, text: bytes) -> Constraint:
    for byte in text:
        assert byte in admitted(constraint)
        constraint.accept(byte)
    return constraint


def matches(kind: GrammarKind, source: str, text: bytes) -> bool:
    """Whether the whole text is an answer to the grammar."""
    constraint = start(kind, source)
    for byte in text:
        if byte not in admitted(constraint):
            return False
        constraint.accept(byte)
    return bool(admitted(constraint) & VOCABULARY.eog_ids)


def walk(constraint: Constraint, seed: int, favour: bytes = b'"}],:0123 ') -> bytes | None:
    """A random answer, leaning towards ``favour`` so that it ends; None if it has not after 1500 tokens."""
    rng = np.random.default_rng(seed)
    sampler = Sampler(SamplingParams(seed=seed, top_k=0, top_p=1.0, min_p=0.0), N, (), constraint=constraint)
    out = b""
    for _ in range(1500):
        logits = rng.standard_normal(N).astype(np.float32)
        logits[list(favour)] += 3
        token = sampler.sample(logits).token_id
        sampler.accept(token)
        if token in VOCABULARY.eog_ids:
            return out
        out += VOCABULARY.token_bytes(token)
        if sampler.finished:
            return out
    return None


# -- what is admitted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc<|}é", min_size=1, max_size=6), min_size=1, max_size=5), st.data())
def test_exactly_the_tokens_that_lead_to_an_answer_are_admitted(answers: list[str], data: st.DataObject) -> None:
    language = {answer.encode() for answer in answers}
    constraint = start("regex", "|".join(map(re.escape, answers)))
    done = b""
    while True:
        want = {
            i
            for i in range(N)
            if i not in VOCABULARY.eog_ids
            and VOCABULARY.token_bytes(i)
            and any(word.startswith(done + VOCABULARY.token_bytes(i)) for word in language)
        }
        assert constraint.finished == (not want)
        ends = VOCABULARY.eog_ids if done in language else set()
        assert admitted(constraint) == want | ends
        if not want:
            break
        token = data.draw(st.sampled_from(sorted(want)))
        constraint.accept(token)
        done += VOCABULARY.token_bytes(token)


def test_an_answer_may_end_where_the_grammar_allows_more() -> None:
    constraint = feed(start("regex", "ab(cd)?"), b"ab")
    assert admitted(constraint) == VOCABULARY.eog_ids | {ord("c")}
    assert not constraint.finished
    constraint.accept(max(VOCABULARY.eog_ids))
    assert constraint.finished


def test_after_the_last_token_nothing_but_the_end_follows() -> None:
    constraint = feed(start("regex", "ab"), b"ab")
    assert constraint.finished
    assert admitted(constraint) == VOCABULARY.eog_ids
    constraint.accept(min(VOCABULARY.eog_ids))
    constraint.accept(max(VOCABULARY.eog_ids))  # a second end changes nothing
    assert constraint.finished


@pytest.mark.parametrize(
    ("kind", "source"),
    [("regex", "(?s:.)*"), ("lark", "start: /(?s:.)*/"), ("lark", "start: <[*]>*"), ("lark", "start: A\nA: ~/a/")],
)
def test_no_grammar_admits_a_control_token(kind: GrammarKind, source: str) -> None:
    assert VOCABULARY.control not in admitted(start(kind, source))


def test_the_end_is_not_text_even_when_its_token_has_bytes() -> None:
    constraint = start("regex", "</s>")
    assert admitted(constraint) == {ord("<")}
    assert feed(constraint, b"</s>").finished


def test_a_vocabulary_without_an_end_stops_at_the_last_token() -> None:
    vocabulary = Bytes(ends=False)
    constraint = compile_grammar(Grammar("regex", "ab?"), vocabulary)()
    constraint.accept(ord("a"))
    assert admitted(constraint, vocabulary.n_vocab) == {ord("b")}
    constraint.accept(ord("b"))
    assert constraint.finished


def test_rows_padded_past_the_vocabulary_are_forbidden_there() -> None:
    assert max(admitted(start("regex", "(?s:.)*"), N + 70)) < N
    with pytest.raises(EngineError, match="logits"):
        start("regex", "a").mask(np.zeros(N - 1, np.float32))


def test_the_mask_leaves_admitted_logits_as_they_are() -> None:
    for regex in ("a|b", "(?s:.)*"):  # few admitted and most admitted take different ways
        logits = np.random.default_rng(0).standard_normal(N).astype(np.float32)
        before = logits.copy()
        start("regex", regex).mask(logits)
        kept = np.isfinite(logits)
        np.testing.assert_array_equal(logits[kept], before[kept])


# -- random answers


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b\n", "é"]}, "maxItems": 3},
        "home": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/home"}]},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
    "$defs": {"home": {"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"]}},
}


def is_person(value: Any) -> bool:
    home = value["home"]
    return (
        {"name", "age", "home"} <= value.keys() <= {"name", "age", "tags", "home"}
        and isinstance(value["name"], str)
        and 1 <= len(value["name"]) <= 8
        and isinstance(value["age"], int)
        and 0 <= value["age"] <= 130
        and len(value.get("tags", [])) <= 3
        and all(tag in ("a", "b\n", "é") for tag in value.get("tags", []))
        and (home is None or home["n"] == 7)
    )


def is_numbers(value: Any) -> bool:
    return isinstance(value, list) and 2 <= len(value) <= 4 and all(-1 <= x <= 1 for x in value)


NUMBERS = {"type": "array", "items": {"type": "number", "minimum": -1, "maximum": 1}, "minItems": 2, "maxItems": 4}
ADDRESS = {
    "type": "object",
    "properties": {"when": {"type": "string", "format": "date"}},
    "required": ["when"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "conforms"),
    [
        (PERSON, is_person),
        (NUMBERS, is_numbers),
        (ADDRESS, lambda value: re.fullmatch(r"\d{4}-\d{2}-\d{2}", value["when"])),
        ({"type": "object"}, lambda value: isinstance(value, dict)),
        ({}, lambda value: value is None or isinstance(value, (bool, int, float, str, list, dict))),
    ],
)  # fmt: skip
def test_random_answers_to_a_schema_conform(schema: dict[str, Any], conforms: Any) -> None:
    fresh = compile_grammar(Grammar("json_schema", json.dumps(schema)), VOCABULARY)
    n_finished = 0
    for seed in range(200):
        answer = walk(fresh(), seed)
        if answer is not None:
            n_finished += 1
            value = json.loads(answer.decode())
            assert conforms(value), answer
            assert "\n" not in answer.decode()
    assert n_finished >= 190


@pytest.mark.parametrize(
    "regex",
    [
        r"[a-z]{2,5}( [a-z]+){0,3}\.",
        r"(?:\d{3}-){2}\d{4}",
        r"(yes|no|maybe)/?\\?",
        r"[^\x00-\x7f]{1,3}|ab*",
        "a\nb?|\"'",
    ],
)
def test_random_answers_to_a_regex_match_it_whole(regex: str) -> None:
    fresh = compile_grammar(Grammar("regex", regex), VOCABULARY)
    for seed in range(60):
        answer = walk(fresh(), seed, favour=b".0123456789-")
        assert answer is not None
        assert re.fullmatch(regex, answer.decode())


def test_json_is_written_as_json_dumps_writes_it() -> None:
    properties = {"a": {"const": [1, {"b": None}]}, "c": {"const": "x"}}
    schema = json.dumps({"type": "object", "properties": properties, "required": ["a", "c"]})
    assert matches("json_schema", schema, json.dumps({"a": [1, {"b": None}], "c": "x"}).encode())
    assert not matches("json_schema", schema, b'{"a":[1,{"b":null}],"c":"x"}')
    assert not matches("json_schema", schema, b'{ "a": [1, {"b": null}], "c": "x"}')


# -- independence


def test_requests_with_one_grammar_do_not_touch_each_other() -> None:
    fresh = compile_grammar(Grammar("regex", "ab|cd"), VOCABULARY)
    one, two = fresh(), fresh()
    one.accept(ord("a"))
    assert admitted(two) >= {ord("a"), ord("c")}
    two.accept(ord("c"))
    assert admitted(one) == {ord("b")}
    assert admitted(two) == {ord("d")}


def test_one_requests_exhausted_lexer_leaves_the_next_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """llguidance's copies of a matcher share lexer states, and their limit."""
    monkeypatch.setitem(grammar_module._LIMITS, "max_lexer_states", 2000)
    fresh = compile_grammar(Grammar("regex", ".*x.{200}.*y.{200}"), VOCABULARY)
    rng = np.random.default_rng(0)
    for _ in range(3):
        n_tokens = n_until_too_many_states(fresh(), rng)
        assert 20 < n_tokens < 5000


def n_until_too_many_states(constraint: Constraint, rng: np.random.Generator) -> int:
    for step in range(5000):
        try:
            admitted(constraint)
        except EngineError as error:
            if "too many states" in str(error):
                return step
            raise
        constraint.accept(int(rng.choice(list(b"xyab"))))
    return 5000


def test_grammars_compile_in_several_threads() -> None:
    found = []

    def work(i: int) -> None:
        found.append(matches("regex", f"a{{{i}}}", b"a" * i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_a_vocabulary_is_prepared_once_and_forgotten_with_its_owner() -> None:
    vocabulary = Bytes()
    compile_grammar(Grammar("regex", "a"), vocabulary)
    first = grammar_module._tokens_of(vocabulary)
    compile_grammar(Grammar("regex", "b"), vocabulary)
    assert grammar_module._tokens_of(vocabulary) is first
    gone = weakref.ref(vocabulary)
    del vocabulary
    gc.collect()
    assert gone() is None


# -- what is refused, before anything is generated


SCHEMAS = {
    "not json": ("{", "not JSON.*line 1, column 2"),
    "nan": ('{"const": NaN}', "NaN is no JSON number"),
    "infinite": ('{"const": 1e999}', "not JSON"),
    "array": ("[]", "must be an object"),
    "boolean": ("false", "must be an object"),
    "type": ('{"properties": {"a": {"type": "strng"}}}', "Invalid type: strng at #/properties/a"),
    "unsupported": ('{"items": {"type": "array", "uniqueItems": true}}', "uniqueItems.* at #/items"),
    "pattern": ('{"properties": {"a": {"type": "string", "pattern": "x("}}}', r"unclosed group.* at #/properties/a"),
    "lookahead": ('{"type": "string", "pattern": "(?=a)"}', "look-around"),
    "format": ('{"type": "string", "format": "bogus"}', "Unknown format: bogus"),
    "unsatisfiable": ('{"type": "integer", "minimum": 2, "maximum": 1}', "Unsatisfiable"),
    "remote": ('{"$ref": "http://example.com/x"}', "refused"),
    "dangling": ('{"$ref": "#/$defs/x"}', "does not exist"),
    "circular": ('{"$ref": "#"}', "nothing matches"),
    "options": ('{"uniqueItems": true, "x-guidance": {"lenient": true}}', "x-guidance"),
    "multiple": ('{"type": "integer", "multipleOf": 999983}', "multipleOf 999983 at #"),
    "fraction": ('{"type": "number", "multipleOf": 0.0999983}', "multipleOf"),
    "deep": ('{"items":' * 65 + "{}" + "}" * 65, "nested deeper than 64"),
    "very deep": ("[" * 100_000, "nested deeper than 64"),
    "huge": ('{"enum": ["' + "x" * 300_000 + '"]}', "bytes, but at most 262144"),
    "patterns": (json.dumps({"allOf": [{"pattern": f"(a|b){{0,{i}}}x"} for i in range(99)]}), "99 patterns"),
    "product": (
        json.dumps({"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in range(4)]} for i in range(12)]}),
        "refused",
    ),
    "surrogate": ('{"const": "\ud800"}', "surrogate"),
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_bad_schema_is_refused_with_what_and_where(case: str) -> None:
    source, message = SCHEMAS[case]
    with pytest.raises(GrammarError, match=message) as error:
        compile_grammar(Grammar("json_schema", source), VOCABULARY)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


OTHERS: dict[str, tuple[GrammarKind, str, str]] = {
    "group": ("regex", "a(b", "unclosed group, at character 2"),
    "reference": ("regex", r"(a)\1", "backreferences"),
    "border": ("regex", r"\bfoo", "not supported"),
    "nothing": ("regex", r"[^\s\S]", "nothing matches"),
    "deep regex": ("regex", "(" * 65 + ")" * 65, "nested deeper than 64"),
    "large regex": ("regex", "a" * 70_000, "at most 65536"),
    "explosion": ("regex", "a?" * 30_000, "too big"),
    "nul": ("regex", "a\0", "NUL"),
    "no start": ("lark", 'x: "a"', "no start rule"),
    "undefined": ("lark", 'start: "a"\n  | foo', 'line 1, column 8: unknown name: "foo"'),
    "endless": ("lark", "start: start", "nothing matches"),
    "circular": ("lark", 'start: A\nA: A "b"', "circular"),
    "special": ("lark", "start: <|end|>", "unknown special token"),
    "control id": ("lark", f"start: <[{VOCABULARY.control}]>", "admits no token"),
    "stop": ("lark", 'start: x\nx[stop="b"]: /.*/', "attribute stop in line 2"),
    "heat": ("lark", "start: x\nx[capture, temperature=0.5]: /.*/", "attribute temperature"),
    "parameters": ("lark", 'start: p::0\np::_: "a" *p::incr(_) | "b"', "parameter in line 2"),
    "doubling": (
        "lark",
        "start: A0\n" + "\n".join(f"A{i}: A{i + 1} A{i + 1}" for i in range(60)) + '\nA60: "x"',
        "too big",
    ),
    "json inside": ("lark", 'start: %json {"uniqueItems": true}', "uniqueItems"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_bad_grammar_is_refused_with_what_and_where(case: str) -> None:
    kind, source, message = OTHERS[case]
    with pytest.raises(GrammarError, match=message) as error:
        compile_grammar(Grammar(kind, source), VOCABULARY)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


CHAIN = {
    "$ref": "#/$defs/0",
    "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(6000)} | {"6000": {"const": 1}},
}


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("lark", "start: a0\n" + "\n".join(f"a{i}: a{i + 1}" for i in range(4000)) + '\na4000: "x"'),
        ("lark", "start: A0\n" + "\n".join(f"A{i}: A{i + 1}" for i in range(4000)) + '\nA4000: "x"'),
        ("json_schema", json.dumps(CHAIN)),
    ],
)
def test_long_chains_of_references_do_not_overflow_the_stack(kind: GrammarKind, source: str) -> None:
    """They ended the process: llguidance follows them by recursion."""
    assert admitted(start(kind, source)) in ({ord("x")}, {ord("1")})


# -- errors while generating


def test_a_token_that_is_not_admitted_is_an_error() -> None:
    for token in (ord("z"), VOCABULARY.control, min(VOCABULARY.eog_ids), 10**6):
        with pytest.raises(EngineError, match="does not admit token"):
            start("regex", "ab").accept(token)


def test_an_error_in_the_matcher_is_not_taken_for_the_end() -> None:
    """In an error state llguidance's mask admits the end token alone: an answer cut off, with nobody told."""
    constraint = start("regex", "ab")
    with pytest.raises(EngineError):
        constraint.accept(ord("z"))
    for _ in range(2):
        with pytest.raises(EngineError, match="cannot be followed"):
            constraint.mask(np.zeros(N, np.float32))


def test_a_dead_end_is_an_error() -> None:
    constraint = start("lark", f'start: "a" <[{VOCABULARY.control}]>')
    constraint.accept(ord("a"))
    with pytest.raises(EngineError, match="admits no token"):
        constraint.mask(np.zeros(N, np.float32))


def test_a_sampler_goes_through_a_grammar_to_its_end() -> None:
    constraint = start("json_schema", '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}')
    sampler = Sampler(SamplingParams(temperature=0), N, (), constraint=constraint)
    logits: Floats = np.zeros(N, np.float32)
    logits[list(b"}false")] = [9, 8, 7, 6, 5, 4]
    logits[list(VOCABULARY.eog_ids)] = 20
    out = b""
    while not sampler.finished:
        token = sampler.sample(logits).token_id
        sampler.accept(token)
        out += VOCABULARY.token_bytes(token)
    assert json.loads(out) == {"a": False}


def test_a_draft_with_a_token_past_the_vocabulary_does_no_harm() -> None:
    """Rows of logits may be padded; asked about such a token, llguidance would refuse everything that comes after."""
    vocabulary = ByteTokenizer()
    match = compile_grammar(Grammar("regex", "[ab]{2,4}"), vocabulary)()
    assert match.fits([97, vocabulary.n_vocab + 5, 98]) == 1
    match.accept(97)
    match.accept(98)
    assert match.fits([97, 99]) == 1
