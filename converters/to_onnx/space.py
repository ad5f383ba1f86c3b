"""How many bytes a package will need, before anything is written. Slightly more than it takes; never much less."""

from __future__ import annotations

import math
from collections.abc import Container

from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.sources import SourceTensor, TensorSource
from edgeinfer.converters.to_onnx.forms import CORRECTION_BLOCK, OFFSET_STEP
from edgeinfer.converters.to_onnx.mixture import Mixture
from edgeinfer.converters.to_onnx.table import table_bytes

__all__ = ["package_bytes"]

_PER_TENSOR = 1 << 16  # alignment, nodes, a line in the manifest
_REST = 64 << 20  # vocabulary and tokenizer


def package_bytes(source: TensorSource, mixture: Mixture, decoder: Decoder, variants: Container[str]) -> int:
    """Bytes of these variants with all that comes with them."""
    tensors = sum(_tensor_bytes(name, tensor, mixture) for name, tensor in source.tensors.items())
    total = _REST
    if "cpu" in variants or "cuda" in variants:
        ropes = 1 + (decoder.rope_local is not None) + (decoder.rope_long is not None)
        total += tensors + ropes * decoder.sizes.n_ctx_train * decoder.space.room * 4
    if "npu" in variants:
        total += tensors + table_bytes(source)
    return total


def _tensor_bytes(name: str, tensor: SourceTensor, mixture: Mixture) -> int:
    form = mixture.form(name, tensor) if len(tensor.shape) > 1 else None
    if form is None:
        return tensor.n_rows * tensor.row_bytes + _PER_TENSOR
    n_weights = tensor.n_rows * tensor.n_cols
    n_bytes = n_weights * form.bits // 8 + 4 * n_weights // form.block
    if form.zero_points:
        n_bytes += tensor.n_rows * math.ceil(tensor.n_cols / form.block / 2)
    if form.corrected:
        n = tensor.n_cols // OFFSET_STEP
        n_bytes += tensor.n_rows * (n + 4 * math.ceil(n / CORRECTION_BLOCK))
    return n_bytes + _PER_TENSOR
