"""Tool calls in the text of an answer, told as they are written.

Models of our catalogue write a call as ``<tool_call>`` and a JSON object with ``name`` and ``arguments``, as Qwen's
template asks them to; Qwen2.5-Coder often leaves the tags out and writes the object alone or in a code fence. Once the
object has named a function that may be called and its arguments begin, it is a call, and nothing of it is taken back:
arguments that turn out to be no JSON are handed on as the model wrote them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from edgeinfer.bodies.formats import CALL_BEGIN, CALL_END
from edgeinfer.bodies.scan import JsonScan

__all__ = ["CallBegun", "CallEnded", "CallParser", "CallPart", "Part", "Said", "ToolCall", "random_id", "said"]

_HEADING = r'\{{1,2}\s*"name"\s*:\s*"(?P<name>[^"\\\x00-\x1f]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=[{\[])'
_TAGGED = re.compile(r"\s*" + _HEADING)
_BARE = re.compile(r"\s*(?P<fence>```(?:json)?\s*)?" + _HEADING)
_FENCE = "```"
_FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)
_MAY_BE_CALL = re.compile(r"\s*(?:\{|`{1,3}(?:\s|$)|```(?:j|js|jso|json)?(?:$|[\s{])|$)")
_TRAILING = " \t\r\n}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function to call: ``arguments`` is JSON text, as the model wrote it."""

    name: str
    arguments: str
    id: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call begins, whose arguments follow."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """More of the arguments' text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The arguments have ended; not ``whole``: the answer did, in the middle of them."""

    whole: bool


Part = str | CallBegun | CallPart | CallEnded
"""Of an answer, in order: text, and calls, each with a beginning, parts of its arguments and an end."""


def random_id(kind: str = "call") -> str:
    """A name that nothing else has, such as ``call_…``."""
    return f"{kind}_{uuid.uuid4().hex}"


