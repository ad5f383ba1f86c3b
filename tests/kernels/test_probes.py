"""Are the probes plausible."""

from __future__ import annotations

import pytest

from edgeinfer import kernels
from edgeinfer.errors import UsageError


@pytest.mark.parametrize("isa", kernels.capabilities())
@pytest.mark.parametrize("n_threads", [1, 2])
def test_probes_answer_a_plausible_rate(isa: str, n_threads: int) -> None:
    # A megabyte lies in a cache: this is about the arithmetic, not about the machine.
    assert 1e8 < kernels.read_bandwidth(n_threads, 0.005, buffer_bytes=1 << 20, isa=isa) < 1e13
    assert 1e7 < kernels.int8_peak(n_threads, 0.005, isa=isa) < 1e14


def test_probes_refuse_what_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="isa is 'sse9'"):
        kernels.int8_peak(1, 0.001, isa="sse9")
    with pytest.raises(UsageError, match="n_threads is 0"):
        kernels.int8_peak(0, 0.001)
    with pytest.raises(UsageError, match="buffer_bytes"):
        kernels.read_bandwidth(4, 0.001, buffer_bytes=100)
