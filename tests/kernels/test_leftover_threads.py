"""Installing the kernels computes a little, and leaves no threads behind: a forgotten OpenMP team costs decode a
quarter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgeinfer import kernels

_SCRIPT = """
import time
import llama_cpp, numpy, psutil
from edgeinfer import kernels
kernels.library.load()
process = psutil.Process()
before = process.num_threads()
assert kernels.install().active
for _ in range(100):  # a thread that has ended may still be counted for a moment
    after = process.num_threads()
    if after <= before:
        break
    time.sleep(0.05)
print(before, after)
"""


@pytest.mark.skipif(not kernels.expected().active, reason="our kernels do not run here")
def test_no_thread_stays() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after <= before
