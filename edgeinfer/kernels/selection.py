"""The best of a vocabulary's logits, found by the C++ library. Knows nothing of requests and random state."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import NumericError, UsageError
from edgeinfer.kernels.library import isa_number, load

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]


def top_k(logits: Logits, k: int, *, isa: str | None = None) -> Ids:
    """The ids of the ``k`` greatest logits, int32, the best first; of equal logits the lower id first.

    ``logits`` is float32 ``(n,)`` and is not modified; ``k`` is at least 1, and all that are possible come where it is
    more. A logit of -inf is not possible and never comes. ``isa`` (default: the one in use) chooses the kernel; all
    give the same. Raises `NumericError` for NaN or +inf, `UsageError` for a wrong shape, dtype or k, and
    `BackendUnavailable` without the library.
    """
    return _find(logits, k, 1.0, None, isa)


def top_k_softmax(
    logits: Logits, k: int, temperature: float = 1.0, *, isa: str | None = None
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """What `top_k` answers, and the probabilities of these tokens among themselves, float32 of the same length.

    They are exp(logit / temperature) over its sum, the same bits on every machine; less than exp(-80) times as probable
    as the best is 0. ``temperature`` is above 0 and finite. Raises as `top_k`.
    """
    if not 0 < temperature < math.inf or not np.float32(temperature):
        raise UsageError(f"temperature is {temperature}, but must be above 0; at 0 the best is top_k(logits, 1)")
    probabilities = np.empty(max(0, min(k, logits.size)), np.float32)
    ids = _find(logits, k, min(temperature, float(np.finfo(np.float32).max)), probabilities, isa)
    return ids, probabilities[: ids.size]


def _find(
    logits: Logits, k: int, temperature: float, probabilities: npt.NDArray[np.float32] | None, isa: str | None
) -> Ids:
    if logits.ndim != 1 or logits.dtype != np.float32:
        raise UsageError(f"logits are {logits.dtype} {logits.shape}, but must be float32 (n,)")
    if k < 1:
        raise UsageError(f"k is {k}, but must be at least 1")
    library, number = load(), isa_number(isa)
    n, k = logits.size, min(k, logits.size)
    ids = np.empty(k, np.int32)
    if n == 0:
        return ids
    logits = np.ascontiguousarray(logits)
    scratch = np.empty(library.ei_top_k_scratch_bytes(n, k) // 8, np.uint64)
    n_found: int = library.ei_top_k(
        number,
        logits.ctypes.data,
        n,
        k,
        temperature,
        ids.ctypes.data,
        None if probabilities is None else probabilities.ctypes.data,
        scratch.ctypes.data,
    )
    if n_found < 0:
        first = int(np.flatnonzero(np.isnan(logits) | (logits == np.inf))[0])
        raise NumericError(f"the logit of token {first} is {logits[first]}")
    return ids[:n_found]
