"""A checkpoint of Hugging Face's as a GGUF model: described, checked, quantized in pieces, written whole or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.huggingface.architectures import describe
from edgeinfer.converters.huggingface.checkpoint import Checkpoint, open_checkpoint
from edgeinfer.converters.huggingface.description import Description, Target, Value, rows_of
from edgeinfer.converters.huggingface.metadata import metadata, source_hashes
from edgeinfer.converters.huggingface.tokenizers.proof import differing
from edgeinfer.converters.huggingface.weights import Weights, n_bytes_of
from edgeinfer.converters.output import Written, check_target, need_room, workspace, write_model
from edgeinfer.converters.quantize.encoding import Distortion, encode_all
from edgeinfer.converters.quantize.importance import Importance
from edgeinfer.converters.quantize.recipes import FILE_TYPES, OUR_TYPES, Layout, Override, tensor_type
from edgeinfer.converters.quantize.theirs import quantize_theirs
from edgeinfer.gguf import writer
from edgeinfer.gguf.writer import NewTensor

__all__ = ["Converted", "Options", "convert"]


@dataclass(frozen=True, slots=True)
class Options:
    """``quant``: a name of `FILE_TYPES`. ``overrides``: tensors that get a type of their own, the first that matches.
    ``source``: what to call the checkpoint in the file."""

    quant: str = "F16"
    overrides: tuple[Override, ...] = ()
    importance: Importance | None = None
    force: bool = False
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Converted:
    """A finished conversion. ``types``: tensors of each type. ``relative_error``: root mean square of what quantizing
    changed, over that of the weights. ``tokenizer_differs``: hard texts that the file splits otherwise than the
    checkpoint's own tokenizer, None where that library is not here."""

    written: Written
    architecture: str
    quant: str
    types: Mapping[str, int]
    bits_per_weight: float
    relative_error: float | None
    tokenizer_differs: Sequence[str] | None
    notes: tuple[str, ...] = field(default_factory=tuple)


def convert(folder: Path, target: Path, options: Options, progress: Progress | None = None) -> Converted:
    """Convert the checkpoint in ``folder`` to ``target``. Nothing is written before all of it that can be known from
    its headers has been checked; in memory are a few million weights at a time.

    Raises `ModelNotFound`, `UnsupportedModel` and `FormatError` for checkpoints that are not there, not convertible or
    damaged; `UsageError` for a taken name; `EdgeInferError` where the disk is full; `BackendUnavailable` without our
    library.
    """
    progress = progress or Quiet()
    check_target(target, options.force)
    checkpoint = open_checkpoint(folder)
    described = describe(checkpoint)
    described.check(checkpoint.tensors, str(folder))
    if options.quant in OUR_TYPES:
        return _written(checkpoint, described, target, options, progress)
    return _through_llama(checkpoint, described, target, options, progress)


def _written(
    checkpoint: Checkpoint, described: Description, target: Path, options: Options, progress: Progress
) -> Converted:
    layout = Layout(
        n_layers=int(str(described.keys["block_count"])),
        n_experts=int(str(described.keys.get("expert_count", 0))),
        tied=not any(made.name == "output.weight" for made in described.targets),
    )
    keys = _keys(checkpoint, described, options)
    total = sum(n_bytes_of(made, checkpoint) for made in described.targets)
    keys |= source_hashes(checkpoint, progress)
    done = 0

    def report(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress.update(done, total)

    distortion = Distortion()
    with Weights(checkpoint, report) as weights:
        tensors = [_tensor(weights, made, layout, options, distortion) for made in described.targets]
        encoded = {key: writer.encoded(value) for key, value in keys.items()}
        written = write_model(target, encoded, tensors, force=options.force)
    types: dict[str, int] = {}
    for tensor in tensors:
        types[tensor.type.name] = types.get(tensor.type.name, 0) + 1
    n_weights = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    bits = 8 * sum(tensor.n_bytes for tensor in tensors) / n_weights
    differs = differing(checkpoint, target)
    return Converted(
        written, described.architecture, options.quant, types, bits, distortion.relative, differs, described.notes
    )


def _tensor(weights: Weights, made: Target, layout: Layout, options: Options, distortion: Distortion) -> NewTensor:
    kind = tensor_type(options.quant, made.name, made.shape, layout, options.overrides)
    importance = options.importance.of(made.name, made.shape) if options.importance else None

    def pieces() -> Iterator[npt.NDArray[np.uint8]]:
        return encode_all(kind, weights.pieces(made), made.name, rows_of(made.shape), distortion, importance)

    return NewTensor(made.name, made.shape[::-1], kind, pieces)


def _keys(checkpoint: Checkpoint, described: Description, options: Options) -> dict[str, Value]:
    """All metadata but the hashes of the source."""
    numbers: dict[str, Value] = {
        "general.file_type": FILE_TYPES[options.quant],
        "general.quantization_version": 2,
    }
    keys = metadata(checkpoint, described, options.source, numbers)
    return keys | options.importance.keys() if options.importance else keys


def _through_llama(
    checkpoint: Checkpoint, described: Description, target: Path, options: Options, progress: Progress
) -> Converted:
    """Types that only llama.cpp makes: a file of the checkpoint's own precision first, which is removed after."""
    exact = "BF16" if _stored_dtypes(checkpoint, described) == {"BF16"} else "F32"
    with workspace(target, "whole") as folder:
        whole = folder / "whole.gguf"
        first = replace(options, quant=exact, overrides=(), importance=None)
        made = _written(checkpoint, described, whole, first, progress)
        need_room(target, made.written.n_bytes // 2)
        result = quantize_theirs(
            whole,
            target,
            options.quant,
            overrides=options.overrides,
            importance=options.importance,
            force=options.force,
            progress=progress,
        )
    return replace(
        made,
        written=result.written,
        quant=options.quant,
        types=result.types,
        bits_per_weight=result.bits_per_weight,
        relative_error=result.relative_error,
    )


def _stored_dtypes(checkpoint: Checkpoint, described: Description) -> set[str]:
    return {checkpoint.tensors[source.name].dtype for made in described.targets for source in made.sources}
