"""Where our kernels cannot run under llama.cpp, all is stock's: the same logits, one line that says why, no crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kernel_faults
import pytest

from edgeinfer import kernels

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not kernels.expected().active, reason=f"nothing to stand aside: {kernels.expected().why}"),
]

WHY = {
    "package_version": "our kernels are written for llama-cpp-python 0.3.36, not 0.3.35",
    "library_version": "llama.cpp is of another version than our kernels were written for",
    "missing_symbol": "this build of llama.cpp does not export ggml_threadpool_chunk_add",
    "structures": "llama.cpp's structures are not those our kernels were written for",
    "operations": "llama.cpp's structures are not those our kernels were written for",
    "no_buffer_type": "this build of llama.cpp has no extra buffer type",
    "registry": "llama.cpp's structures are not those our kernels were written for",
    "no_memory": "our product for f32 gave a wrong result in this build of llama.cpp",
    "idle_compute": "our product for f32 gave a wrong result in this build of llama.cpp",
    "failing_compute": "our product for f32 gave a wrong result in this build of llama.cpp",
    "wrong_product": "our product for f32 gave a wrong result in this build of llama.cpp",
    "wrong_experts": "our product of experts for q4_k gave a wrong result in this build of llama.cpp",
    "wrong_attention": "our attention for f16 gave a wrong result in this build of llama.cpp",
}
VARIABLES = {
    "scalar": (
        {"EDGEINFER_FORCE_ISA": "scalar"},
        "this processor has none of the instruction sets that our kernels need",
    ),
    "variable": ({"EDGEINFER_KERNELS": "0"}, "our kernels are switched off by EDGEINFER_KERNELS"),
    "no_library": ({"EDGEINFER_KERNELS": "nothing.so"}, "the kernel library is not at nothing.so"),
}


@cache
def outcomes(model: Path, faults: tuple[str, ...], variables: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """What became of each, up to the first that ended the process."""
    done = subprocess.run(
        [sys.executable, kernel_faults.__file__, str(model), *faults],
        env={**os.environ, **dict(variables)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = {line["fault"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert (done.returncode, done.stderr) == (0, ""), f"after {list(found)}: {done.returncode}\n{done.stderr}"
    return found


def altered(model: Path) -> dict[str, Any]:
    return outcomes(model, ("switched_off", *WHY, "none"))


def is_stock(found: Any, smollm2: Path, why: str) -> None:
    stock = altered(smollm2)["switched_off"]
    assert found["logprobs"] == stock["logprobs"]
    assert found["text"] == stock["text"]
    assert len(found["notices"]) == 1
    assert found["notices"][0].startswith(f"llama.cpp's own kernels are used: {why}")


def test_every_fault_is_listed() -> None:
    assert WHY.keys() == kernel_faults.FAULTS.keys()


def test_without_a_fault_ours_run_and_can_be_told_apart(smollm2: Path) -> None:
    """In a process that refused them a dozen times."""
    ours, stock = altered(smollm2)["none"], altered(smollm2)["switched_off"]
    assert ours["notices"] == stock["notices"] == []
    assert ours["logprobs"] != stock["logprobs"]
    assert ours["logprobs"] == pytest.approx(stock["logprobs"], abs=0.5)


@pytest.mark.parametrize("fault", WHY)
def test_a_llama_cpp_that_is_not_as_expected(smollm2: Path, fault: str) -> None:
    is_stock(altered(smollm2)[fault], smollm2, WHY[fault])


@pytest.mark.parametrize("case", VARIABLES)
def test_what_the_environment_takes_away(smollm2: Path, case: str) -> None:
    variables, why = VARIABLES[case]
    is_stock(outcomes(smollm2, ("none",), tuple(variables.items()))["none"], smollm2, why)
