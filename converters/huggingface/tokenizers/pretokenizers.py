"""Which of llama.cpp's ways to split text into words is the one that a ``tokenizer.json`` describes.

They are told apart by what they do, step by step, and not by a fingerprint of what they give for some text: a tokenizer
that nobody has met yet, but that splits as one of them does, is recognised, and one that splits otherwise is refused.
"""

from __future__ import annotations

import re

from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.errors import UnsupportedModel

__all__ = ["QWEN2", "pre_tokenizer"]

Step = tuple[str, ...]
Steps = tuple[Step, ...]

_ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_LLAMA3 = _CONTRACTIONS + _WORD + r"\p{N}{1,3}" + _ENDS
QWEN2 = _CONTRACTIONS + _WORD + r"\p{N}" + _ENDS
"""The pattern that Qwen 2 splits text with."""
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SEED = _CONTRACTIONS + _WORD + r"\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FIRST = r"[^\r\n\p{L}\p{N}]?"
_PUNCTUATED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(ending: str, digits: str) -> str:
    """Words that begin in capitals or are all of them, each with ``ending``."""
    mixed, capitals = _UPPER + "*" + _LOWER + "+", _UPPER + "+" + _LOWER + "*"
    return f"{_FIRST}{mixed}{ending}|{_FIRST}{capitals}{ending}|{digits}{_PUNCTUATED}"


_GPT4O = _cased(_CONTRACTIONS + "?", r"\p{N}{1,3}")
_TEKKEN = _cased("", r"\p{N}")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_WORDS: Step = ("split", _GPT2)
_DIGIT: Step = ("split", r"\p{N}")
_THREE_DIGITS: Step = ("split", r"\p{N}{1,3}")

_KNOWN: dict[tuple[Steps, bool], str] = {
    ((_WORDS,), False): "gpt-2",
    ((_DIGIT, _WORDS), False): "smollm",
    ((("split", _LLAMA3),), True): "llama-bpe",
    ((("split", _LLAMA3),), False): "dbrx",
    ((("split", QWEN2),), False): "qwen2",
    ((("split", _QWEN35),), False): "qwen35",
    ((("split", _SEED),), False): "seed-coder",
    ((("split", _GPT4O),), False): "gpt-4o",
    ((("split", _TEKKEN),), True): "tekken",
    ((_THREE_DIGITS, ("split", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+"))), True): "minicpm5",
}
"""(steps, whether words of the vocabulary are taken whole without merging) -> llama.cpp's name."""


def pre_tokenizer(pre: Fields, ignore_merges: bool) -> str:
    """llama.cpp's name of it. Raises `UnsupportedModel` for what is none of them."""
    steps = _steps(pre)
    name = _KNOWN.get((steps, ignore_merges))
    if name:
        return name
    said = "; ".join(" ".join(step) for step in steps) or "nothing"
    whole = ", words of the vocabulary taken whole" if ignore_merges else ""
    raise UnsupportedModel(f"{pre.where}: llama.cpp has no way to split text like this one ({said}{whole})")


def _steps(pre: Fields) -> Steps:
    """The steps in one form, however they are written."""
    kind = pre.text("type", "")
    if kind == "Sequence":
        parts = [Fields(part if isinstance(part, dict) else {}, pre.where) for part in pre.array("pretokenizers")]
        return tuple(step for part in parts for step in _steps(part))
    if kind == "ByteLevel":
        if pre.flag("add_prefix_space", True):
            return (("prefix space",), *((_WORDS,) if pre.flag("use_regex", True) else ()))
        return (_WORDS,) if pre.flag("use_regex", True) else ()
    if kind == "Digits":
        return (_DIGIT if pre.flag("individual_digits") else ("split", r"\p{N}+"),)
    if kind == "Split":
        return _split(pre)
    return ((kind or "none",),)


def _split(pre: Fields) -> Steps:
    pattern = pre.fields("pattern")
    source = pattern.text("Regex", "") or re.escape(pattern.text("String", ""))
    behavior = pre.text("behavior", "")
    # What matches and what lies between are pieces of their own, either way of writing it.
    if behavior == "Isolated" or (behavior == "Removed" and pre.flag("invert")):
        return (("split", _plain(source)),)
    return (("split", behavior, _plain(source)),)


def _plain(source: str) -> str:
    """One spelling of a pattern: possessive quantifiers are only faster, and {1} says nothing."""
    source = source.replace("?+", "?").replace("++", "+").replace("*+", "*").replace(r"\p{N}{1}", r"\p{N}")
    return source.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)|", _CONTRACTIONS + "|").replace(
        "'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS
    )
