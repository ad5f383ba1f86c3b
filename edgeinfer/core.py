"""The nouns that everything else shares: plain frozen data, valid once built, no I/O.

Text appears here only at the two ends of the path (`Message` in, `Token.text` and `Answer.text` out); what lies
between is integers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal, TypedDict

from edgeinfer.errors import UsageError

FinishReason = Literal["stop", "length", "cancelled", "deadline"]
"""Why an answer ended: the model or a stop string ended it; the token limit or the context did; the caller; its
deadline."""

GrammarKind = Literal["json_schema", "regex", "lark", "gbnf"]

MAX_THREADS = 512
"""Of one model: ggml keeps its threads in a list of fixed length, and writes past its end when asked for more."""


class Message(TypedDict):
    """One turn of a conversation. Further keys (tool calls, names) are passed to the template unchanged."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must match. ``source`` is a JSON schema as text, a regular expression, or a Lark or GBNF
    grammar."""

    kind: GrammarKind
    source: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Defaults are llama.cpp's.

    ``temperature`` 0 is greedy. Neutral values: ``top_k`` 0, ``top_p`` 1, ``min_p`` 0, ``typical_p`` 1,
    ``repeat_penalty`` 1, ``frequency_penalty`` and ``presence_penalty`` 0. ``penalty_last_n`` tokens of prompt and
    answer are looked at by the penalties (-1: all). ``logprobs``: how many alternatives to report with each token
    (None: no log-probabilities at all). ``seed`` None draws a fresh one for each request. Raises `UsageError` for a
    value out of range."""

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    grammar: Grammar | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        def need(good: bool, name: str, want: str) -> None:
            if not good:
                raise UsageError(f"{name} is {getattr(self, name)!r}, but must be {want}")

        for name in (
            "temperature",
            "top_p",
            "min_p",
            "typical_p",
            "repeat_penalty",
            "frequency_penalty",
            "presence_penalty",
        ):
            need(math.isfinite(getattr(self, name)), name, "a finite number")
        for name in ("max_tokens", "top_k", "penalty_last_n", "seed", "logprobs"):
            value = getattr(self, name)
            need(value is None or isinstance(value, Integral), name, "a whole number")
        need(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1")
        need(self.temperature >= 0, "temperature", "0 or more")
        need(self.top_k >= 0, "top_k", "0 or more")
        need(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        need(0 <= self.min_p <= 1, "min_p", "between 0 and 1")
        need(0 < self.typical_p <= 1, "typical_p", "above 0 and at most 1")
        need(self.repeat_penalty > 0, "repeat_penalty", "above 0")
        need(abs(self.frequency_penalty) <= 2, "frequency_penalty", "between -2 and 2")
        need(abs(self.presence_penalty) <= 2, "presence_penalty", "between -2 and 2")
        need(self.penalty_last_n >= -1, "penalty_last_n", "-1 or more")
        need(self.seed is None or 0 <= self.seed < 2**64, "seed", "between 0 and 2**64 - 1")
        need(self.logprobs is None or 0 <= self.logprobs <= 100, "logprobs", "between 0 and 100")
        need(len(self.stop) <= 16 and all(self.stop), "stop", "at most 16 strings, none empty")
        need(
            len(self.logit_bias) <= 1024
            and all(isinstance(i, Integral) and math.isfinite(b) for i, b in self.logit_bias.items()),
            "logit_bias",
            "at most 1024 finite numbers by token id",
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """A token id and its log-probability under the model (before temperature and truncation, after penalties and
    grammar)."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer. ``text`` is what it adds to the printed answer: empty while a character or a possible
    stop string is still incomplete, so that the texts of all tokens joined are exactly `Answer.text`."""

    id: int
    text: str
    logprob: float | None = None
    top: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """What one request cost. Times in seconds from its submission; rates in tokens per second.

    ``n_reused`` of ``n_prompt`` tokens were known from before, ``n_restored`` of these from disk; ``n_prefilled`` were
    computed, which is the rest unless the engine was interrupted.
    ``n_accepted`` of ``n_drafted`` tokens were the model's own choice, in ``n_rounds`` passes that checked drafts.
    ``draft_gain``: how many times faster the answer came than without drafts, as far as measured costs tell (1.0: no
    difference, or no drafts)."""

    n_prompt: int = 0
    n_reused: int = 0
    n_restored: int = 0
    n_prefilled: int = 0
    n_generated: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_rounds: int = 0
    draft_gain: float = 1.0
    queue_s: float = 0.0
    ttft_s: float = 0.0
    total_s: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer. ``n_dropped`` messages were left out to make the conversation fit (never without being asked
    to). ``stop``: the stop string that ended it, if one did."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: GenerationStats
    tokens: tuple[Token, ...] = ()
    n_dropped: int = 0
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is, read from its file alone. ``quant_mix`` maps a tensor type to its share of the bytes (sums to
    1)."""

    name: str
    path: str
    architecture: str
    file_bytes: int
    n_params: int
    n_vocab: int
    n_ctx_train: int
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    quant_mix: Mapping[str, float]
    bits_per_weight: float
    chat_template: str | None = None
    licence: str | None = None