class CallParser:
    """Text of an answer in, its parts out. ``names`` are the functions that may be called; a call of anything else is
    text. ``new_id`` names each call. How the text is cut makes no difference but to where arguments are cut. One answer
    each.

    ``half``, after `flush`: the answer ended in the middle of a call. One of which not even the name was there is left
    out where others came before it."""

    def __init__(self, names: Collection[str], new_id: Callable[[], str] = random_id) -> None:
        self._names, self._new_id = frozenset(names), new_id
        self._held = ""
        self._state: Literal["text", "head", "arguments", "rest", "after", "raw"] = "text"
        self._scan = JsonScan()
        self._end = ""  # what a call ends with: a tag, a fence, or nothing
        self.half = False
        self._n_calls = 0
        self._bare = True  # a call without tags may begin here: nothing else has been said yet
        self._after_call = False  # white space between calls belongs to nobody

    def feed(self, text: str) -> list[Part]:
        """What this text makes certain. Text that may still become a call is held back."""
        self._held += text
        found: list[Part] = []
        steps = {
            "text": self._text,
            "head": self._head,
            "arguments": self._arguments,
            "rest": self._rest,
            "after": self._after,
            "raw": self._raw,
        }
        while self._held and steps[self._state](found):
            pass
        return found

    def flush(self) -> list[Part]:
        """What was held back, now that nothing can follow."""
        held, self._held = self._held, ""
        state, self._state = self._state, "text"
        self.half = state in ("arguments", "raw", "head")
        if state == "arguments":
            return [CallEnded(False)]
        if state == "raw":
            return [CallPart(_without_brace(held)), CallEnded(False)]
        if state == "head":  # a call that broke off, or whose end is missing
            call = self._whole(held)
            self.half = not call
            return call or ([] if self._n_calls else [CALL_BEGIN + held])
        if state == "text" and self._bare:
            fenced = _FENCED.fullmatch(held.strip())
            call = self._whole(fenced[1] if fenced else held)
            if call:
                return call
        return [held] if held and state == "text" else []

    # ---- steps: each takes from what is held, and is true where another may follow

    def _text(self, found: list[Part]) -> bool:
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
            return bool(self._held)
        bare = _BARE.match(self._held) if self._bare else None
        if bare and bare["name"] in self._names:
            self._begin(found, bare, _FENCE if bare["fence"] else "")
            return True
        at = self._held.find(CALL_BEGIN)
        if at < 0:
            self._give(found, self._n_certain())
            return False
        self._give(found, at)
        self._held, self._state = self._held[len(CALL_BEGIN) :], "head"
        return True

    def _head(self, found: list[Part]) -> bool:
        """Behind a tag: a call that can be told as it comes, or one that is known when its end is."""
        head = _TAGGED.match(self._held)
        if head and head["name"] in self._names:
            self._begin(found, head, CALL_END)
            return True
        inside, end, rest = self._held.partition(CALL_END)
        if not end:
            return False
        self._held, self._state = rest, "text"
        self._bare, self._after_call = False, True
        found += self._whole(inside) or [f"{CALL_BEGIN}{inside}{CALL_END}"]
        return True

    def _begin(self, found: list[Part], head: re.Match[str], end: str) -> None:
        found.append(self._named(head["name"]))
        self._held, self._state = self._held[head.end() :], "arguments"
        self._scan, self._end = JsonScan(), end

    def _arguments(self, found: list[Part]) -> bool:
        text, self._held = self._scan.take(self._held)
        if text:
            found.append(CallPart(text))
        if self._scan.state == "done":
            found.append(CallEnded(True))
            self._scan, self._state = JsonScan(inside=True), "rest"
        elif self._scan.state == "bad":
            self._state = "raw"
        return self._scan.state != "open" or self._state == "rest"

    def _rest(self, _found: list[Part]) -> bool:
        """What else the object holds means nothing."""
        _, self._held = self._scan.take(self._held)
        if self._scan.state != "open":
            self._state = "after"
        return self._scan.state != "open"

    def _after(self, _found: list[Part]) -> bool:
        """Braces too many, and the end if there is one: some models forget it."""
        self._held = self._held.lstrip(_TRAILING)
        if not self._held or (self._end != self._held and self._end.startswith(self._held)):
            return False
        self._held = self._held.removeprefix(self._end)
        self._state, self._after_call = "text", True
        self._bare = self._end != CALL_END
        return True

    def _raw(self, found: list[Part]) -> bool:
        """Arguments that are no JSON, up to the end of the call."""
        inside, end, _ = self._held.partition(self._end) if self._end else (self._held, "", "")
        if end:
            found += [CallPart(_without_brace(inside)), CallEnded(True)]
            self._held, self._state = self._held[len(inside) :], "after"
            return True
        n = len(self._held[: len(self._held) - _n_begun(self._held, self._end)].rstrip(_TRAILING))
        if n:
            found.append(CallPart(self._held[:n]))
            self._held = self._held[n:]
        return False

    # ---- text

    def _give(self, found: list[Part], n: int) -> None:
        text, self._held = self._held[:n], self._held[n:]
        if text and (not self._bare or text.strip() or not self._held.startswith(CALL_BEGIN)):
            found.append(text)
            self._bare = self._bare and not text.strip()

    def _n_certain(self) -> int:
        """How much of what is held can be no part of a call."""
        if self._bare and _MAY_BE_CALL.match(self._held):
            return 0
        n = _n_begun(self._held, CALL_BEGIN)
        before = self._held[: len(self._held) - n]
        return len(before) if not n or not self._bare or before.strip() else 0

    def _whole(self, text: str) -> list[Part]:
        """A call whose object is all there; nothing where it is none."""
        text = text.strip()
        for candidate in (text, text[1:-1] if text.startswith("{{") and text.endswith("}}") else None):
            try:
                value = json.loads(candidate or "")
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict) and value.get("name") in self._names:
                arguments = value.get("arguments", value.get("parameters", {}))
                if isinstance(arguments, (dict, list)):
                    arguments = json.dumps(arguments, ensure_ascii=False)
                if isinstance(arguments, str):
                    return [self._named(value["name"]), CallPart(arguments), CallEnded(True)]
        return []

    def _named(self, name: str) -> CallBegun:
        self._n_calls += 1
        return CallBegun(name, self._new_id())


def _n_begun(text: str, mark: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``mark``."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def _without_brace(text: str) -> str:
    """Without the brace that closes the object around the arguments."""
    return text.rstrip().removesuffix("}").rstrip()


# ---- whole


@dataclass(frozen=True, slots=True)
class Said:
    """A whole answer: texts, neighbours as one and none empty, and calls. ``half``: the last call has no end."""

    parts: tuple[str | ToolCall, ...]
    half: bool = False

    @property
    def calls(self) -> list[ToolCall]:
        return [part for part in self.parts if isinstance(part, ToolCall)]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


def said(text: str, names: Collection[str], new_id: Callable[[], str] = random_id) -> Said:
    """What the text of an answer says. Without ``names`` all of it is text."""
    if not names:
        return Said((text,) if text else ())
    parser = CallParser(names, new_id)
    return Said(tuple(_joined([*parser.feed(text), *parser.flush()])), parser.half)


def _joined(parts: Iterable[Part]) -> list[str | ToolCall]:
    found: list[str | ToolCall] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, CallBegun):
            found.append(ToolCall(part.name, "", part.id))
        elif isinstance(part, CallPart) and isinstance(last, ToolCall):
            found[-1] = ToolCall(last.name, last.arguments + part.text, last.id)
        elif isinstance(part, str) and part:
            found[-1:] = [last + part] if isinstance(last, str) else [*found[-1:], part]
    return found
