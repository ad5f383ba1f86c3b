"""Checkpoints that lie, are damaged, or lead elsewhere: refused in one line, with nothing written."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_checkpoints import CONFIG, SHAPES, safetensors, write

from edgeinfer.converters.huggingface.safetensors import read_header
from edgeinfer.converters.to_gguf import Options, convert
from edgeinfer.errors import EdgeInferError, FormatError, ModelNotFound, UnsupportedModel, UsageError


def refused(folder: Path, error: type[EdgeInferError], match: str, options: Options | None = None) -> None:
    out = folder.parent / "out" / "model.gguf"
    with pytest.raises(error, match=match) as caught:
        convert(folder, out, options or Options("F16"))
    assert "\n" not in str(caught.value)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_the_sound_one_converts(tmp_path: Path) -> None:
    made = convert(write(tmp_path / "model"), tmp_path / "model.gguf", Options("Q8_0"))
    assert made.types == {"Q8_0": 7, "F32": 3, "F16": 1}
    with pytest.raises(UsageError, match="exists already; pass --force"):
        convert(tmp_path / "model", tmp_path / "model.gguf", Options("Q8_0"))
    before = (tmp_path / "model.gguf").read_bytes()
    convert(tmp_path / "model", tmp_path / "model.gguf", Options("Q8_0", force=True))
    assert (tmp_path / "model.gguf").read_bytes() == before


def test_every_wrong_tensor_is_named_at_once(tmp_path: Path) -> None:
    shapes = dict(SHAPES)
    del shapes["model.norm.weight"], shapes["model.layers.0.mlp.up_proj.weight"]
    shapes["model.layers.0.self_attn.q_proj.weight"] = (32, 16)
    shapes["model.layers.7.extra.weight"] = (3,)
    folder = write(tmp_path / "model", weights=safetensors(shapes))
    refused(
        folder,
        FormatError,
        "missing: 'model.layers.0.mlp.up_proj.weight', 'model.norm.weight'; "
        "unexpected: 'model.layers.7.extra.weight'; "
        r"of another shape.*q_proj.weight' \[32, 16\] instead of \[32, 32\]",
    )


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            UnsupportedModel,
            "of class 'GPT2LMHeadModel'; convertible are: Bert",
        ),
        ({"architectures": None}, UnsupportedModel, "names no class"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModel, r"quantized already \('gptq'\)"),
        ({"hidden_act": "relu"}, UnsupportedModel, "hidden_act is 'relu'"),
        ({"rope_scaling": {"rope_type": "mystery"}}, UnsupportedModel, "rope_type 'mystery'"),
        ({"num_hidden_layers": 10**9}, FormatError, "num_hidden_layers"),
        ({"num_attention_heads": 0}, FormatError, "num_attention_heads"),
        ({"num_attention_heads": 5}, FormatError, "does not divide"),
        ({"hidden_size": "32"}, FormatError, "hidden_size"),
        ({"rms_norm_eps": float("nan")}, FormatError, "finite"),
        ({"vocab_size": 3}, FormatError, "of another shape"),
    ],
)
def test_configurations(change: dict[str, Any], error: type[EdgeInferError], match: str, tmp_path: Path) -> None:
    refused(write(tmp_path / "model", config={**CONFIG, **change}), error, match)


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    small = {**SHAPES, "model.embed_tokens.weight": (100, 32)}
    folder = write(tmp_path / "model", config={**CONFIG, "vocab_size": 100}, weights=safetensors(small))
    refused(folder, FormatError, "the tokenizer has ids up to 261, but the embedding only 100 rows")


def test_values_that_no_type_holds(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", weights=safetensors(SHAPES, fill=float("nan")))
    refused(folder, FormatError, "tensor token_embd.weight: values have nan", Options("Q8_0"))
    folder = write(tmp_path / "large", weights=safetensors(SHAPES, fill=1e6))
    refused(folder, FormatError, "more than F16 can hold; use --quant bf16")
    refused(write(tmp_path / "int", weights=safetensors(SHAPES, dtype="I8", fill=1)), UnsupportedModel, "type I8")


def header_of(entries: Any, n_data: int = 4) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(n_data)


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "too few"),
    "huge header": (lambda: struct.pack("<Q", 1 << 60) + b"{}", "claims a header of"),
    "lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid x", "Git LFS"),
    "no object": (lambda: header_of([]), "must hold a JSON object"),
    "no json": (lambda: header_of(b"{x"), "is not JSON"),
    "nested": (lambda: header_of(b'{"a":' * 100000), "nested too deeply"),
    "twice": (lambda: header_of(b'{"a": {}, "a": {}}'), "occurs twice"),
    "dtype": (lambda: header_of({"a": {**ONE, "dtype": "F31"}}), "dtype 'F31'"),
    "shape": (lambda: header_of({"a": {**ONE, "shape": [-1]}}), "shape"),
    "large shape": (lambda: header_of({"a": {**ONE, "shape": [1 << 40, 1 << 40]}}), "needs"),
    "offsets": (lambda: header_of({"a": {**ONE, "data_offsets": [0, 8]}}), "needs 4 bytes"),
    "backwards": (lambda: header_of({"a": {**ONE, "data_offsets": [8, 4]}}), "needs 4 bytes"),
    "overlap": (lambda: header_of({"a": ONE, "b": ONE}), "overlaps"),
    "hole": (lambda: header_of({"a": {**ONE, "data_offsets": [4, 8]}}, 8), "follows a hole"),
    "truncated": (lambda: header_of({"a": ONE}, 3), "truncated"),
    "longer": (lambda: header_of({"a": ONE}, 5), "longer than its tensors"),
    "not an object": (lambda: header_of({"a": 1}), "not described by an object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_headers(case: str, tmp_path: Path) -> None:
    make, match = BROKEN[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(make())
    with pytest.raises(FormatError, match=match):
        read_header(path)


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(header_of({"__metadata__": {"format": "pt"}, "a": ONE}))
    assert read_header(path)["a"].n_bytes == 4


def test_bytes_at_random(tmp_path: Path) -> None:
    """Any byte of the header changed: read, or refused; nothing else."""
    sound = safetensors(SHAPES)
    (length,) = struct.unpack("<Q", sound[:8])
    rng = np.random.default_rng(0)
    path = tmp_path / "model.safetensors"
    for at in rng.integers(0, 8 + length, 200).tolist():
        path.write_bytes(sound[:at] + bytes([int(rng.integers(256))]) + sound[at + 1 :])
        with contextlib.suppress(FormatError):
            read_header(path)


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("../model.safetensors", FormatError, "may only name .safetensors files beside it"),
        ("/etc/passwd", FormatError, "may only name"),
        ("a\\b.safetensors", FormatError, "may only name"),
        ("other.bin", FormatError, "may only name"),
        (7, FormatError, "may only name"),
        ("absent.safetensors", ModelNotFound, "lacks absent.safetensors"),
    ],
)
def test_an_index_names_files_beside_it_only(
    name: object, error: type[EdgeInferError], match: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "model")
    index = {"metadata": {}, "weight_map": dict.fromkeys(SHAPES, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, error, match)


def test_an_index_that_is_wrong(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    index = {"weight_map": {**dict.fromkeys(SHAPES, "model.safetensors"), "ghost": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, FormatError, "tensor 'ghost' is in model.safetensors, where it is not")


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links_do_not_lead_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    elsewhere = tmp_path / "elsewhere.safetensors"
    (folder / "model.safetensors").rename(elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)
    refused(folder, FormatError, "outside the checkpoint")
    elsewhere.unlink()
    refused(folder, FormatError, "is a link to a file that is not there")


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_the_links_of_a_cache_are_followed(tmp_path: Path) -> None:
    """Hugging Face's cache keeps files under their hashes, and links to them under their names."""
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in write(tmp_path / "model").iterdir():
        path.rename(repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert convert(snapshot, tmp_path / "model.gguf", Options("F16")).architecture == "llama"


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, UnsupportedModel, "pytorch_model.bin, a Python pickle, which is never opened")


def test_documents_that_are_too_large(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    with (folder / "config.json").open("wb") as stream:
        stream.truncate(17 << 20)
    refused(folder, FormatError, "larger than the 16 MiB")


def test_what_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "absent", ModelNotFound, "is missing; give the folder of a checkpoint")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", ModelNotFound, "has no config.json")
