"""What an ONNX package will take in memory, from its manifest alone: where `edgeinfer.memory`'s plan differs.

Figures are peaks of resident memory of ONNX Runtime's CPU provider with this package around it (onnxruntime 1.31), held
against measurement by `tests/test_memory_onnx.py`. Knows nothing of what is free.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeinfer.engines.base import EngineConfig
from edgeinfer.gguf import Dimensions
from edgeinfer.onnx.package import Package

__all__ = ["Parts", "parts"]

_MIB = 1 << 20
_PROCESS_BYTES = 24 * _MIB  # besides Python, llama.cpp's vocabulary and what draws a chat: the graph and its operators
_LOADING = 0.3  # of the weights: what lies in memory twice while they are packed
_KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32}
_ROW_BUFFERS = 6  # float32 rows that are alive at once for one token of a pass
_WHOLE_TEXT_BUFFERS = 8  # the same of an encoder: 1.15 to 1.4 times the peak, of 512 and of 4096 tokens


@dataclass(frozen=True, slots=True)
class Parts:
    """Bytes. ``weights``: as they are in memory at most, ``fixed`` of which no system can drop and read again; ``kv``:
    keys and values; ``computing``: all else that a context takes."""

    weights: int
    fixed: int
    kv: int
    computing: int


def parts(package: Package, sizes: Dimensions, config: EngineConfig, *, ours: bool) -> Parts:
    """``ours``: with our operators, which map packed weights, and keep keys and values of all sequences in one pool of
    ``config.kv_type``. ONNX Runtime's own kernels copy weights into a layout of theirs, for each thread count apart,
    and let go of the originals; they keep keys and values in float32."""
    if not package.hyperparameters.causal:
        return _encoder_parts(package, sizes, config)
    variant = package.variants.get("cpu") or next(iter(package.variants.values()))
    n_bytes = sum(file.bytes for file in variant.files.values())
    hyper = package.hyperparameters
    row = 2 * hyper.n_layers * hyper.n_kv_heads * hyper.head_dim
    n_cells = config.n_cells or config.n_ctx * config.n_seq_max
    kv = int(n_cells * row * (_KV_BYTES[config.kv_type] if ours else 4))  # of a buffer, what is written is resident
    # A table that is the head as well is packed, and read as it is.
    table = int(hyper.n_vocab * hyper.n_embd * 1.125) if hyper.tied_embeddings else 0
    copies = 1 if ours or config.n_threads == (config.n_threads_batch or config.n_threads) else 2
    return Parts(
        weights=int((copies + _LOADING) * n_bytes) + table,
        fixed=0 if ours else copies * n_bytes,
        kv=kv,
        computing=_computing(hyper.n_heads, sizes, config, n_cells, ours),
    )


def _encoder_parts(package: Package, sizes: Dimensions, config: EngineConfig) -> Parts:
    """An encoder keeps nothing, and reads a text in one pass."""
    n_bytes = sum(file.bytes for variant in package.variants.values() for file in variant.files.values())
    rows = 4 * config.n_ctx * _WHOLE_TEXT_BUFFERS * max(sizes.n_ff, 3 * sizes.n_embd)
    return Parts(int((1 + _LOADING) * n_bytes), n_bytes, 0, _PROCESS_BYTES + rows)


def _computing(n_heads: int, sizes: Dimensions, config: EngineConfig, n_cells: int, ours: bool) -> int:
    n_batch = min(config.n_batch, n_cells)
    rows = 4 * n_batch * _ROW_BUFFERS * max(sizes.n_ff, sizes.n_embd)
    # ONNX Runtime's attention writes a score for each head, token and position; ours a mask for all heads.
    scores = 2 * n_batch * n_cells if ours else 4 * n_heads * n_batch * config.n_ctx
    logits = 3 * 4 * (config.n_seq_max + 1) * sizes.n_vocab
    return _PROCESS_BYTES + rows + scores + logits
