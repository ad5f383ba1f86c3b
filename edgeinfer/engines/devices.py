"""Where a model can compute: the words of ``--device``, the execution providers of ONNX Runtime behind them, and which
package has which on which platform. One table; knows no model and imports no runtime."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from edgeinfer.errors import UsageError

__all__ = ["DEVICES", "KINDS", "PROVIDERS", "Choice", "Provider", "choices", "how_to_get", "parse"]

KINDS = ("cpu", "gpu", "npu")
"""Kinds of hardware, as ONNX Runtime tells them apart."""


@dataclass(frozen=True, slots=True)
class Package:
    """What to install for a provider: ``systems`` are (sys.platform, machine) pairs that it has wheels for."""

    name: str
    systems: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider. ``kinds``: what hardware it drives, preferred first. ``plugin``: the module of a wheel
    that brings it as a library of its own, to be registered. ``variants``: of a package, those that it runs, best
    first. ``built_in``: packages of ONNX Runtime that contain it, each in place of the plain one. ``note``: how else to
    get it, where no wheel has it."""

    word: str
    name: str
    kinds: tuple[str, ...]
    variants: tuple[str, ...]
    built_in: tuple[Package, ...] = ()
    plugin: str = ""
    plugin_package: Package | None = None
    note: str = ""


_LINUX, _LINUX_ARM = ("linux", "x86_64"), ("linux", "aarch64")
_WINDOWS, _WINDOWS_ARM = ("win32", "x86_64"), ("win32", "aarch64")
_MAC, _MAC_INTEL = ("darwin", "aarch64"), ("darwin", "x86_64")
_EVERYWHERE = (_LINUX, _LINUX_ARM, _WINDOWS, _WINDOWS_ARM, _MAC)

PROVIDERS = {
    provider.word: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", ("cpu",), ("cpu", "npu"), (Package("onnxruntime", _EVERYWHERE),)),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            ("npu", "gpu", "cpu"),
            ("npu",),
            (Package("onnxruntime-openvino", (_LINUX, _WINDOWS)),),
            "onnxruntime_ep_openvino",
            Package("onnxruntime-ep-openvino", (_LINUX, _WINDOWS)),
        ),
        Provider(
            "qnn",
            "QNNExecutionProvider",
            ("npu", "gpu"),
            ("npu",),
            (),
            "onnxruntime_qnn",
            Package("onnxruntime-qnn", (_WINDOWS_ARM, _LINUX_ARM)),
        ),
        Provider(
            "coreml",
            "CoreMLExecutionProvider",
            ("npu", "gpu", "cpu"),
            ("npu",),
            (Package("onnxruntime", (_MAC, _MAC_INTEL)),),
        ),
        Provider(
            "vitisai",
            "VitisAIExecutionProvider",
            ("npu",),
            ("npu",),
            note="no wheel has it: install AMD's Ryzen AI software (Windows x86_64), which brings a wheel of its own",
        ),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            ("gpu",),
            ("cuda", "cpu"),
            (Package("onnxruntime-gpu", (_LINUX, _LINUX_ARM, _WINDOWS)),),
        ),
        Provider(
            "tensorrt-rtx",
            "NvTensorRTRTXExecutionProvider",
            ("gpu",),
            ("npu",),
            (),
            "onnxruntime_ep_nv_tensorrt_rtx",
            Package("onnxruntime-ep-nv-tensorrt-rtx", (_LINUX, _WINDOWS)),
        ),
        Provider(
            "directml",
            "DmlExecutionProvider",
            ("gpu", "npu"),
            ("cpu", "npu"),
            (Package("onnxruntime-directml", (_WINDOWS,)),),
        ),
        Provider(
            "xnnpack",
            "XnnpackExecutionProvider",
            ("cpu",),
            ("npu",),
            note="no wheel has it: it comes with ONNX Runtime built from source with --use_xnnpack",
        ),
    )
}
"""By the word that ``--device`` takes."""

_BY_KIND = {
    "npu": ("openvino", "qnn", "vitisai", "coreml"),
    "gpu": ("cuda", "tensorrt-rtx", "directml", "openvino", "coreml", "qnn"),
}

DEVICES = ("auto", "cpu", "gpu", "npu", *(word for word in PROVIDERS if word != "cpu"))
"""The words of ``--device``. A provider's may be followed by a kind of hardware, as in ``openvino:npu``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A provider to try and the kind of hardware that it is to drive."""

    provider: Provider
    kind: str


def parse(device: str) -> tuple[str, str]:
    """``openvino:npu`` -> ("openvino", "npu"); the second is empty where it was not said. Raises `UsageError`."""
    word, colon, kind = str(device).strip().lower().partition(":")
    if word not in DEVICES or (colon and kind not in PROVIDERS.get(word, PROVIDERS["cpu"]).kinds):
        known = ", ".join(DEVICES)
        raise UsageError(f"no device {device!r}; there are: {known}, and a provider's own kinds, as openvino:npu")
    return word, kind


def choices(device: str) -> list[Choice]:
    """What to try for ``device``, the first that is here wins. Raises `UsageError` for a word that is none."""
    word, kind = parse(device)
    if word == "auto":
        word = "cpu"
    if word in PROVIDERS:
        provider = PROVIDERS[word]
        return [Choice(provider, each) for each in ((kind,) if kind else provider.kinds)]
    return [Choice(PROVIDERS[each], word) for each in _BY_KIND[word]]


def _here() -> tuple[str, str]:
    machine = platform.machine().lower()
    return sys.platform, {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def how_to_get(device: str, here: tuple[str, str] | None = None) -> str:
    """What to install for ``device`` on this platform (or ``here``), or that nothing exists for it."""
    here = here or _here()
    advice: list[str] = []
    for provider in {choice.provider.word: choice.provider for choice in choices(device)}.values():
        advice += _advice(provider, here)
    if advice:
        return "to get it: " + "; or: ".join(advice)
    notes = [choice.provider.note for choice in choices(device) if choice.provider.note]
    system = f"{here[0]} {here[1]}"
    return "; ".join(dict.fromkeys(notes)) or f"there is no build of ONNX Runtime with it for {system}"


def _advice(provider: Provider, here: tuple[str, str]) -> list[str]:
    found = []
    if provider.plugin_package is not None and here in provider.plugin_package.systems:
        found.append(f"pip install {provider.plugin_package.name}")
    for package in provider.built_in:
        if here in package.systems and package.name == "onnxruntime":
            found.append("pip install onnxruntime")
        elif here in package.systems:
            found.append(f"pip uninstall -y onnxruntime && pip install {package.name}")
    return found
