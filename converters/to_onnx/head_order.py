"""The order of rows within heads: a graph rotates rows i and i + half together, which lie side by side in some sources.
Exact, as blocks lie along rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.converters.architectures.decoder import Decoder

__all__ = ["HeadOrder"]

Order = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HeadOrder:
    """Heads of ``dim`` rows, of which the first ``n_rotated`` are; ``interleaved``: in the source they lie in pairs."""

    dim: int
    n_rotated: int
    interleaved: bool

    @classmethod
    def of(cls, decoder: Decoder) -> HeadOrder:
        return cls(decoder.sizes.head_dim, decoder.rope.head_dim, decoder.interleaved_rope)

    def concerns(self, name: str) -> bool:
        """Whether the rows of this tensor lie otherwise in a graph."""
        return self.interleaved and name.split(".")[-2] in ("attn_q", "attn_k")

    def of_graph(self, n_rows: int) -> Order:
        """Which row of the source is each row of the graph, for rows of whole heads: pairs (2i, 2i + 1) become halves
        (i, i + half); rows that are not rotated stay."""
        heads, half = np.arange(n_rows).reshape(-1, self.dim), self.n_rotated // 2
        halves = heads[:, : self.n_rotated].reshape(-1, half, 2).transpose(0, 2, 1).reshape(-1, self.n_rotated)
        order: Order = np.concatenate([halves, heads[:, self.n_rotated :]], axis=1).reshape(-1)
        return order

    def of_source(self, n_rows: int) -> Order:
        """The way back: which row of the graph is each row of the source."""
        return np.argsort(self.of_graph(n_rows))
