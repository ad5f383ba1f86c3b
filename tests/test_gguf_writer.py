"""What the writer writes, the reader takes back; `test_gguf` holds the reader against files made byte by byte."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf_files import model

from edgeinfer.errors import FormatError
from edgeinfer.gguf import TENSOR_TYPES, ValueType, read, read_structure, writer
from edgeinfer.gguf.writer import NewTensor

F32, Q8_0 = TENSOR_TYPES[0], TENSOR_TYPES[8]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    floats = np.arange(35, dtype=np.float32)
    blocks = np.random.default_rng(0).integers(0, 256, 3 * 34, np.uint8)

    def in_pieces() -> Iterator[bytes]:
        yield blocks[:34].tobytes()
        yield blocks[34:].tobytes()

    keys = {
        "general.architecture": writer.string("bär"),
        "a.count": writer.integer(2**32 - 1),
        "a.big": writer.integer(2**63, ValueType.UINT64),
        "a.ids": writer.array(np.array([3, -1, 5], np.int32)),
    }
    tensors = [NewTensor("f", (7, 5), F32, lambda: [floats]), NewTensor("q", (32, 3), Q8_0, in_pieces)]
    path = tmp_path / "made.gguf"
    with path.open("wb") as stream:
        writer.write(stream, keys, tensors)
    file = read_structure(path)
    assert list(file.metadata) == list(keys)
    assert file.metadata.text("general.architecture") == "bär"
    assert file.metadata.integer("a.count") == 2**32 - 1
    assert file.metadata.integer("a.big") == 2**63
    assert file.metadata.numbers("a.ids").tolist() == [3, -1, 5]
    assert [(t.shape, t.type) for t in file.tensors.values()] == [((7, 5), F32), ((32, 3), Q8_0)]
    data = path.read_bytes()
    for name, wanted in (("f", floats.tobytes()), ("q", blocks.tobytes())):
        at = file.tensors[name].offset
        assert data[at : at + len(wanted)] == wanted


def test_values_of_another_file_stay_as_they_are(tmp_path: Path) -> None:
    """Every kind of value that a model has, through `Metadata.stored`."""
    source = read(model().write(tmp_path / "model.gguf"))
    path = tmp_path / "copy.gguf"
    with path.open("wb") as stream:
        writer.write(stream, {key: source.metadata.stored(key) for key in source.metadata}, [])
    copy = read_structure(path).metadata
    assert list(copy) == list(source.metadata)
    for key in copy:
        assert copy.kind(key) == source.metadata.kind(key)
        assert copy.element_type(key) == source.metadata.element_type(key)
        assert np.array_equal(copy[key], source.metadata[key])


@pytest.mark.parametrize("n_floats", [34, 36])
def test_a_tensor_of_another_length_is_refused(n_floats: int) -> None:
    tensor = NewTensor("f", (7, 5), F32, lambda: [np.zeros(n_floats, np.float32)])
    with pytest.raises(FormatError, match=f"tensor f came as {4 * n_floats} bytes, but its shape needs 140"):
        writer.write(io.BytesIO(), {}, [tensor])
