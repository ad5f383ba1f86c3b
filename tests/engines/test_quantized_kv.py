"""A KV cache of q8_0 under our attention: near llama.cpp's own, and near what half precision gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kernels_parity
import numpy as np
import pytest
from kernels_parity import Logits, Session

from edgeinfer import kernels
from edgeinfer.metrics import kl_divergence

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not kernels.expected().active, reason=f"without our kernels: {kernels.expected().why}"),
]

N_TOKENS = 192
STOCK = """
import sys
import numpy as np
from kernels_parity import Session
session = Session(sys.argv[1], "q8_0")
np.save(sys.argv[2], session.forward([(0, [int(i) for i in sys.argv[3].split()], 0)]))
"""


def ours(model: Path, ids: list[int], kv_type: str) -> Logits:
    session = Session(model, kv_type)
    try:
        return session.forward([(0, ids, 0)])
    finally:
        session.close()


def test_near_stock_and_near_half_precision(smollm2: Path, tmp_path: Path) -> None:
    report = kernels.install()
    assert report.active, report.why
    session = Session(smollm2)
    ids = session.tokenize(Path(kernels_parity.__file__).read_text(encoding="utf-8"))[:N_TOKENS]
    session.close()
    path = [*sys.path, os.path.dirname(kernels_parity.__file__)]
    command = [sys.executable, "-c", STOCK, str(smollm2), str(tmp_path / "stock.npy"), " ".join(map(str, ids))]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(path)}, timeout=240, check=True)
    half, blocks = ours(smollm2, ids, "f16"), ours(smollm2, ids, "q8_0")
    assert not np.array_equal(half, blocks)  # or it is not q8_0 that is looked at
    assert kl_divergence(half, blocks).mean() < 0.01
    assert kl_divergence(np.load(tmp_path / "stock.npy"), blocks).mean() < 0.01
