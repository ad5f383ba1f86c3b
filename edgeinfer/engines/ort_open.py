"""From a package's folder to an engine: which provider, which variant, whose kernels. Nothing is computed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer import gguf
from edgeinfer.engines import devices, ort_provider
from edgeinfer.engines.base import EngineConfig
from edgeinfer.engines.ort import Computer, OrtEngine
from edgeinfer.engines.ort_buffers import SequenceBuffers, cache_names
from edgeinfer.engines.ort_provider import Found
from edgeinfer.engines.ort_session import Graph, Stop
from edgeinfer.errors import BackendUnavailable, FormatError, UnsupportedModel
from edgeinfer.onnx import operators
from edgeinfer.onnx import package as packages
from edgeinfer.onnx.graph import Signature, check_signature, expose_hidden, read_graph, use_long_rope
from edgeinfer.onnx.half import attend_in_half
from edgeinfer.onnx.package import HIDDEN_STATES, Package

if TYPE_CHECKING:
    import onnx

__all__ = ["open_onnx"]

_HALF = ("cuda", "directml")  # providers whose attention takes half precision only


def open_onnx(path: Path, config: EngineConfig) -> OrtEngine:
    """The engine over the package at ``path``.

    Raises `FormatError` and `UnsupportedModel` for what a package must not be, before anything of it is computed;
    `BackendUnavailable` for a device that is not here, and where ``config.require`` is not met.
    """
    package = packages.read(path)
    _check_vocabulary(package)
    stop = Stop()
    device = config.device if config.device != "auto" or not config.require else config.require
    computer, notices = _first_that_works(package, device, config, stop)
    try:
        if config.require:
            _check_required(config.require, computer)
        if computer.placement is not None and computer.placement.provider != "cpu":
            notices.append(computer.placement.line)
        return OrtEngine(package, config, computer, stop, notices)
    except BaseException:
        computer.close()
        raise


def _check_required(required: str, computer: Computer) -> None:
    devices.parse(required)
    if computer.placement is None:
        raise BackendUnavailable(
            f"--require {required}: this version of ONNX Runtime does not tell where nodes lie; 1.24 does"
        )
    computer.placement.check(required)


def _check_vocabulary(package: Package) -> None:
    """The tokenizer's and the graph's must be one."""
    sizes = gguf.dimensions(gguf.read_structure(package.vocabulary))
    n_vocab = package.hyperparameters.n_vocab
    if sizes.n_vocab != n_vocab:
        raise FormatError(
            f"{package.vocabulary} has {sizes.n_vocab} tokens, but edgeinfer.json says {n_vocab}: "
            "the package is put together from several; convert again"
        )


def _first_that_works(package: Package, device: str, config: EngineConfig, stop: Stop) -> tuple[Computer, list[str]]:
    """The first provider for ``device`` that takes a variant of the package. A provider may be installed where its
    hardware is not."""
    failures: list[BackendUnavailable] = []
    for found in ort_provider.candidates(device):
        variant = next((name for name in found.provider.variants if name in package.variants), None)
        if variant is None:
            wanted = found.provider.variants[0]
            failures.append(
                BackendUnavailable(
                    f"{found.words} needs variant {wanted} of {package.name}, which {package.folder} lacks: "
                    f"edgeinfer convert … --to onnx --variant {wanted}"
                )
            )
            continue
        try:
            return _taken(found, *_maker(package, variant)(package, variant, found, config, stop))
        except BackendUnavailable as error:
            failures.append(error)
    raise BackendUnavailable("; ".join(str(failure) for failure in failures))


def _taken(found: Found, computer: Computer, notices: list[str]) -> tuple[Computer, list[str]]:
    """Raise `BackendUnavailable` where the provider took nothing of the graph: some do so where their hardware is not
    there, and leave all of it to the CPU."""
    placement = computer.placement
    if placement is not None and not placement.nodes.get(found.provider.word):
        computer.close()
        raise BackendUnavailable(f"{found.words} took none of the model's nodes: is there such a device here?")
    return computer, notices


def _dynamic(
    package: Package, variant: str, found: Found, config: EngineConfig, stop: Stop
) -> tuple[Computer, list[str]]:
    """Of any number of tokens: our operators on the CPU, ONNX Runtime's own elsewhere and where ours cannot be."""
    proto = _graph(package, variant, config)
    model = package.path(package.variants[variant].model)
    check_signature(str(model), proto, *_dynamic_signature(package))
    hidden = expose_hidden(proto, package.hyperparameters.n_embd)
    if hidden is None:
        raise UnsupportedModel(f"{model} has no nodes 'rows' and 'output_norm'; convert again")
    _check_context(package, config)
    notices = []
    if found.is_cpu and config.kernels and not operators.why_not():
        try:
            return _with_ours(package, variant, proto, hidden, found, config, stop)
        except UnsupportedModel as error:  # the swap has changed the graph by then
            notices.append(f"ONNX Runtime's own kernels are used: {error}")
            proto = _graph(package, variant, config)
            expose_hidden(proto, package.hyperparameters.n_embd)
            config = dataclasses.replace(config, isolate=True)  # who opened it counts on answers that company leaves
    if config.kv_type != "f16":
        notices.append(f"the KV cache is {config.kv_type}: ONNX Runtime's own kernels have no such")
    half = found.provider.word in _HALF
    if half:
        attend_in_half(proto)
    graph = Graph(proto.SerializeToString(), model.parent, hidden)
    return SequenceBuffers(package, graph, found, config, stop, half=half), notices


