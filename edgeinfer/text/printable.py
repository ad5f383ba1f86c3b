"""Text made safe for a terminal. Owns which characters may reach a person's screen; knows nothing of where text comes
from.

A model, a file name or a GGUF field may carry escape sequences that move the cursor, write the clipboard or hide what a
line says. Every sink that a person reads goes through `printable`; data written to a pipe does not.
"""

from __future__ import annotations

import re

__all__ = ["printable"]

_HOSTILE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 but tab and newline: a carriage return can overwrite a line, escape starts a sequence
    "\x80-\x9f"  # C1: one-character forms of escape sequences
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls reorder what is seen
    "\u2028\u2029\u206a-\u206f\ufff9-\ufffb"  # line separators, deprecated format and annotation controls
    "\ud800-\udfff"  # lone surrogates cannot be encoded: printing one would raise
    "]"
)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: str) -> str:
    """``text`` with control, bidirectional and unencodable characters written as ``\\x1b`` or ``\\u202e``; newlines and
    tabs stay."""
    return _HOSTILE.sub(_escape, text)
