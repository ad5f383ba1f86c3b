"""``MODEL@key=value,…``: what it means, and what it cannot mean."""

from __future__ import annotations

import pytest

from edgeinfer.errors import UsageError
from edgeinfer.side import Side


def test_every_key() -> None:
    side = Side.parse(
        "m@engine=onnx,device=npu,require=npu,kernels=off,threads=1,threads_batch=2,kv_type=q8_0,parallel=3"
    )
    assert side == Side("m", "onnx", "npu", "npu", False, 1, 2, "q8_0", 3)
    assert side.label.startswith("m@engine=onnx,")


def test_what_is_not_said_is_as_usual_or_as_the_command_says() -> None:
    assert Side.parse("smollm2-135m") == Side("smollm2-135m")
    assert Side.parse("m@kernels=on", threads=2) == Side("m", threads=2)
    assert Side.parse("m@threads=1", threads=2).threads == 1


@pytest.mark.parametrize("name", ["a@b.gguf", "folder@2x/model.gguf", "who@host:x=y.gguf", "hf:o/r:Q4_K_M", "m@"])
def test_an_at_sign_may_be_part_of_a_name(name: str) -> None:
    assert Side.parse(name) == Side(name)
    assert Side.parse(f"{name}@threads=1") == Side(name, threads=1)


def test_a_side_is_called_what_it_was_asked_for_as() -> None:
    assert Side.parse("m@kernels=no", parallel=1).label == "m@kernels=no"
    assert Side("m", threads=1).label == "m"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("m@kernel=off", "no key 'kernel'; there are: engine, device, require, kernels"),
        ("m@kernels=maybe", "kernels is 'maybe', but must be on or off"),
        ("m@threads=0", "threads is '0', but must be a whole number from 1 to 1024"),
        ("m@threads=99999999999999999999", "a whole number"),
        ("m@kv_type=f32", "f16 or q8_0"),
        ("m@device=abacus", "abacus"),
        ("m@device=", "device is '', but must be a name"),
        ("@threads=1", "names no model"),
        ("", "names no model"),
    ],
)
def test_what_cannot_be(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        Side.parse(text)
    assert says in str(refused.value)
