"""The words of --device, and what is said where a provider is missing."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from edgeinfer.engines import devices, ort_placement, ort_provider
from edgeinfer.engines.ort_placement import Placement
from edgeinfer.errors import BackendUnavailable, UsageError

LINUX, LINUX_ARM = ("linux", "x86_64"), ("linux", "aarch64")
WINDOWS, WINDOWS_ARM, MAC = ("win32", "x86_64"), ("win32", "aarch64"), ("darwin", "aarch64")


def test_words() -> None:
    assert devices.parse("NPU ") == ("npu", "")
    assert devices.parse("openvino:npu") == ("openvino", "npu")
    for wrong in ("", "tpu", "npu:gpu", "openvino:tpu", "cuda:", ":cpu"):
        with pytest.raises(UsageError, match="no device"):
            devices.parse(wrong)


def test_what_is_tried() -> None:
    tried = [(choice.provider.word, choice.kind) for choice in devices.choices("npu")]
    assert tried == [("openvino", "npu"), ("qnn", "npu"), ("vitisai", "npu"), ("coreml", "npu")]
    assert [choice.kind for choice in devices.choices("openvino")] == ["npu", "gpu", "cpu"]
    assert [choice.provider.word for choice in devices.choices("auto")] == ["cpu"]


@pytest.mark.parametrize(
    ("device", "here", "wanted"),
    [
        ("openvino", LINUX, "pip install onnxruntime-ep-openvino; or: pip uninstall -y onnxruntime"),
        ("openvino", LINUX_ARM, "no build of ONNX Runtime with it for linux aarch64"),
        ("qnn", WINDOWS_ARM, "pip install onnxruntime-qnn"),
        ("qnn", LINUX, "no build"),
        ("coreml", MAC, "pip install onnxruntime"),
        ("coreml", LINUX, "no build"),
        ("vitisai", WINDOWS, "Ryzen AI"),
        ("directml", WINDOWS, "onnxruntime-directml"),
        ("directml", MAC, "no build"),
        ("xnnpack", LINUX_ARM, "--use_xnnpack"),
        ("cuda", LINUX, "pip install onnxruntime-gpu"),
        ("cuda", MAC, "no build"),
        ("tensorrt-rtx", WINDOWS, "onnxruntime-ep-nv-tensorrt-rtx"),
        ("npu", LINUX, "onnxruntime-ep-openvino"),
        ("npu", ("freebsd", "riscv64"), "Ryzen AI"),
    ],
)
def test_how_to_get_it(device: str, here: tuple[str, str], wanted: str) -> None:
    assert wanted in devices.how_to_get(device, here)


def test_every_provider_says_something_everywhere() -> None:
    for word in devices.PROVIDERS:
        for here in (LINUX, LINUX_ARM, WINDOWS, WINDOWS_ARM, MAC, ("linux", "riscv64")):
            assert devices.how_to_get(word, here)


def test_a_missing_provider_is_named() -> None:
    with pytest.raises(BackendUnavailable, match=r"device 'cuda' is not available: ONNX Runtime .* has cpu.*; "):
        ort_provider.candidates("cuda")
    assert [found.words for found in ort_provider.candidates("auto")] == ["cpu"]
    assert "cpu" in ort_provider.usable()


# ---- placement


def session(*parts: tuple[str, list[str]]) -> Any:
    """What tells of its nodes as a session does."""
    told = [
        SimpleNamespace(ep_name=name, get_nodes=lambda nodes=nodes: [SimpleNamespace(op_type=op) for op in nodes])
        for name, nodes in parts
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: told)


OPENVINO, CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"


def placed(*parts: tuple[str, list[str]]) -> Placement:
    return ort_placement.of_session(session(*parts), "openvino", "npu")


def test_all_in_one_place() -> None:
    placement = placed((OPENVINO, ["MatMul"] * 40))
    assert placement.line == "npu (openvino): 40 of 40 nodes"
    for required in ("npu", "openvino", "openvino:npu"):
        placement.check(required)
    for required in ("gpu", "cuda", "openvino:gpu", "cpu"):
        with pytest.raises(BackendUnavailable, match=re.escape(f"--require {required}")):
            placement.check(required)


def test_what_falls_elsewhere_is_named() -> None:
    placement = placed((OPENVINO, ["MatMul"] * 4), (CPU, ["Softmax", "Shape", "Softmax"]), (OPENVINO, ["Add"]))
    assert placement.line == "npu (openvino): 5 of 8 nodes in 2 parts, 3 on cpu: Softmax 2"
    assert placement.as_dict()["elsewhere"] == {"Softmax": 2}
    with pytest.raises(BackendUnavailable, match=r"not everything computes there; npu .* Softmax 2"):
        placement.check("npu")


def test_moving_values_is_no_computing() -> None:
    placement = placed((OPENVINO, ["MatMul"]), (CPU, ["Shape", "Reshape", "Cast"]))
    assert placement.line.endswith("3 on cpu: what moves values only")
    placement.check("npu")


def test_placements_add_up() -> None:
    both = ort_placement.joined([placed((OPENVINO, ["MatMul"] * 2)), placed((OPENVINO, ["MatMul"]), (CPU, ["Exp"]))])
    assert both.line == "npu (openvino): 3 of 4 nodes, 1 on cpu: Exp"
