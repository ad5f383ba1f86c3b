"""What an ONNX package will take, held against what processes took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from onnx_packages import export

from edgeinfer.onnx import operators

MEASURE = """
import json, sys
from edgeinfer import LLM
from edgeinfer.bench import peak_rss_bytes
n_ctx = int(sys.argv[2])
with LLM(sys.argv[1], n_ctx=n_ctx, kernels=sys.argv[3] == "ours") as llm:
    ids = [100 + 7 * i % 40000 for i in range(n_ctx - 40)]
    llm.generate(ids, max_tokens=4, temperature=0.0)
    print(json.dumps([llm.plan.total_bytes, peak_rss_bytes()]))
"""


@pytest.fixture(scope="module")
def package(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages") / "smollm2"
    export(smollm2, folder)
    return folder


@pytest.mark.model
@pytest.mark.parametrize("whose", ["ours", "onnxruntime"])
def test_the_prediction_holds(package: Path, whose: str) -> None:
    """The figures in `edgeinfer.memory_onnx` were fitted by this test's method, on three models of the catalogue: the
    prediction was 1.05 to 1.3 times the peak."""
    if whose == "ours" and operators.why_not():
        pytest.skip(operators.why_not())
    command = [sys.executable, "-c", MEASURE, str(package), "1024", whose]
    predicted, peak = json.loads(subprocess.run(command, capture_output=True, check=True).stdout.splitlines()[-1])
    assert 1.0 <= predicted / peak <= 1.3
