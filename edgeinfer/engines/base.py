"""What an engine is: immutable weights and a pool of KV sequences. It sees integers, never text, and decides
nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.core import MAX_THREADS
from edgeinfer.errors import UsageError

Logits = npt.NDArray[np.float32]
KVType = Literal["f16", "q8_0"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How an engine is opened.

    ``n_ctx``: the most tokens that one sequence may hold (0: what the model was trained for). ``n_seq_max``: how many
    sequences exist at once. ``n_cells``: KV cells shared by all of them (0: ``n_ctx * n_seq_max``). ``n_batch``: the
    most tokens of one forward pass. Threads: 0 chooses. ``isolate``: compute each sequence as if it were alone, so that
    its logits do not depend on company even on kernels that round otherwise in company; that costs throughput.
    ``kernels``: our own, where they can be had; False leaves everything to the engine's. ``drafted``: drafts will be
    checked, so a token's logits should not depend on how many are computed with it, even where that costs something.
    ``device``: where to compute, as `edgeinfer.engines.devices` names it (``auto``: the CPU). ``require``: all of the
    model's computing must happen on this kind of device (empty: wherever it can).
    """

    n_ctx: int = 4096
    n_seq_max: int = 1
    n_cells: int = 0
    n_batch: int = 512
    n_threads: int = 0
    n_threads_batch: int = 0
    kv_type: KVType = "f16"
    use_mmap: bool = True
    isolate: bool = False
    kernels: bool = True
    drafted: bool = False
    device: str = "auto"
    require: str = ""

    def __post_init__(self) -> None:
        for name in ("n_ctx", "n_seq_max", "n_cells", "n_batch", "n_threads", "n_threads_batch"):
            if not isinstance(getattr(self, name), Integral):
                raise UsageError(f"{name} is {getattr(self, name)!r}, but must be a whole number")
        for name in ("n_ctx", "n_cells", "n_threads", "n_threads_batch"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be 0 or more")
        for name in ("n_threads", "n_threads_batch"):
            if getattr(self, name) > MAX_THREADS:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at most {MAX_THREADS}")
        if not 1 <= self.n_seq_max <= 256:
            raise UsageError(f"n_seq_max is {self.n_seq_max}, but must be between 1 and 256")
        if self.n_batch < 1:
            raise UsageError(f"n_batch is {self.n_batch}, but must be at least 1")


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of one sequence to compute: ``token_ids`` (int32, at least one) at positions ``n_past`` and on, where
    ``n_past`` is the sequence's present length. Logits are wanted of the last ``n_logits`` of them."""

    seq: int
    token_ids: npt.NDArray[np.int32]
    n_past: int
    n_logits: int = 1


class ForwardCancelled(Exception):
    """`Engine.forward` was stopped by `Engine.interrupt`. Every sequence of the call may have lost tokens: ask
    `Engine.length`."""


class Engine(Protocol):
    """One loaded model and its KV pool.

    All methods are called from one thread, except `interrupt`, which may come from any. Sequence ids are 0 ..
    n_seq_max - 1; a sequence exists as soon as something is computed in it. Positions are lengths: a sequence of
    length n holds positions 0 .. n-1."""

    n_vocab: int
    n_ctx: int
    """The most tokens that one sequence may hold."""
    n_seq_max: int
    n_cells: int
    """KV cells shared by all sequences; a forked prefix counts once."""
    n_batch: int
    """The most tokens that one call of `forward` takes."""
    block_size: int
    """A prompt cut, or shared from, at multiples of this gets the same bits as one that is not. 1: anywhere. A prompt
    that fits at all fits into ``n_batch``, or ``n_batch`` is at least this."""

    rewinds: bool
    """Whether `truncate` can cut a sequence anywhere: not where state is one running value."""

    def forward(self, slices: Sequence[Slice]) -> Logits:
        """Compute the slices in one pass and append them to their sequences.

        Returns the wanted logits, shape ``(sum of n_logits, n_vocab)``, in the order of the slices. The array is a
        view into the engine that is valid until the next call of any method. Raises `ForwardCancelled` after
        `interrupt`, `EngineError` when the runtime fails; after either, the sequences are no longer than before the
        call, and `length` tells the truth."""
        ...

    def embed(self, seq: int, token_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Hidden states after the last norm, shape ``(n_tokens, n_embd)``, copied. ``seq`` lends its cells: whatever
        it held is released, and it is empty afterwards. Raises as `forward`."""
        ...

    def length(self, seq: int) -> int:
        """Tokens that the sequence holds."""
        ...

    def truncate(self, seq: int, n_tokens: int) -> int:
        """Keep the first ``n_tokens`` of the sequence; returns how many are left: fewer (0) where the state cannot be
        cut there, as with recurrent layers."""
        ...

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        """Make ``target`` share the first ``n_tokens`` of ``source`` without copying; whatever it held is released
        first. Returns its length: 0 where the architecture cannot share."""
        ...

    def release(self, seq: int) -> None:
        """Forget the sequence and free its cells."""
        ...

    def export_sequence(self, seq: int) -> memoryview:
        """The sequence's state as bytes that `import_sequence` of the same model, library version and KV type takes
        back."""
        ...

    def import_sequence(self, seq: int, state: memoryview, n_tokens: int) -> None:
        """Replace the sequence by an exported one of ``n_tokens``. Raises `FormatError` and leaves the sequence empty
        when the state is not one of this engine's."""
        ...

    def interrupt(self, on: bool) -> None:
        """Raise (or lower) the flag that makes a running `forward` stop soon. Thread-safe, does not block."""
        ...

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        """Threads for one-token steps, and for everything wider."""
        ...

    def close(self) -> None:
        """Free everything. Closing twice is harmless."""
        ...
