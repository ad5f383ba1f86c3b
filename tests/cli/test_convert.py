"""``edgeinfer convert``: what scripts see of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_cases import BASE
from small_models import small_model, written
from tiny_checkpoints import checkpoint

from edgeinfer.cli import main
from edgeinfer.onnx import package


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = main(["convert", *map(str, args)])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = written(small_model("qwen2", default="Q4_K"), tmp_path)
    code, out, err = run(capsys, model, tmp_path / "out", "--to", "onnx", "--variant", "all", "-c", "128", "--json")
    assert code == 0
    told = json.loads(out.splitlines()[-1])
    assert told["folder"] == str(tmp_path / "out")
    assert (told["name"], told["architecture"], told["quant"]) == ("tiny", "qwen2", "keep")
    assert told["variants"] == ["cpu", "cuda", "npu"]
    written_bytes = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert told["bytes"] == written_bytes - (tmp_path / "out" / "edgeinfer.json").stat().st_size
    assert 0 < told["measured"]["max_error"] < 0.1
    assert told["seconds"] > 0
    assert "converting tiny" in err
    assert package.read(tmp_path / "out").variants["npu"].n_ctx == 128


@pytest.mark.parametrize(
    ("default", "quant", "said"),
    [("Q8_0", "keep", "every weight exactly"), ("Q4_K", "keep", "rounded by at most"), ("F16", "int4", "cost")],
)
def test_what_it_cost_is_said(
    default: str, quant: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = written(small_model("llama", default=default), tmp_path)
    code, out, _ = run(capsys, model, tmp_path / "out", "--to", "onnx", "--quant", quant)
    assert code == 0
    assert said in out


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("MODEL", "OUT"), 2, "--to"),
        (("MODEL", "OUT", "--to", "onnx", "--variant", "tpu"), 2, "tpu"),
        (("nowhere.gguf", "OUT", "--to", "onnx"), 4, "nowhere.gguf"),
        (("MODEL", "MODEL", "--to", "onnx"), 2, "exists and is no folder"),
        (("MODEL", "OUT", "--to", "onnx", "-c", "5000"), 2, "the model was trained for 2048"),
    ],
)
def test_errors(
    args: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = written(small_model("llama"), tmp_path)
    places = {"MODEL": str(model), "OUT": str(tmp_path / "out")}
    found, out, err = run(capsys, *(places.get(arg, arg) for arg in args))
    assert found == code
    assert said in err
    assert not out
    assert not (tmp_path / "out").exists()


def test_zero_points(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = written(small_model("llama", default="F16"), tmp_path)
    args = (model, tmp_path / "out", "--to", "onnx", "--variant", "cpu", "--variant", "cuda", "--zero-points")
    code, out, _ = run(capsys, *args, "--quant", "int4", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["forms"] == {"float": 5, "int4/32+zeros": 14, "int8/32": 2}
    for more, said in (
        (("--quant", "int8"), "zero points are for int4"),
        (("--quant", "int4", "--variant", "npu"), "zero points are for variants cpu and cuda"),
        (("--quant", "int4-static", "--calibrate", model), "are not for --quant int4-static"),
        (("--to", "gguf"), "--zero-points are for --to onnx"),
    ):
        code, _, err = run(capsys, *args, "--force", *more)
        assert code == 2
        assert said in err


def test_help_imports_no_converter() -> None:
    code = (
        "import sys; from edgeinfer.cli import main; main(['convert', '--help']);"
        "sys.exit(bool({'onnx', 'onnx_ir'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_checkpoint_as_a_package(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Its folder is the model; what stays as it is, and why, is said."""
    folder, _ = checkpoint(tmp_path / "tiny-qwen", "Qwen2", {**BASE, "intermediate_size": 100})
    capsys.readouterr()
    code, out, err = run(capsys, folder, tmp_path / "out", "--to", "onnx", "--quant", "int8", "--json")
    assert code == 0
    told = json.loads(out.splitlines()[-1])
    assert (told["name"], told["architecture"], told["quant"]) == ("tiny-qwen", "qwen2", "int8")
    assert told["measured"]["unfit_matrices"] == 3
    assert "hashing 1 file" in err
    code, out, _ = run(capsys, folder, tmp_path / "again", "--to", "onnx", "--quant", "int8-dynamic")
    assert code == 0
    assert "3 matrices stay floats: their rows are no whole blocks of 32 weights" in out
    code, _, err = run(capsys, tmp_path / "out", tmp_path / "third", "--to", "onnx")
    assert code == 2
    assert "is an ONNX package already" in err
    code, _, err = run(capsys, tmp_path, tmp_path / "third", "--to", "onnx")
    assert code == 4
    assert "has no config.json" in err


def test_forms_of_their_own_for_some_matrices(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = written(small_model("llama", default="F16"), tmp_path)
    args = (model, tmp_path / "out", "--to", "onnx")
    code, out, _ = run(capsys, *args, "--tensor-type", "ffn=int4", "--tensor-type", "output.*=INT8", "--json")
    assert code == 0
    told = json.loads(out.splitlines()[-1])
    assert told["quant"] == "keep"
    assert told["forms"] == {"float": 14, "int4/32": 6, "int8/32": 1}
    for asked, said in (("ffn=q6_k", "of ONNX types there are int4"), ("nothing=int8", "matches no matrix")):
        code, _, err = run(capsys, model, tmp_path / "more", "--to", "onnx", "--tensor-type", asked)
        assert code == 2
        assert said in err
    code, _, err = run(capsys, *args, "--imatrix", model)
    assert code == 2
    assert "--imatrix is for --to gguf" in err
