"""What a format of weights is: rows are cut into blocks of ``block_size`` elements, each stored in ``block_bytes``
bytes.

A format writes two functions on blocks, in NumPy. They are its specification: the C++ of ``kernels_cpu/codec`` gives
the same bits. Which NaN a NaN is, is not part of it. Knows nothing of shapes, threads or the library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgeinfer.gguf.formats import TENSOR_TYPES

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FORMATS: dict[str, type[BlockFormat]] = {}
"""Every format by its name."""


class BlockFormat(ABC):
    """One format. ``id`` is its number in GGUF files (ggml_type)."""

    name: ClassVar[str]
    id: ClassVar[int]
    block_size: ClassVar[int]
    block_bytes: ClassVar[int]
    weighs: ClassVar[bool]
    """True when weights make it search for the scales of least weighted error."""
    searches: ClassVar[bool]
    """True when it does so without weights too; False when it then rounds to nearest, as gguf-py does."""
    special: ClassVar[bool] = False
    """True when NaN and infinity can be stored."""

    def __init_subclass__(cls, *, weighs: bool = False, searches: bool = False) -> None:
        kind = next(kind for kind in TENSOR_TYPES.values() if kind.name == cls.__name__)
        cls.name, cls.id, cls.block_size, cls.block_bytes = kind.name, kind.id, kind.block_size, kind.block_bytes
        cls.weighs, cls.searches = weighs or searches, searches
        FORMATS[cls.name] = cls

    @classmethod
    @abstractmethod
    def quantize_blocks(cls, values: Floats, weights: Floats | None) -> Bytes:
        """Values ``(n, block_size)`` to blocks ``(n, block_bytes)``. Values are finite and below 2^40 in magnitude,
        except for formats that store special values.

        ``weights``, of the shape of the values and from 0 to 1, say how much the square of each error counts; None: all
        the same. Formats that do not weigh ignore them. A scale beyond half precision's range is stored as infinity,
        and then quants mean nothing.
        """

    @classmethod
    @abstractmethod
    def dequantize_blocks(cls, blocks: Bytes) -> Floats:
        """Blocks ``(n, block_bytes)`` to values ``(n, block_size)``."""
