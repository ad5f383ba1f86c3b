"""What a confidence is worth: what was seen of it, more of this request than of others, and less as it ages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.speculate.calibration import Calibration


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=50), st.floats(0.0, 1.0))
def test_a_chance_is_a_chance(seen: list[tuple[float, bool]], confidence: float) -> None:
    record = Calibration().record()
    for each, right in seen:
        record.saw(each, right)
    assert 0.0 <= record.chance(confidence) <= 1.0
    assert 0.0 <= record.typical(0.5) <= 1.0


@pytest.mark.parametrize("confidence", [0.0, 0.1, 0.72, 0.995, 1.0])
def test_a_drafter_is_believed_until_something_is_seen(confidence: float) -> None:
    assert Calibration().record().chance(confidence) == pytest.approx(confidence)


def test_what_is_seen_outweighs_what_is_said() -> None:
    calibration = Calibration()
    record = calibration.record()
    for _ in range(200):
        record.saw(0.99, False)
        record.saw(0.3, True)
    assert record.chance(0.99) < 0.1
    assert record.chance(0.3) > 0.9
    assert record.chance(0.7) == pytest.approx(0.7), "of which nothing was seen"
    other = calibration.record()
    assert record.chance(0.99) < other.chance(0.99) < 0.2, "others' experience counts, one's own for more"


def test_failures_fade_towards_what_others_saw() -> None:
    calibration = Calibration()
    for _ in range(100):
        calibration.record().saw(0.7, True)
    record = calibration.record()
    fresh = record.chance(0.7)
    for _ in range(20):
        record.saw(0.7, False)
    low, shared = record.chance(0.7), calibration.record().chance(0.7)
    for _ in range(500):
        record.fade()
    assert low < 0.6 * fresh
    assert record.chance(0.7) == pytest.approx(shared, rel=0.01)


def test_typical_before_anything_is_known() -> None:
    calibration = Calibration()
    record = calibration.record()
    assert record.typical(0.75) == pytest.approx(0.75)
    for i in range(300):
        record.saw(i % 10 / 10, i % 4 == 0)
    assert record.typical(0.75) == pytest.approx(0.25, abs=0.05)
    assert calibration.record().typical(0.75) == pytest.approx(0.25, abs=0.05)
