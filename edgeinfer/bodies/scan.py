"""JSON read as it comes: what belongs to a value, and where it ends. Knows nothing of what it says."""

from __future__ import annotations

import json
import re
from typing import Literal

__all__ = ["JsonScan"]

_SPACE = re.compile(r"[ \t\n\r]+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_WORD = re.compile(r"[-+.\w]+")
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_HEX = frozenset("0123456789abcdefABCDEF")
_CLOSING = {"{": "}", "[": "]"}

_Mode = Literal["value", "value or end", "key", "key or end", "colon", "next", "text", "escape", "hex", "word"]


class JsonScan:
    """One JSON value (RFC 8259), in pieces. A control character within a text, which models write where they mean a
    line's end, is escaped on its way. ``inside``: what is left of an object after one of its values.

    ``state`` is ``open`` until the value is ``done``, or ``bad``: then it was none from here on."""

    def __init__(self, *, inside: bool = False) -> None:
        self.state: Literal["open", "done", "bad"] = "open"
        self._nested: list[str] = ["{"] if inside else []
        self._mode: _Mode = "next" if inside else "value"
        self._in_key = False
        self._n_hex = 0
        self._word = ""

    def take(self, text: str) -> tuple[str, str]:
        """(what belongs to the value, what is left). Nothing is left while it is ``open``."""
        taken: list[str] = []
        at = 0
        while at < len(text) and self.state == "open":
            if self._mode in ("text", "escape", "hex"):
                part, at = self._in_text(text, at)
            elif self._mode == "word":
                part, at = self._in_word(text, at)
            elif space := _SPACE.match(text, at):
                part, at = space[0], space.end()
            else:
                part, at = self._mark(text[at], at)
            taken.append(part)
        return "".join(taken), text[at:]

    def _in_text(self, text: str, at: int) -> tuple[str, int]:
        mark = text[at]
        if self._mode == "hex":
            self._n_hex -= 1
            self._mode = "hex" if self._n_hex else "text"
            return (mark, at + 1) if mark in _HEX else self._bad(at)
        if self._mode == "escape":
            self._n_hex = 4
            self._mode = "hex" if mark == "u" else "text"
            return (mark, at + 1) if mark in 'u"\\/bfnrt' else self._bad(at)
        if plain := _PLAIN.match(text, at):
            return plain[0], plain.end()
        if mark == "\\":
            self._mode = "escape"
        elif mark == '"':
            self._mode = "colon" if self._in_key else "next"
        else:
            mark = json.dumps(mark)[1:-1]
        return mark, at + 1

    def _in_word(self, text: str, at: int) -> tuple[str, int]:
        """A number, true, false or null: what it is shows when it ends."""
        if more := _WORD.match(text, at):
            self._word += more[0]
            return more[0], more.end()
        if not _SCALAR.fullmatch(self._word):
            return self._bad(at)
        self._word, self._mode = "", "next"
        return "", at

    def _mark(self, mark: str, at: int) -> tuple[str, int]:
        mode, inner = self._mode, self._nested[-1] if self._nested else ""
        if mode in ("value", "value or end") and mark in "{[":
            self._nested.append(mark)
            self._mode = "key or end" if mark == "{" else "value or end"
        elif mode in ("value", "value or end", "key", "key or end") and mark == '"':
            self._in_key, self._mode = mode.startswith("key"), "text"
        elif mode in ("next", "key or end", "value or end") and mark == _CLOSING.get(inner):
            self._nested.pop()
            self._mode = "next"
            self.state = "open" if self._nested else "done"
        elif mode == "next" and mark == "," and inner:
            self._mode = "key" if inner == "{" else "value"
        elif mode == "colon" and mark == ":":
            self._mode = "value"
        elif mode in ("value", "value or end") and mark in "-0123456789tfn" and inner:
            self._mode = "word"
            return "", at
        else:
            return self._bad(at)
        return mark, at + 1

    def _bad(self, at: int) -> tuple[str, int]:
        self.state = "bad"
        return "", at
