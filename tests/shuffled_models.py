"""A model with the rows of one matrix in another order: sound in every way but what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from edgeinfer import gguf


def shuffled(source: Path, target: Path, tensor: str) -> Path:
    """A copy of a GGUF file with the rows of ``tensor`` shuffled."""
    info = gguf.read(source).tensors[tensor]
    shutil.copyfile(source, target)
    rows = np.memmap(target, np.uint8, "r+", info.offset, (info.shape[1], info.n_bytes // info.shape[1]))
    rows[:] = rows[np.random.default_rng(0).permutation(len(rows))]
    rows.flush()
    return target
