"""``edgeinfer convert --quant int8-static``: what scripts see of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoint_cases import BASE
from small_models import small_model, written
from tiny_checkpoints import checkpoint

from edgeinfer import kernels
from edgeinfer.cli import main
from edgeinfer.onnx import package

TEXT = "Of all the things that words can do, the best is to be read aloud by 2 or 3 people. " * 30
NPU = ("--to", "onnx", "--variant", "npu", "-c", "128")


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = main(["convert", *map(str, args)])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text(TEXT, encoding="utf-8")
    return written(small_model(default="F16"), tmp_path)


@pytest.mark.parametrize("bits", [8, 16])
def test_what_was_found_is_said_and_kept(
    bits: int, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*NPU, "--quant", "int8-static", "--calibrate", tmp_path / "words.txt", "--calibrate-tokens", "512")
    chosen = ("--activations", "8") if bits == 8 else ()
    code, out, err = run(capsys, model, tmp_path / "out", *flags, *chosen, "--json")
    assert code == 0, err
    assert "reading words.txt" in err
    told = json.loads(out.splitlines()[-1])
    assert (told["quant"], told["variants"]) == ("int8-static", ["npu"])
    assert told["calibration"]["text"] == "words.txt"
    assert len(told["calibration"]["sha256"]) == 64
    assert told["calibration"]["tokens"] == 512
    assert told["measured"]["activation_bits"] == bits
    assert (told["measured"]["activation_values_8"] > 0) == (bits == 8)
    read = package.read(tmp_path / "out")
    assert read.measured["clipped"] == told["measured"]["clipped"]
    assert read.calibration is not None
    assert read.calibration.tokens == 512
    code, out, _ = run(capsys, model, tmp_path / "out", *flags, *chosen, "--force")
    assert code == 0
    assert f"products take and give {'' if bits == 16 else '8 of 8 bits and '}" in out
    assert "in ranges found on 512 tokens of words.txt" in out
    assert "clipped" in out
    assert "norms, softmax and rope stay floats" in out


def test_a_short_text_is_said(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "short.txt").write_text(TEXT[:600], encoding="utf-8")
    flags = (*NPU, "--quant", "int4-static", "--method", "search", "--calibrate", tmp_path / "short.txt")
    code, _, err = run(capsys, model, tmp_path / "out", *flags)
    assert code == 0, err
    assert "short.txt has only" in err
    assert package.read(tmp_path / "out").mode == "int4-static"


def test_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Needs no GGUF file on the way, and no whole blocks."""
    folder, _ = checkpoint(tmp_path / "tiny-qwen", "Qwen2", {**BASE, "intermediate_size": 100})
    (tmp_path / "words.txt").write_text(TEXT, encoding="utf-8")
    capsys.readouterr()
    flags = (*NPU, "--quant", "int8-static", "--calibrate", tmp_path / "words.txt", "--calibrate-tokens", "256")
    code, _, err = run(capsys, folder, tmp_path / "out", *flags)
    assert code == 0, err
    made = package.read(tmp_path / "out")
    assert made.tensors["blk.0.ffn_down.weight"].form == "rows8"
    assert "unfit_matrices" not in made.measured


@pytest.mark.parametrize("flags", [("--quant", "int4"), (*NPU, "--quant", "int4-static")])
def test_a_checkpoints_weights_learn_too(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From what a package of 8 bits is fed, which is made for that and removed."""
    folder, _ = checkpoint(tmp_path / "tiny-llama", "Llama", BASE)
    (tmp_path / "words.txt").write_text(TEXT, encoding="utf-8")
    capsys.readouterr()
    learning = ("--calibrate", tmp_path / "words.txt", "--calibrate-tokens", "512")
    code, _, err = run(capsys, folder, tmp_path / "out", "--to", "onnx", *flags, *learning)
    assert code == 0, err
    assert "reading words.txt for blk.0.attn_q.weight" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny-llama", "words.txt"]


STATIC = ("--quant", "int8-static")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((*NPU, *STATIC), "give --calibrate FILE"),
        ((*NPU, *STATIC, "--calibrate", "EMPTY"), "has no text"),
        ((*NPU, *STATIC, "--calibrate", "SHORT"), "too few to find ranges with: give a text of 256 or more"),
        ((*NPU, *STATIC, "--calibrate", "MODEL"), "is not UTF-8"),
        ((*NPU, *STATIC, "--calibrate", "nowhere.txt"), "nowhere.txt"),
        ((*NPU, *STATIC, "--calibrate", "TEXT", "--method", "gptq"), "for weights of 4 bits"),
        ((*NPU, *STATIC, "--calibrate", "TEXT", "--save-imatrix", "x.gguf"), "is for GGUF"),
        ((*NPU, *STATIC, "--calibrate", "TEXT", "--activations", "12"), "12"),
        (("--to", "onnx", *STATIC, "--calibrate", "TEXT"), "is for --variant npu"),
        (("--to", "onnx", "--variant", "all", *STATIC, "--calibrate", "TEXT"), "and not for cpu and cuda"),
        ((*NPU, "--quant", "int8", "--activations", "8"), "--activations is for --to onnx --quant int8-static"),
        ((*NPU, "--activations", "16"), "--activations is for"),
        (("--to", "gguf", *STATIC), "int8-static"),
        ((*NPU, *STATIC, "--calibrate", "TEXT", "--tensor-type", "attn_v=int8"), "--tensor-type is not for"),
        ((*NPU[:-1], "9999", *STATIC, "--calibrate", "TEXT"), "the model was trained for 2048"),
    ],
)
def test_flags_that_do_not_go_together(
    args: tuple[str, ...], said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "short.txt").write_text("hello")
    names = {"EMPTY": "empty.txt", "SHORT": "short.txt", "TEXT": "words.txt", "MODEL": model.name}
    places = {key: tmp_path / name for key, name in names.items()}
    code, out, err = run(capsys, model, tmp_path / "out", *(places.get(arg, arg) for arg in args))
    assert code == 2
    assert said in err
    assert not out
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_a_taken_place_is_refused_at_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the text is read, not after."""
    flags = (*NPU, *STATIC, "--calibrate", tmp_path / "words.txt", "--calibrate-tokens", "256")
    assert run(capsys, model, tmp_path / "out", *flags)[0] == 0
    code, _, err = run(capsys, model, tmp_path / "out", *flags)
    assert code == 2
    assert "--force replaces it" in err
    assert "converting" not in err


def test_what_a_killed_run_left_is_cleared_away(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = tmp_path / "out.calibrating.partial" / "whole.partial" / "npu"
    left.mkdir(parents=True)
    (left / "model.onnx.data").write_bytes(b"half")
    flags = (*NPU, *STATIC, "--calibrate", tmp_path / "words.txt", "--calibrate-tokens", "256")
    code, _, err = run(capsys, model, tmp_path / "out", *flags)
    assert code == 0, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny.gguf", "words.txt"]


@pytest.mark.skipif(not kernels.expected().active, reason=kernels.expected().why)
def test_weights_of_four_bits_learn_from_the_text(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GGUF model reads it once more, for GPTQ."""
    flags = (*NPU, "--quant", "int4-static", "--calibrate", tmp_path / "words.txt", "--calibrate-tokens", "512")
    graphs = []
    for method in ("auto", "rtn"):
        code, _, err = run(capsys, model, tmp_path / method, *flags, "--method", method)
        assert code == 0, err
        graphs.append((tmp_path / method / "npu" / "model.onnx.data").read_bytes())
    assert "reading words.txt for" not in err
    assert graphs[0] != graphs[1]
