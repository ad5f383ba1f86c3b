"""One request on its way through the scheduler: its tokens, how far they are computed, and what it has cost.

Knows nothing of engines or text: whoever waits for the tokens is behind the `Sink`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.core import FinishReason, GenerationStats
from edgeinfer.errors import ContextOverflow, EdgeInferError, UsageError
from edgeinfer.kv import Lease
from edgeinfer.sampling import Sampled, Sampler

__all__ = ["EmbedRequest", "Request", "Sink", "StatsSink"]

TokenIds = npt.NDArray[np.int32]
_KEYS = itertools.count()


class Sink(Protocol):
    """Who waits for a request. Called on the engine's thread; must return quickly and not raise."""

    def token(self, sampled: Sampled) -> bool:
        """One more token of the answer; true ends the answer here (a stop string was found)."""
        ...

    def done(self, reason: FinishReason, stats: GenerationStats) -> None:
        """The answer is complete. Nothing follows."""
        ...

    def failed(self, error: EdgeInferError) -> None:
        """There will be no (further) answer. Nothing follows."""
        ...


class StatsSink:
    """Keeps what an answer that nobody reads has cost."""

    def __init__(self) -> None:
        self.stats = GenerationStats()

    def token(self, _sampled: Sampled) -> bool:
        return False

    def done(self, _reason: FinishReason, stats: GenerationStats) -> None:
        self.stats = stats

    def failed(self, error: EdgeInferError) -> None:
        raise error


class Request:
    """A prompt and its growing answer.

    ``prompt_ids``: at least one token, fewer than ``n_ctx``. ``max_tokens``: None runs to the end of the context.
    ``takes_drafts``: whether several tokens may be computed at once on a guess.
    Raises `UsageError` for an empty prompt, `ContextOverflow` for one that leaves no room to answer.
    """

    def __init__(
        self,
        prompt_ids: TokenIds,
        sampler: Sampler,
        sink: Sink,
        *,
        n_ctx: int,
        max_tokens: int | None = None,
        eog_ids: Collection[int] = (),
        takes_drafts: bool = True,
    ) -> None:
        n_prompt = len(prompt_ids)
        if n_prompt == 0:
            raise UsageError("the prompt is empty")
        if n_prompt >= n_ctx:
            raise ContextOverflow(n_prompt, n_ctx)
        self.sampler = sampler
        self.sink = sink
        self.eog_ids = frozenset(eog_ids)
        self.n_prompt = n_prompt
        self.n_limit = min(n_ctx, n_prompt + max_tokens) if max_tokens else n_ctx
        self._tokens = np.empty(min(self.n_limit, n_prompt + 1024), np.int32)
        self._tokens[:n_prompt] = prompt_ids
        self.n_tokens = n_prompt
        self.n_past = 0
        self.takes_drafts = takes_drafts
        self.key = next(_KEYS)
        self.n_prefilled = self.n_overtaken = 0
        self.n_drafted = self.n_accepted = self.n_rounds = 0
        self.draft_gain = 1.0
        self.lease: Lease | None = None
        self.cancelled: FinishReason | None = None
        self._submitted = time.perf_counter()
        self._started = self._first = self._last = 0.0

    @property
    def tokens(self) -> TokenIds:
        """Prompt and answer so far, a view."""
        return self._tokens[: self.n_tokens]

    @property
    def n_pending(self) -> int:
        """Tokens that are known but not computed: 1 while decoding, more while the prompt is read."""
        return self.n_tokens - self.n_past

    @property
    def n_generated(self) -> int:
        return self.n_tokens - self.n_prompt

    def start(self, lease: Lease) -> None:
        self.lease = lease
        self.n_past = lease.n_reused
        self._started = time.perf_counter()

    def accept(self, sampled: Sampled) -> FinishReason | None:
        """Take the next token; returns why the answer ends, if it does."""
        self._last = time.perf_counter()
        self._first = self._first or self._last
        if sampled.token_id in self.eog_ids:
            return "stop"
        if self.n_tokens == len(self._tokens):
            self._tokens = np.resize(self._tokens, min(self.n_limit, 2 * self.n_tokens))
        self._tokens[self.n_tokens] = sampled.token_id
        self.n_tokens += 1
        self.sampler.accept(sampled.token_id)
        if self.sink.token(sampled) or self.sampler.finished:
            return "stop"
        return "length" if self.n_tokens >= self.n_limit else None

    def stats(self) -> GenerationStats:
        now = time.perf_counter()
        n_reused = self.lease.n_reused if self.lease else 0
        prefill_s, decode_s = self._first - self._started, self._last - self._first
        return GenerationStats(
            n_prompt=self.n_prompt,
            n_reused=n_reused,
            n_restored=self.lease.n_restored if self.lease else 0,
            n_prefilled=self.n_prefilled,
            n_generated=self.n_generated,
            n_drafted=self.n_drafted,
            n_accepted=self.n_accepted,
            n_rounds=self.n_rounds,
            draft_gain=self.draft_gain,
            queue_s=(self._started or now) - self._submitted,
            ttft_s=self._first - self._submitted if self._first else 0.0,
            total_s=now - self._submitted,
            prefill_tps=(self.n_prompt - n_reused) / prefill_s if prefill_s > 0 else 0.0,
            decode_tps=(self.n_generated - 1) / decode_s if decode_s > 0 and self.n_generated > 1 else 0.0,
        )


class EmbedSink(Protocol):
    """Who waits for an embedding."""

    def embedded(self, states: npt.NDArray[np.float32]) -> None: ...
    def failed(self, error: EdgeInferError) -> None: ...


class EmbedRequest:
    """A text whose hidden states are wanted, shape ``(n_tokens, n_embd)``. Raises as `Request`."""

    def __init__(self, token_ids: TokenIds, sink: EmbedSink, *, n_ctx: int) -> None:
        if len(token_ids) == 0:
            raise UsageError("the text to embed is empty")
        if len(token_ids) > n_ctx:
            raise ContextOverflow(len(token_ids), n_ctx, "split the text")
        self.token_ids = token_ids
        self.sink = sink
        self.n_overtaken = 0
        self.cancelled: FinishReason | None = None