def _encoder(
    package: Package, variant: str, found: Found, config: EngineConfig, stop: Stop
) -> tuple[Computer, list[str]]:
    """Of whole texts, whose tokens see each other: ONNX Runtime's own kernels."""
    from edgeinfer.engines.ort_encoder import WholeTexts

    proto, sizes = read_graph(package, package.variants[variant]), package.hyperparameters
    model = package.path(package.variants[variant].model)
    states = {HIDDEN_STATES: ("FLOAT", (1, None, sizes.n_embd))}
    check_signature(str(model), proto, {"input_ids": ("INT64", (1, None))}, states)
    _check_context(package, config)
    graph = Graph(proto.SerializeToString(), model.parent, HIDDEN_STATES)
    return WholeTexts(package, graph, found, config, stop), []


def _graph(package: Package, variant: str, config: EngineConfig) -> onnx.ModelProto:
    """For contexts of the configured length."""
    proto = read_graph(package, package.variants[variant])
    if package.hyperparameters.long(config.n_ctx or package.hyperparameters.n_ctx_train) and not use_long_rope(proto):
        raise FormatError(f"{package.folder} has no tables of rotations for a long context; convert again")
    return proto


def _with_ours(
    package: Package, variant: str, proto: onnx.ModelProto, hidden: str, found: Found, config: EngineConfig, stop: Stop
) -> tuple[Computer, list[str]]:
    """Raises `UnsupportedModel` for a graph that our operators cannot do all of; ``proto`` is changed."""
    from edgeinfer.engines.ort_pool import CellPool
    from edgeinfer.onnx.swap import swap

    threads = {"n_threads": config.n_threads or 1, "n_threads_batch": config.n_threads_batch or config.n_threads or 1}
    swapped = swap(package, proto, **threads, kv_type=config.kv_type, variant=variant)
    try:
        computer = CellPool(package, swapped, hidden, found, config, stop)
    except BaseException:
        swapped.close()
        raise
    return computer, [swapped.notice] if swapped.notice else []


def _dynamic_signature(package: Package) -> tuple[Signature, Signature]:
    sizes = package.hyperparameters
    cache = ("FLOAT", (1, sizes.n_kv_heads, None, sizes.head_dim))
    names = cache_names(sizes.n_layers)
    inputs = {
        "input_ids": ("INT64", (1, None)),
        "attention_mask": ("INT64", (1, None)),
        "logits_from": ("INT64", (1,)),
    }
    outputs = {"logits": ("FLOAT", (1, None, sizes.n_vocab))}
    return {**inputs, **{past: cache for past, _ in names}}, {**outputs, **{present: cache for _, present in names}}


def _check_context(package: Package, config: EngineConfig) -> None:
    n_ctx_train = package.hyperparameters.n_ctx_train
    if config.n_ctx > n_ctx_train:
        raise UnsupportedModel(
            f"{package.folder} holds positions for {n_ctx_train} tokens: a context of {config.n_ctx} is not possible"
        )


def _static(
    package: Package, variant: str, found: Found, config: EngineConfig, stop: Stop
) -> tuple[Computer, list[str]]:
    from edgeinfer.engines.ort_static import StaticGraphs

    return StaticGraphs(package, package.variants[variant], found, config, stop), []


def _maker(package: Package, variant: str) -> Callable[..., tuple[Computer, list[str]]]:
    if not package.hyperparameters.causal:
        return _encoder
    return _static if variant == "npu" else _dynamic
