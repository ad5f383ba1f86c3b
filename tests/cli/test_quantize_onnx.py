"""``edgeinfer quantize`` of ONNX packages: what scripts see of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx_packages import small_package

from edgeinfer.cli import main
from edgeinfer.onnx import package


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = main([*map(str, args)])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_a_package_becomes_another(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Which says what was made, passes ``models verify``, and cannot be made of it again."""
    _, folder = small_package(tmp_path, quant="f32", name="small")
    out = tmp_path / "deep" / "out"
    code, told, err = run(capsys, "quantize", folder, out, "--type", "INT8", "--tensor-type", "attn_v=f16", "--json")
    assert code == 0
    summary = json.loads(told.splitlines()[-1])
    assert (summary["folder"], summary["name"], summary["quant"]) == (str(out), "small", "int8")
    assert summary["forms"] == {"int8/32": 14, "float": 7}
    assert summary["variants"] == ["cpu"]
    assert 0 < summary["measured"]["relative_error"] < 0.01
    assert "quantizing llama" in err
    made = package.read(out)
    assert made.source_file == "llama"
    code, told, _ = run(capsys, "models", "verify", folder, "--json")
    assert json.loads(told)["models"][0]["sha256"] == made.source_sha256
    assert run(capsys, "models", "verify", out)[0] == 0
    code, told, err = run(capsys, "quantize", out, tmp_path / "int4", "--type", "int4", "--method", "search")
    assert code == 0
    assert "rounding to int4 cost" in told
    assert "out is int8 already" in err


