"""The execution providers of the ONNX Runtime that is installed: what is here, and how each is told where to compute.

Plug-in libraries are registered when they are first asked for. Knows no model."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime

from edgeinfer.engines import devices
from edgeinfer.engines.devices import Choice, Provider
from edgeinfer.errors import BackendUnavailable

__all__ = ["Found", "add_to", "candidates", "usable"]

onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(4)  # what goes wrong comes as an exception, with the same text

_OPTIONS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("openvino", "npu"): {"device_type": "NPU"},
    ("openvino", "gpu"): {"device_type": "GPU"},
    ("openvino", "cpu"): {"device_type": "CPU"},
    ("qnn", "npu"): {"backend_type": "htp", "htp_performance_mode": "burst"},
    ("qnn", "gpu"): {"backend_type": "gpu"},
    ("coreml", "npu"): {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndNeuralEngine"},
    ("coreml", "gpu"): {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"},
    ("coreml", "cpu"): {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUOnly"},
    ("cuda", "gpu"): {"device_id": "0", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"},
    ("directml", "gpu"): {"device_id": "0"},
    ("directml", "npu"): {"device_filter": "npu"},
}
"""What a provider is told for a kind of hardware. tf32 would round products that are asked for in float32."""


@dataclass(frozen=True, slots=True)
class Found:
    """A provider that is here, for one kind of hardware. ``ep_devices``: of a plug-in, what it offers of that kind."""

    choice: Choice
    ep_devices: tuple[Any, ...] = ()

    @property
    def provider(self) -> Provider:
        return self.choice.provider

    @property
    def kind(self) -> str:
        return self.choice.kind

    @property
    def is_cpu(self) -> bool:
        """ONNX Runtime's own CPU provider."""
        return self.provider.word == "cpu"

    @property
    def words(self) -> str:
        """For people: ``cpu``, ``openvino on npu``."""
        return "cpu" if self.is_cpu else f"{self.provider.word} on {self.kind}"


def candidates(device: str) -> list[Found]:
    """The providers for ``device`` that are here, to be tried in this order. Raises `BackendUnavailable` with what to
    install where there is none, `UsageError` for a word that is no device."""
    found = [each for choice in devices.choices(device) if (each := _look(choice)) is not None]
    if not found:
        raise BackendUnavailable(
            f"device {device!r} is not available: ONNX Runtime {onnxruntime.__version__} here has "
            f"{', '.join(usable())}; {'; '.join((*_problems(device), devices.how_to_get(device)))}"
        )
    return found


def _problems(device: str) -> list[str]:
    """What is the matter with plug-ins for ``device`` that are installed."""
    plugins = dict.fromkeys(choice.provider.plugin for choice in devices.choices(device) if choice.provider.plugin)
    return [why for module in plugins if (why := _plugin(module)[1])]


def usable() -> list[str]:
    """The words of all providers that are here, for `doctor`."""
    here = []
    for word, provider in devices.PROVIDERS.items():
        if any(_look(Choice(provider, kind)) for kind in provider.kinds):
            here.append(word)
    return here


def _look(choice: Choice) -> Found | None:
    if choice.provider.plugin:
        offered, _ = _plugin(choice.provider.plugin)
        right = tuple(each for each in offered if _kind(each) == choice.kind)
        if right:
            return Found(choice, right)
    return Found(choice) if choice.provider.name in onnxruntime.get_available_providers() else None


def _kind(ep_device: Any) -> str:
    """The kind of hardware of an OrtEpDevice."""
    return str(ep_device.device.type.name).lower()


@functools.cache
def _plugin(module: str) -> tuple[tuple[Any, ...], str]:
    """What the plug-in library of a wheel offers on this machine, and why that is nothing. Both are empty where the
    wheel is not installed."""
    if importlib.util.find_spec(module) is None:
        return (), ""
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return (), f"{module} is installed, and ONNX Runtime {onnxruntime.__version__} is too old for it"
    try:
        plugin = importlib.import_module(module)
        onnxruntime.register_execution_provider_library(module, plugin.get_library_path())
        names = _names_of(plugin)
        offered = tuple(each for each in onnxruntime.get_ep_devices() if each.ep_name in names)
    except Exception as error:  # whatever a foreign module and its library raise
        return (), f"{module} is installed, and does not load: {' '.join(str(error).split())[:300]}"
    return offered, "" if offered else f"{module} is installed, and finds none of its devices on this machine"


def _names_of(plugin: Any) -> Sequence[str]:
    """The provider's names, as its wheel tells them: newer ones have a function for several."""
    if hasattr(plugin, "get_ep_names"):
        return list(plugin.get_ep_names())
    return [plugin.get_ep_name()]


def add_to(options: onnxruntime.SessionOptions, found: Found, n_threads: int) -> list[Any]:
    """Tell session options which provider to use; returns what `InferenceSession` takes as ``providers``."""
    own = dict(_OPTIONS.get((found.provider.word, found.kind), {}))
    if found.provider.word == "xnnpack":
        own["intra_op_num_threads"] = str(n_threads)
    if found.provider.word == "directml":  # as its documentation asks
        options.enable_mem_pattern = False
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    if found.ep_devices:
        options.add_provider_for_devices(list(found.ep_devices[:1]), own)
        return []
    if found.is_cpu:
        return ["CPUExecutionProvider"]
    return [(found.provider.name, own), "CPUExecutionProvider"]
