"""The kernel library as installed: does it load, does it refuse what it should, do its own tests pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer import kernels
from edgeinfer.errors import BackendUnavailable
from edgeinfer.kernels import library


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Python in a process of its own: the library is loaded once in each."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_installed_library_loads() -> None:
    assert kernels.available(), kernels.why_not()
    assert kernels.why_not() == ""
    assert "scalar" in kernels.capabilities()
    assert kernels.best_isa() in kernels.capabilities()


def test_missing_library_is_one_honest_line(tmp_path: Path) -> None:
    code = "from edgeinfer import kernels as k; print(k.available()); print(k.why_not())"
    done = run(code, EDGEINFER_KERNELS=str(tmp_path / "nothing.so"))
    available, why = done.stdout.splitlines()
    assert available == "False"
    assert "nothing.so" in why
    assert done.stderr == ""


def test_a_file_that_is_no_library_is_one_honest_line(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_bytes(b"not a library\n")
    code = "from edgeinfer import kernels as k; print(k.available()); print(k.why_not())"
    done = run(code, EDGEINFER_KERNELS=str(tmp_path / "text.so"))
    assert done.stdout.splitlines()[0] == "False"
    assert len(done.stdout.splitlines()) == 2
    assert "does not load" in done.stdout


@pytest.mark.parametrize("isa", ["sse9", "neon_i8mm" if "avx2" in kernels.capabilities() else "avx512vnni"])
def test_forcing_what_is_not_here_is_an_error(isa: str) -> None:
    done = run("from edgeinfer import kernels as k; k.best_isa()", EDGEINFER_FORCE_ISA=isa)
    assert "BackendUnavailable" in done.stderr
    assert isa in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("isa", kernels.capabilities())
def test_forcing_what_is_here_is_obeyed(isa: str) -> None:
    done = run("from edgeinfer import kernels as k; print(k.best_isa())", EDGEINFER_FORCE_ISA=isa)
    assert done.stdout.strip() == isa, done.stderr


def test_everything_raises_the_same_line_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "try_load", lambda: "the kernel library is on holiday")
    for call in (kernels.capabilities, kernels.best_isa, kernels.abort_flag, lambda: kernels.int8_peak(1)):
        with pytest.raises(BackendUnavailable, match="on holiday"):
            call()


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not here to build the C++ tests")
def test_the_c_tests_pass(tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "kernels_cpu"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    for command in (
        ["cmake", "-S", str(source), "-B", str(tmp_path), *generator, "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", str(tmp_path), "--parallel", "2"],
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
