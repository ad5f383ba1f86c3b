"""A GGUF model in other types, by our own quantizers: tensor by tensor, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinfer import __version__, gguf, kernels
from edgeinfer.catalog.store import Progress, Quiet
from edgeinfer.converters.output import Written, check_target, write_model
from edgeinfer.converters.quantize.encoding import Distortion, encode_all
from edgeinfer.converters.quantize.feedback import FED_BACK, Feedbacks, Inputs
from edgeinfer.converters.quantize.importance import Importance
from edgeinfer.converters.quantize.recipes import FILE_TYPES, Layout, Override, tensor_type
from edgeinfer.errors import FormatError, UnsupportedQuant, UsageError
from edgeinfer.gguf import GGUFFile, TensorInfo, TensorType, writer
from edgeinfer.gguf.header import open_regular
from edgeinfer.gguf.writer import NewTensor
from edgeinfer.kernels.formats import FORMATS

__all__ = ["Quantized", "floats_of", "layout_of", "quantize_ours", "to_be_fed_back"]

Floats = npt.NDArray[np.float32]
_PIECE_ELEMENTS = 1 << 22
_NOT_COPIED = ("split.", "general.alignment")


@dataclass(frozen=True, slots=True)
class Quantized:
    """A finished build. ``types``: tensors of each type. ``relative_error``: root mean square of what quantizing
    changed over that of the weights (of every sixteenth row), None where it was not measured."""

    written: Written
    quant: str
    types: Mapping[str, int]
    bits_per_weight: float
    relative_error: float | None
    notes: tuple[str, ...] = ()


def quantize_ours(
    source: Path,
    target: Path,
    quant: str,
    *,
    overrides: Sequence[Override] = (),
    importance: Importance | None = None,
    inputs: Inputs | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Write the model ``source`` as ``target``, in the types of the recipe ``quant``. A tensor that has its type
    already is copied. ``inputs``: what its matrices are fed, for those of a type in `FED_BACK`; the others go by
    ``importance``. Raises what `edgeinfer.gguf.read` raises, `UnsupportedQuant` for a tensor that we do not decode,
    `FormatError` for values that a type cannot hold, and what `write_model` does."""
    progress = progress or Quiet()
    check_target(target, force)
    file = gguf.read(source)
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the file to be read; give another name")
    layout, distortion = layout_of(file), Distortion()
    done, total = 0, sum(tensor.n_bytes for tensor in file.tensors.values())

    def report(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress.update(done, total)

    known = Known(importance, Feedbacks(inputs) if inputs else None)
    made = [
        _converted(tensor, _wanted(tensor, quant, layout, overrides), known, distortion, report)
        for tensor in file.tensors.values()
    ]
    written = write_model(target, _keys(file, quant, importance), made, force=force)
    return Quantized(
        written, quant, _counts(made), _bits(made), distortion.relative, _notes(file, made, importance, quant)
    )


def to_be_fed_back(file: GGUFFile, quant: str, overrides: Sequence[Override]) -> list[str]:
    """The tensors whose inputs `quantize_ours` will ask for, in its order."""
    layout = layout_of(file)
    wanted = {tensor.name: _wanted(tensor, quant, layout, overrides) for tensor in file.tensors.values()}
    return [name for name, kind in wanted.items() if kind.name in FED_BACK and kind != file.tensors[name].type]


def layout_of(file: GGUFFile) -> Layout:
    sizes = gguf.dimensions(file)
    n_experts = file.metadata.integer(f"{file.architecture}.expert_count", 0)
    return Layout(sizes.n_layers, n_experts, "output.weight" not in file.tensors)


def floats_of(tensor: TensorInfo, report: Callable[[int], None] = lambda _n_bytes: None) -> Iterator[Floats]:
    """A tensor's values in pieces of whole rows. Raises `UnsupportedQuant` for a type that we do not decode."""
    if tensor.type.name != "F32" and tensor.type.name not in FORMATS:
        raise UnsupportedQuant(
            f"{tensor.path}: tensor {tensor.name} is of type {tensor.type.name}, which we do not decode; "
            "start from the model that it was made from"
        )
    for rows in _blocks(tensor, report):
        yield rows.view("<f4") if tensor.type.name == "F32" else kernels.dequantize(tensor.type.name, rows)


def _blocks(tensor: TensorInfo, report: Callable[[int], None]) -> Iterator[npt.NDArray[np.uint8]]:
    """A tensor's bytes, ``(rows, bytes of a row)`` at a time, read and not mapped."""
    n_rows = tensor.n_elements // tensor.shape[0]
    row_bytes = tensor.n_bytes // n_rows
    step = max(1, _PIECE_ELEMENTS // tensor.shape[0])
    with open_regular(tensor.path) as stream:
        stream.seek(tensor.offset)
        for begin in range(0, n_rows, step):
            rows = np.empty((min(step, n_rows - begin), row_bytes), np.uint8)
            room = rows.reshape(-1).data
            while room:
                got = stream.readinto(room)  # type: ignore[attr-defined]
                if not got:
                    raise FormatError(f"{tensor.path} became shorter while tensor {tensor.name} was read")
                room = room[got:]
            report(rows.nbytes)
            yield rows


def _wanted(tensor: TensorInfo, quant: str, layout: Layout, overrides: Sequence[Override]) -> TensorType:
    wanted = tensor_type(quant, tensor.name, tensor.shape[::-1], layout, overrides)
    stays = tensor.type.name == "I32" or (len(tensor.shape) == 1 and tensor.type.name == "F32")
    return tensor.type if stays else wanted


@dataclass(frozen=True, slots=True)
class Known:
    """Of the weights, from a text."""

    importance: Importance | None
    feedbacks: Feedbacks | None


def _converted(
    tensor: TensorInfo,
    kind: TensorType,
    known: Known,
    distortion: Distortion,
    report: Callable[[int], None],
) -> NewTensor:
    shape = tensor.shape[::-1]
    weights = known.importance.of(tensor.name, shape) if known.importance else None

    def pieces() -> Iterator[npt.NDArray[np.uint8]]:
        if kind == tensor.type:
            return _blocks(tensor, report)
        n_rows = tensor.n_elements // tensor.shape[0]
        feedback = known.feedbacks.of(tensor.name) if known.feedbacks and kind.name in FED_BACK else None
        return encode_all(kind, floats_of(tensor, report), tensor.name, n_rows, distortion, weights, feedback)

    return NewTensor(tensor.name, tensor.shape, kind, pieces)


def _keys(file: GGUFFile, quant: str, importance: Importance | None) -> dict[str, bytes]:
    keys = {key: file.metadata.stored(key) for key in file.metadata if not key.startswith(_NOT_COPIED)}
    keys["general.file_type"] = writer.integer(FILE_TYPES[quant])
    keys["general.quantization_version"] = writer.integer(2)
    keys["edgeinfer.quantizer.version"] = writer.string(__version__)
    keys["edgeinfer.quantizer.source"] = writer.string(file.path.name)
    if importance:
        keys |= {key: writer.encoded(value) for key, value in importance.keys().items()}
    return keys


def _counts(tensors: Sequence[NewTensor]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.type.name] = counts.get(tensor.type.name, 0) + 1
    return counts


def _bits(tensors: Sequence[NewTensor]) -> float:
    n_weights = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    return 8 * sum(tensor.n_bytes for tensor in tensors) / n_weights


def _notes(file: GGUFFile, made: Sequence[NewTensor], importance: Importance | None, quant: str) -> tuple[str, ...]:
    notes = []
    again = sum(
        file.tensors[tensor.name].type != tensor.type and file.tensors[tensor.name].type.block_size > 1
        for tensor in made
    )
    if again:
        notes.append(
            f"{again} tensors were quantized before: the errors add up; start from the full weights if you can"
        )
    if importance:
        matrices = [tensor for tensor in made if tensor.type.name in FORMATS and FORMATS[tensor.type.name].weighs]
        lacking = [tensor.name for tensor in matrices if tensor.name not in importance.entries]
        if not matrices:
            notes.append(f"importance makes no difference to {quant}: its types round to nearest")
        elif lacking:
            notes.append(f"no importance is known of {len(lacking)} tensors, such as {lacking[0]}")
    return tuple(notes)
