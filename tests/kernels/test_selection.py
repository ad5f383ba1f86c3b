"""The best of a vocabulary: every instruction set against a stable sort, and probabilities against exp."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeinfer import kernels
from edgeinfer.errors import BackendUnavailable, NumericError, UsageError
from edgeinfer.kernels import library

Floats = npt.NDArray[np.float32]
# The machine that runs the tests may be busy.
patient = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
ISAS = pytest.mark.parametrize("isa", kernels.capabilities())


@st.composite
def vocabularies(draw: st.DrawFn) -> Floats:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from((1, 2, 31, 32, 33, 63, 64, 65, 300, 4097, 50_000)))
    logits = rng.standard_normal(n).astype(np.float32) * draw(st.sampled_from((0.0, 1e-42, 1.0, 30.0, 1e37)))
    order = draw(st.sampled_from(("as drawn", "rising", "falling", "coarse")))
    if order == "coarse":
        logits = np.round(logits)
    elif order != "as drawn":
        logits = np.sort(logits)[:: 1 if order == "rising" else -1].copy()
    logits[rng.random(n) < draw(st.sampled_from((0.0, 0.5, 0.999, 1.0)))] = -np.inf
    return logits


def best_first(logits: Floats, k: int) -> npt.NDArray[np.intp]:
    order = np.argsort(-logits, kind="stable")
    return order[logits[order] > -np.inf][:k]


@ISAS
@patient
@given(vocabularies(), st.sampled_from((1, 2, 40, 255, 256, 257, 5000, 10**6)))
def test_it_is_the_sorted_prefix(isa: str, logits: Floats, k: int) -> None:
    ids = kernels.top_k(logits, k, isa=isa)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, best_first(logits, k))


@ISAS
@patient
@given(
    logits=vocabularies(), k=st.sampled_from((1, 40, 3000)), temperature=st.sampled_from((1e-30, 0.1, 0.7, 1.0, 1e9))
)
def test_probabilities_are_the_softmax_on_every_isa(isa: str, logits: Floats, k: int, temperature: float) -> None:
    ids, chances = kernels.top_k_softmax(logits, k, temperature, isa=isa)
    same_ids, same_chances = kernels.top_k_softmax(logits, k, temperature, isa="scalar")
    np.testing.assert_array_equal(ids, same_ids)
    np.testing.assert_array_equal(chances.view(np.uint32), same_chances.view(np.uint32))
    assert chances.dtype == np.float32
    if ids.size == 0:
        return
    with np.errstate(over="ignore"):
        scaled = (logits[ids] - logits[ids[0]]) / np.float32(temperature)
    weights = np.exp(scaled.astype(np.float64))
    np.testing.assert_allclose(chances, weights / weights.sum(), rtol=1e-5, atol=1e-30)


def test_a_strided_view_is_read_as_it_looks() -> None:
    logits = np.arange(100, dtype=np.float32)
    np.testing.assert_array_equal(kernels.top_k(logits[::-3], 2), [0, 1])
    np.testing.assert_array_equal(kernels.top_k(np.empty(0, np.float32), 3), [])


@ISAS
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 7, 499, 999])
def test_what_is_no_number_is_named(isa: str, bad: float, at: int) -> None:
    logits = np.linspace(1, 0, 1000, dtype=np.float32)
    logits[at] = bad
    with pytest.raises(NumericError, match=f"the logit of token {at} is"):
        kernels.top_k(logits, 1, isa=isa)
    with pytest.raises(NumericError, match=f"the logit of token {at} is"):
        kernels.top_k_softmax(logits, 1, isa=isa)


def test_wrong_arguments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.zeros(5, np.float32)
    with pytest.raises(UsageError, match=r"logits are float64 \(5,\), but must be float32 \(n,\)"):
        kernels.top_k(logits.astype(np.float64), 1)
    with pytest.raises(UsageError, match=r"logits are float32 \(1, 5\)"):
        kernels.top_k(logits[None], 1)
    with pytest.raises(UsageError, match="k is 0, but must be at least 1"):
        kernels.top_k(logits, 0)
    with pytest.raises(UsageError, match="isa is 'sse9'"):
        kernels.top_k(logits, 1, isa="sse9")
    for temperature in (0.0, -1.0, np.nan, np.inf, 1e-60):
        with pytest.raises(UsageError, match="temperature is"):
            kernels.top_k_softmax(logits, 1, temperature)
    monkeypatch.setattr(library, "try_load", lambda: "the kernel library is on holiday")
    with pytest.raises(BackendUnavailable, match="on holiday"):
        kernels.top_k(logits, 1)
