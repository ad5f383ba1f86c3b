"""What two token sequences have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["common_prefix"]

_FIRST = 8


def common_prefix(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> int:
    """How many leading tokens are the same."""
    n = min(len(a), len(b))
    if n > _FIRST and a[0] != b[0]:  # most strangers differ at once
        return 0
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
