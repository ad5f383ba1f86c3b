"""Tool calls found in text however it is cut, told as they are written, and never taken back."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CALL

from edgeinfer.bodies.calls import CallBegun, CallEnded, CallParser, CallPart, Part, Said, ToolCall, _joined, said
from edgeinfer.bodies.scan import JsonScan

ONE = ("add", {"a": 1, "b": 2})
BARE = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
BEGIN = '<tool_call>{"name": "add", "arguments": '


def parts(pieces: list[str]) -> list[Part]:
    parser = CallParser(["add"], lambda: "id")
    return [part for piece in pieces for part in parser.feed(piece)] + parser.flush()


def whole(pieces: list[str]) -> Said:
    """What the pieces say, each fed alone."""
    parser = CallParser(["add"], lambda: "id")
    found = [part for piece in pieces for part in parser.feed(piece)] + parser.flush()
    return Said(tuple(_joined(found)), parser.half)


def parsed(pieces: list[str]) -> list[Any]:
    return [part if isinstance(part, str) else (part.name, json.loads(part.arguments)) for part in whole(pieces).parts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", ["plain text"]),
        (CALL, [ONE]),
        (f"\n{CALL}\n{CALL}\n", [ONE, ONE]),
        (f"I add: {CALL}", ["I add: ", ONE]),
        (f"{CALL} and so on", [ONE, "and so on"]),
        (CALL.replace('{"name"', '{{"name"').replace("}}\n", "}}}\n"), [ONE]),
        (CALL.removesuffix("\n</tool_call>"), [ONE]),
        (f"{CALL.removesuffix('</tool_call>')}{CALL}", [ONE, ONE]),
        (CALL.replace("}}\n", "}\n"), [ONE]),
        (CALL.replace("}}\n", '}, "id": [1, "}"]}\n'), [ONE]),
        (BARE, [ONE]),
        (f"{BARE}\n{BARE}", [ONE, ONE]),
        (f"{BARE} and so on", [ONE, "and so on"]),
        (f"```json\n{BARE}\n```", [ONE]),
        (f"```\n{BARE}\n```", [ONE]),
        (f"```json\n{BARE}\n```\n```json\n{BARE}\n```\nDone.", [ONE, ONE, "Done."]),
        ("```python\nx = {}\n```", ["```python\nx = {}\n```"]),
        ('{"name": "other", "arguments": {}}', ['{"name": "other", "arguments": {}}']),
        ('{"arguments": {"a": 1, "b": 2}, "name": "add"}', [ONE]),
        (f'<tool_call>{{"arguments": {{"a": 1, "b": 2}}, "name": "add"}}</tool_call>{CALL}', [ONE, ONE]),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2}"}</tool_call>', [ONE]),
        ('<tool_call>{"name": "add"}</tool_call>', [("add", {})]),
        ("<tool_call>\nnonsense\n</tool_call>", ["<tool_call>\nnonsense\n</tool_call>"]),
        (f'{BEGIN}{{"a": "</tool_call>"}}}}</tool_call>!', [("add", {"a": "</tool_call>"}), "!"]),
        (f'{BEGIN}{{"a": "two\nlines\t"}}}}</tool_call>', [("add", {"a": "two\nlines\t"})]),
        (f'{BEGIN}[1, {{"x": [true, null, -1.5e3]}}]}}</tool_call>', [("add", [1, {"x": [True, None, -1500]}])]),
        ("a < b and <tool", ["a < b and <tool"]),
        ("<tool_call>", ["<tool_call>"]),
        (f"no call: {BARE}", [f"no call: {BARE}"]),
        ('<tool_call>{"name": "add", "parameters": {"a": 1, "b": 2}}</tool_call>', [ONE]),
        ('{"a": 1}', ['{"a": 1}']),
        ("", []),
    ],
)
def test_calls_in_text(text: str, expected: list[Any]) -> None:
    assert parsed([text]) == expected
    assert parsed(list(text)) == expected


BROKEN = '{"a": 1, b: {2}}'


@pytest.mark.parametrize(
    ("text", "arguments", "rest", "half"),
    [
        (f"{BEGIN}{BROKEN}}}\n</tool_call>rest", BROKEN, ["rest"], False),
        (f"{BEGIN}{BROKEN}}} \n", BROKEN, [], True),
        (f"```json\n{BARE[:-18]}{BROKEN}}}\n```\nrest", BROKEN, ["rest"], False),
        (f'{BEGIN}{{"a": [1, "x', '{"a": [1, "x', [], True),
        (f"{BEGIN}{{", "{", [], True),
        (f'{BEGIN}{{"a": nothing, "b": 01}}}}</tool_call>', '{"a": nothing, "b": 01}', [], False),
        (f'{BEGIN}{{"a": "\\q"}}}}</tool_call>', '{"a": "\\q"}', [], False),
    ],
)
def test_arguments_that_are_no_json_are_handed_on_as_written(
    text: str, arguments: str, rest: list[str], half: bool
) -> None:
    for pieces in ([text], list(text)):
        assert whole(pieces) == Said((ToolCall("add", arguments, "id"), *rest), half)


_TEXTS = st.lists(
    st.sampled_from(
        [
            CALL,
            BARE,
            BEGIN,
            "```json\n",
            "```",
            "\n",
            " ",
            "text",
            "<",
            "}",
            "}}",
            "{",
            '"',
            "\\",
            BROKEN,
            "</tool_call>",
        ]
    )
    | st.text(max_size=4),
    max_size=8,
).map("".join)


@given(_TEXTS, st.lists(st.integers(1, 9), max_size=60))
def test_how_text_is_cut_makes_no_difference(text: str, cuts: list[int]) -> None:
    ends = [0, *itertools.accumulate(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(sorted(min(end, len(text)) for end in ends))]
    assert whole(pieces) == whole([text]) == whole(list(text)) == said(text, ["add"], lambda: "id")
    kinds = [type(part) for part in parts(pieces) if not isinstance(part, (str, CallPart))]
    assert kinds == [CallBegun, CallEnded] * (len(kinds) // 2)


def test_arguments_are_told_as_they_are_written() -> None:
    parser = CallParser(["add"], lambda: "id")
    assert parser.feed("<tool_call>\n") == []
    assert parser.feed('{"name": "add", "arguments": ') == []
    assert parser.feed('{"a') == [CallBegun("add", "id"), CallPart('{"a')]
    assert parser.feed('": 1') == [CallPart('": 1')]
    assert parser.feed("2, ") == [CallPart("2, ")]
    assert parser.feed('"b": "}"}') == [CallPart('"b": "}"}'), CallEnded(True)]
    assert parser.feed("}\n</tool_call>") == []
    assert parser.flush() == []


def test_text_that_can_be_no_call_is_not_held_back() -> None:
    parser = CallParser(["add"])
    assert parser.feed("The sum ") == ["The sum "]
    assert parser.feed("is < 5") == ["is < 5"]
    assert CallParser(["add"]).feed("```python\n") == ["```python\n"]


def test_without_names_all_is_text() -> None:
    assert said(CALL, ()) == Said((CALL,))
    assert said("", ()) == Said(())


def test_a_call_that_never_got_its_name() -> None:
    """Alone it is what the model wrote; after others it would only be noise."""
    for rest in ("<tool_call>", '<tool_call>\n{"na', '<tool_call>{"name": "add", "arguments"'):
        assert said(rest, ["add"]) == Said((rest,), half=True)
        found = said(f"{CALL}\n{rest}", ["add"])
        assert (len(found.calls), found.text, found.half) == (1, "", True)
    assert not said(CALL.removesuffix("</tool_call>"), ["add"]).half


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=4), st.booleans(), st.integers(0, 200), st.text(max_size=3))
def test_what_is_json_is_what_json_says(value: dict[str, Any], plain: bool, at: int, wrong: str) -> None:
    text = json.dumps(value, ensure_ascii=not plain, indent=1 if plain else None)
    scan = JsonScan()
    taken = [scan.take(mark) for mark in f"{text}}} more"]
    assert "".join(part for part, _ in taken) == text
    assert scan.state == "done"
    assert "".join(left for _, left in taken) == "} more"

    spoilt = text[:at] + wrong + text[at + len(wrong) :]
    scan = JsonScan()
    taken_text, left = scan.take(spoilt)
    try:
        json.loads(spoilt, strict=False, parse_constant=int)  # int("NaN") raises ValueError
        good = True
    except ValueError:
        good = False
    if good:
        assert (scan.state, left.strip(" \t\r\n")) == ("done", "")
    else:
        assert scan.state != "done" or left.strip(" \t\r\n")
    if scan.state == "done":
        json.loads(taken_text)
