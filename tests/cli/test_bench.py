"""``edgeinfer bench`` without measuring: what its tables and its JSON say."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from edgeinfer import kernels
from edgeinfer.cli import bench as cli_bench
from edgeinfer.cli import bench_kernels, main
from edgeinfer.kernels import measure as measuring
from edgeinfer.kernels.cases import Sizes

SMALL = Sizes(memory_bytes=128 << 10, columns=(1, 20), n_cols=256, n_floats=1024, n_kv=64, head_dim=32, seconds=0.001)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "measure", functools.partial(measuring.measure, sizes=SMALL))


def test_kernels_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--format", "q4_k", "--format", "F16", "--isa", "scalar", "-t", "1", "--json"]
    assert main(["bench", "--kernels", *arguments]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["n_threads"] == 1
    assert found["read_bytes_per_s"] > 0
    assert set(found["int8_ops_per_s"]) == {"scalar"}
    assert [(f["op"], f["format"], f["m"]) for f in found["figures"]] == [
        (op, name, m)
        for op, name in (
            ("quantize", "F16"),
            ("matmul", "F16"),
            ("quantize", "Q4_K"),
            ("matmul", "Q4_K"),
            ("attention", "F16"),
        )
        for m in (1, 20)
    ]
    assert set(found["figures"][0]) == {
        "op",
        "format",
        "isa",
        "m",
        "bytes_per_s",
        "ops_per_s",
        "bandwidth_share",
        "peak_share",
    }


def test_kernels_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    best = kernels.capabilities()[-1]
    assert main(["bench", "--kernels", "--format", "Q8_0", "--isa", best]) == 0
    text = capsys.readouterr().out
    assert "of bandwidth" in text
    assert f"int8 peak in GOPS: {best} " in text
    assert text.count("Q8_0") == 3, "one for quantize, one for matmul, one for attention"
    assert "avx2 " not in text or best == "avx2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "--format", "q9"], "Q4_K"),
        (["--kernels", "--isa", "sse9"], "must be one of scalar"),
        (["--format", "Q4_K"], "give --kernels"),
        (["--isa", "scalar"], "give --kernels"),
    ],
)
def test_what_cannot_be(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_the_path_of_the_library_is_not_taken_for_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(cli_bench, "_run", lambda *_arguments: "measured a model")
    monkeypatch.setattr(cli_bench, "_print", seen.append)
    monkeypatch.setenv("EDGEINFER_KERNELS", "/somewhere/else.so")
    assert main(["bench"]) == 0
    assert seen == ["measured a model"]


# ---- the model's figures


def model_figures(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": "m",
        "engine": "e",
        "n_past": 512,
        "n_threads": 2,
        "prefill_tps": 100.0,
        "decode_tps": 50.0,
        "verify_ms": {1: 20.0, 2: 30.0},
        "batch_tps": {1: 50.0, 2: 80.0},
        "kernels": {"active": True, "why": "", "isa": "avx2"},
        "same_answers": True,
        "share": {"decode_bandwidth": 0.834, "prefill_int8": 0.5},
        "load_s": 1.0,
        "peak_rss_bytes": 1 << 20,
        "end_to_end": {"ttft_s": 0.1, "n_prompt": 3, "decode_tps": 49.0, "p50_ms": 20.0, "p95_ms": 25.0},
    }
    return found | changes


def test_shares_and_kernels_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    cli_bench._print(model_figures())
    text = capsys.readouterr().out
    assert "83 %" in text
    assert "50 %" in text
    assert "avx2" in text
    assert "all together in one pass" in text
    assert "computes them apart" not in text


def test_answers_apart_where_company_would_change_them(capsys: pytest.CaptureFixture[str]) -> None:
    off = {"active": False, "why": "our kernels are switched off", "isa": None}
    cli_bench._print(model_figures(kernels=off, same_answers=False, share=None))
    text = capsys.readouterr().out
    assert text.count("LLM computes them apart, so that answers agree") == 2
    assert "our kernels are switched off" in text
    assert "share" not in text


def test_percent() -> None:
    assert [bench_kernels.percent(share) for share in (None, 0.0, 0.834, 1.02)] == ["-", "0 %", "83 %", "102 %"]
