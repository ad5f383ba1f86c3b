"""``--calibrate`` of ``quantize`` and ``convert``: a text in, a better build of the same size out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_models import small_model, written

from edgeinfer import gguf, kernels
from edgeinfer.cli import main
from edgeinfer.converters.quantize.importance import read_importance

pytestmark = pytest.mark.skipif(not kernels.expected().active, reason=kernels.expected().why)

TEXT = "Of all the things that words can do, the best is to be read aloud by 2 or 3 people. " * 30


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text(TEXT, encoding="utf-8")
    return written(small_model(default="F16"), tmp_path)


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = main([*map(str, args)])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize("by", ["edgeinfer", "llama.cpp"])
@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_quantize_in_one_go(
    by: str, suffix: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, out = tmp_path / f"kept.{suffix}", tmp_path / "out.gguf"
    flags = ("--calibrate", tmp_path / "words.txt", "--calibrate-tokens", "512", "--save-imatrix", kept)
    code, told, err = run(capsys, "quantize", model, out, "--type", "q4_k_m", "--with", by, *flags, "--json")
    assert code == 0, err
    assert json.loads(told.splitlines()[-1])["by"] == by
    importance = read_importance(kept)
    assert importance.dataset == "words.txt"
    assert "blk.1.ffn_down.weight" in importance.entries
    keys = gguf.read(out).metadata
    again = tmp_path / "again.gguf"
    code, _, err = run(capsys, "quantize", model, again, "--type", "q4_k_m", "--with", by, "--imatrix", kept)
    assert code == 0, err
    if suffix == "gguf":
        assert len(importance.extra["edgeinfer.calibration.sha256"]) == 64
    if by == "edgeinfer":
        assert keys.text("quantize.imatrix.dataset") == "words.txt"


def test_importance_alone_is_what_the_file_gives(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, first, second = tmp_path / "kept.gguf", tmp_path / "a.gguf", tmp_path / "b.gguf"
    flags = ("--calibrate", tmp_path / "words.txt", "--save-imatrix", kept, "--method", "importance")
    assert run(capsys, "quantize", model, first, "--type", "q5_0", *flags)[0] == 0
    assert run(capsys, "quantize", model, second, "--type", "q5_0", "--imatrix", kept)[0] == 0
    made = [gguf.read(path) for path in (first, second)]
    for name, tensor in made[0].tensors.items():
        other = made[1].tensors[name]
        data = [np.fromfile(one.path, np.uint8, one.n_bytes, offset=one.offset) for one in (tensor, other)]
        np.testing.assert_array_equal(data[0], data[1], err_msg=name)


def test_convert_to_onnx(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--to", "onnx", "--quant", "int4", "--block-size", "64", "--calibrate", tmp_path / "words.txt")
    code, out, err = run(capsys, "convert", model, tmp_path / "out", *flags, "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["quant"] == "int4"
    assert "reading words.txt" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("quantize", "MODEL", "OUT", "--type", "q4_0", "--save-imatrix", "x.gguf"), "give a text"),
        (("quantize", "MODEL", "OUT", "--type", "q4_0", "--method", "gptq"), "give --calibrate"),
        (("quantize", "MODEL", "OUT", "--type", "q4_0", "--calibrate", "TEXT", "--imatrix", "MODEL"), "one of them"),
        (("quantize", "MODEL", "OUT", "--type", "q4_0", "--calibrate", "EMPTY"), "has no text"),
        (("quantize", "MODEL", "OUT", "--type", "q4_0", "--calibrate", "MODEL"), "is not UTF-8"),
        (("convert", "MODEL", "OUT", "--to", "onnx", "--quant", "int8", "--calibrate", "TEXT"), "are for --quant int4"),
        (
            ("convert", "MODEL", "OUT", "--to", "onnx", "--quant", "int4", "--calibrate", "TEXT", "--method", "search"),
            "has no use for a text",
        ),
        (("convert", "MODEL", "OUT", "--to", "onnx", "--quant", "int4", "--method", "gptq"), "learns from a text"),
        (
            ("convert", "MODEL", "OUT", "--to", "gguf", "--method", "gptq"),
            "--method and --zero-points are for --to onnx",
        ),
    ],
)
def test_flags_that_do_not_go_together(
    args: tuple[str, ...], said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    places = {"MODEL": model, "OUT": tmp_path / "out", "TEXT": tmp_path / "words.txt", "EMPTY": tmp_path / "empty.txt"}
    code, out, err = run(capsys, *(places.get(arg, arg) for arg in args))
    assert code == 2
    assert said in err
    assert not out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("name", "forced"),
    [("MODEL", "another file"), ("TEXT", "another file"), ("OUT", "another file"), ("KEPT", "")],
)
def test_save_imatrix_over_what_is_there(
    name: str, forced: str, force: bool, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It took the place of the model that was to be quantized."""
    text, out, kept = tmp_path / "words.txt", tmp_path / "out.gguf", tmp_path / "kept.gguf"
    kept.write_bytes(b"precious")
    before = {path: path.read_bytes() for path in (model, text, kept)}
    save = {"MODEL": model, "TEXT": text, "OUT": out, "KEPT": kept}[name]
    more: list[str | Path] = ["--calibrate", text, "--calibrate-tokens", "64", "--save-imatrix", save]
    more += ["--force"] if force else []
    code, _, err = run(capsys, "quantize", model, out, "--type", "q4_0", *more)
    if force and not forced:
        assert code == 0, err
        assert read_importance(kept).entries
        return
    assert code == 2
    assert (forced or "exists already") in err
    assert {path: path.read_bytes() for path in before} == before