def test_zero_points(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, folder = small_package(tmp_path, quant="f32")
    args = ("quantize", folder, tmp_path / "out", "--type", "int4", "--zero-points", "--block-size", "64")
    code, told, _ = run(capsys, *args, "--method", "hqq", "--json")
    assert code == 0
    assert json.loads(told.splitlines()[-1])["forms"] == {"float": 5, "int4/64+zeros": 14, "int8/32": 2}
    assert run(capsys, "models", "verify", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("PACKAGE", "OUT", "--type", "int8"), 2, "is int8, and every matrix has the form already"),
        (("PACKAGE", "OUT", "--type", "q4_k_m"), 2, "--type q4_k_m is not one of ONNX packages: f32, f16"),
        (("PACKAGE", "OUT", "--type", "int4", "--method", "gptq"), 2, "learns from a text"),
        (("PACKAGE", "OUT", "--type", "int4", "--method", "search", "--calibrate", "TEXT"), 2, "no use for a text"),
        (("PACKAGE", "OUT", "--type", "int4", "--method", "importance"), 2, "packages have rtn, search, hqq and gptq"),
        (("PACKAGE", "OUT", "--type", "int4", "--calibrate", "TEXT", "--save-imatrix", "x.gguf"), 2, "is for GGUF"),
        (("PACKAGE", "OUT", "--type", "int4", "--calibrate", "nowhere.txt"), 2, "nowhere.txt"),
        (("PACKAGE", "OUT", "--type", "f16", "--method", "search"), 2, "--calibrate and --method are for int4"),
        (("PACKAGE", "OUT", "--type", "f16", "--calibrate", "TEXT"), 2, "--calibrate and --method are for int4"),
        (("PACKAGE", "OUT", "--type", "int4", "--activations", "8"), 2, "--activations is for int8-static"),
        (("PACKAGE", "OUT", "--type", "f16", "-c", "64"), 2, "has no variant npu"),
        (("PACKAGE", "OUT", "--type", "int8-static"), 2, "give --calibrate FILE"),
        (("PACKAGE", "OUT", "--type", "int8-static", "--calibrate", "TEXT"), 2, "too few to find ranges with"),
        (("PACKAGE", "OUT", "--type", "int8-static", "--calibrate", "TEXT", "-c", "9999"), 2, "was trained for 2048"),
        (
            ("PACKAGE", "OUT", "--type", "int8-static", "--calibrate", "TEXT", "--tensor-type", "output=int4"),
            2,
            "--tensor-type is not for int8-static",
        ),
        (("PACKAGE", "OUT", "--type", "f16", "--zero-points"), 2, "zero points are for int4"),
        (("PACKAGE", "OUT", "--type", "int4", "--method", "hqq"), 2, "hqq looks for zero points; --zero-points has"),
        (("PACKAGE", "OUT", "--type", "int4-static", "--calibrate", "TEXT", "--zero-points"), 2, "steps around zero"),
        (("MODEL", "OUT", "--type", "q8_0", "--zero-points"), 2, "are for ONNX packages"),
        (("PACKAGE", "OUT", "--type", "int4", "--with", "llama.cpp"), 2, "are for GGUF models"),
        (("PACKAGE", "OUT", "--type", "int4", "--tensor-type", "ffn=q6_k"), 2, "of ONNX types there are"),
        (("PACKAGE", "PACKAGE", "--type", "int4", "--force"), 2, "is the package to be read"),
        (("MODEL", "OUT", "--type", "q8_0", "--block-size", "64"), 2, "are for ONNX packages"),
        (("MODEL", "OUT", "--type", "q8_0", "--method", "rtn"), 2, "are for ONNX packages"),
        (("MODEL", "OUT", "--type", "q8_0", "--activations", "8"), 2, "are for ONNX packages"),
        (("MODEL", "OUT", "--type", "q8_0", "-c", "64"), 2, "are for ONNX packages"),
        (("FOLDER", "OUT", "--type", "int8"), 1, "is a folder and no ONNX package"),
        (("NOWHERE", "OUT", "--type", "int8"), 4, "nowhere"),
    ],
)
def test_errors(
    args: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, folder = small_package(tmp_path, quant="int8")
    (tmp_path / "text.txt").write_text("a text")
    (tmp_path / "folder").mkdir()
    places = {"MODEL": model, "PACKAGE": folder, "OUT": tmp_path / "out", "TEXT": tmp_path / "text.txt"}
    places |= {"FOLDER": tmp_path / "folder", "NOWHERE": tmp_path / "nowhere"}
    found, told, err = run(capsys, "quantize", *(places.get(arg, arg) for arg in args))
    assert found == code
    assert said in err
    assert not told
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    made = tmp_path / "words.txt"
    made.write_text("Of all the things that words can do, the best is to be read aloud by 2 or 3 people. " * 30)
    return made


@pytest.mark.parametrize("variants", [("cpu",), ("npu",)])
def test_weights_learn_from_a_text(
    variants: tuple[str, ...], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read by the package itself, or by one that is made for it where its own graphs are of fixed shapes."""
    _, folder = small_package(tmp_path, quant="f16", variant=variants, n_ctx=64)
    flags = ("--type", "int4", "--calibrate", text, "--calibrate-tokens", "512")
    code, told, err = run(capsys, "quantize", folder, tmp_path / "out", *flags, "--json")
    assert code == 0, err
    assert json.loads(told.splitlines()[-1])["variants"] == [*variants]
    assert "reading words.txt for blk.0.attn_q.weight to output.weight" in err
    assert ("preparing to read words.txt" in err) == (variants == ("npu",))
    assert run(capsys, "quantize", folder, tmp_path / "rtn", "--type", "int4")[0] == 0
    made, plain = (package.read(tmp_path / name) for name in ("out", "rtn"))
    assert made.measured["relative_error"] != plain.measured["relative_error"]
    assert run(capsys, "models", "verify", made.folder)[0] == 0
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("quant", ["int8-static", "int4-static"])
def test_ranges_are_found_on_a_text(quant: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = small_package(tmp_path, quant="f16")
    flags = ("--type", quant, "--calibrate", text, "--calibrate-tokens", "512", "--activations", "8", "-c", "128")
    code, told, err = run(capsys, "quantize", folder, tmp_path / "out", *flags)
    assert code == 0, err
    assert f"{quant} is for NPUs: of variant cpu nothing is made" in err
    assert ("reading words.txt for" in err) == (quant == "int4-static")
    assert "in ranges found on 512 tokens of words.txt" in told
    made = package.read(tmp_path / "out")
    assert (made.mode, [*made.variants], made.variants["npu"].n_ctx) == (quant, ["npu"], 128)
    assert made.measured["activation_values_8"] > 0
    assert run(capsys, "models", "verify", made.folder)[0] == 0
    code, _, err = run(capsys, "quantize", folder, tmp_path / "out", *flags)
    assert (code, "reading" in err) == (2, False)
    assert "--force replaces it" in err
    code, _, err = run(capsys, "quantize", made.folder, tmp_path / "again", "--type", "int8")
    assert code == 1
    assert "its weights are made for the ranges of one text" in err


def test_a_truncated_package(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, folder = small_package(tmp_path, quant="f32")
    data = folder / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-10])
    code, _, err = run(capsys, "quantize", folder, tmp_path / "out", "--type", "int8")
    assert code == 1
    assert "model.onnx.data has" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "llama.gguf"]
