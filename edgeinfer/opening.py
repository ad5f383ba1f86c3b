"""Opening a model: from a name to an engine, a tokenizer and a template, after a check that it will fit.

Everything that can be refused is refused from the file's header, before any weight is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer import catalog, described, device, drafting, keeping, kernels, memory, tune
from edgeinfer.core import ModelInfo
from edgeinfer.coverage import Coverage, coverage, is_dynamic_on_cpu, package_coverage
from edgeinfer.described import Described
from edgeinfer.embedding import PLAIN, Embedding, embedding_of
from edgeinfer.engines import Engine, EngineConfig, devices, open_engine
from edgeinfer.errors import EdgeInferError, InsufficientMemory, UsageError
from edgeinfer.files import parse_bytes
from edgeinfer.kv import Shelf
from edgeinfer.onnx.package import Package
from edgeinfer.speculate import Speculator
from edgeinfer.text import ChatTemplate, Codec, Tokenizer

if TYPE_CHECKING:
    from edgeinfer.catalog import LocalModel, Progress
    from edgeinfer.engines.ort_placement import Placement

__all__ = ["Opened", "about_kernels", "completed", "found", "open_model"]

N_CTX_DEFAULT = 4096
N_KEPT = 8
"""Sequences for what has ended, besides one for each request. More cost llama.cpp some time at each pass: 32 measured a
tenth of SmolLM2's decode, 8 nothing."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An open model. ``notices`` are for the user: what is unusual about how it was opened."""

    engine: Engine
    tokenizer: Codec
    template: ChatTemplate | None = None
    info: ModelInfo | None = None
    plan: memory.MemoryPlan | None = None
    notices: tuple[str, ...] = ()
    speculator: Speculator | None = None
    n_parallel: int | None = None
    shelf: Shelf | None = None
    placement: Placement | None = None
    embedding: Embedding = PLAIN


def open_model(
    name: str | os.PathLike[str],
    config: EngineConfig,
    *,
    engine: str = "auto",
    cap: str | int | None = None,
    chat_template: str | None = None,
    draft: str = "off",
    kv_cache: int = 0,
    kv_auto: bool = False,
    progress: Progress | None = None,
    said: Callable[[str], None] = lambda _what: None,
    warned: Callable[[str], None] = lambda _line: None,
) -> Opened:
    """Find (or fetch) the model, see that it fits, load it and what drafts for it. ``config.n_ctx`` 0 chooses; so do
    thread counts of 0. ``config.n_seq_max``: requests at once. ``kv_cache``: bytes of saved states on disk (0: none).
    ``kv_auto``: a smaller type of KV cache where the context would not fit otherwise. ``said`` hears what takes a
    while, ``warned`` what goes wrong with saved states, from any thread.

    Raises `ModelNotFound`, `DownloadError`, `FormatError`, `UnsupportedModel`, `InsufficientMemory`,
    `BackendUnavailable`."""
    local = found(named(name), engine, progress)
    file = described.read(local.path, engine)
    info = described.info(file, name=local.name)
    config, notices = completed(_with_context(file, config), info)
    draft, about_drafts = _drafts(file, config, draft)
    config = dataclasses.replace(config, drafted=draft != "off")
    cap_bytes = None if cap is None else parse_bytes(cap)
    if cap_bytes is not None and cap_bytes < 1:
        raise UsageError(f"memory is {cap!r}, but must be above 0")
    config, kv_cache, about_memory = _fitting(file, config, cap_bytes, kv_cache, kv_auto)
    notices += about_memory
    n_parallel = config.n_seq_max
    config = with_device_kernels(file, config)
    report, covered = about_kernels(file, config)
    notices += _about_kernels(file, config, report, covered)
    if covered.same_answers:
        config = _with_kept(file, dataclasses.replace(config, isolate=False), cap_bytes, kv_cache > 0)
    plan = memory.plan(file, config, cap_bytes=cap_bytes, saves=kv_cache > 0)
    if plan.verdict == "pages":
        notices.append(
            f"the weights ({plan.weights_bytes / 2**30:.1f} GiB) exceed the free memory: "
            "they will be read from disk again and again"
        )
    with ThreadPoolExecutor(1, thread_name_prefix="edgeinfer-tokenizer") as pool, contextlib.ExitStack() as undo:
        loading = pool.submit(Tokenizer.from_gguf, described.vocabulary(file))
        opened = open_engine(described.engine_of(file), local.path, config)
        undo.callback(opened.close)
        shelf = None
        if kv_cache:
            shelf = keeping.open_shelf(opened, file, info, config, report, cap_bytes=kv_cache, said=warned)
            undo.callback(shelf.close)
        tokenizer = loading.result()
        template = _template(chat_template or info.chat_template, tokenizer)
        embedding = embedding_of(described.vocabulary_file(file), tokenizer)
        drafted = dataclasses.replace(config, n_seq_max=n_parallel, n_cells=0)
        words, form = _kernel_words(file, config, report), described.engine_of(file)
        target = drafting.Target(local, info, opened, tokenizer, drafted, plan, words, form)
        speculator, remarks = drafting.speculator(target, draft, cap_bytes=cap_bytes, said=said, progress=progress)
        undo.pop_all()
    notices += getattr(opened, "notices", ())  # not every engine has something to say
    notices += about_drafts
    placement = getattr(opened, "placement", None)
    notices += remarks
    return Opened(
        opened, tokenizer, template, info, plan, tuple(notices), speculator, n_parallel, shelf, placement, embedding
    )


def named(model: str | os.PathLike[str]) -> str:
    """How the catalogue is asked for a model. A `pathlib.Path` is a path, whatever it looks like. Raises `UsageError`
    for what names nothing."""
    if isinstance(model, os.PathLike):
        path = os.fspath(model)
        return path if os.path.dirname(path) else os.path.join(os.curdir, path)
    if not isinstance(model, str):
        raise UsageError(f"a model is named by a text or a path, not by {model!r}")
    return model


def found(name: str, engine: str, progress: Progress | None = None) -> LocalModel:
    """The model of this name; for the ONNX engine a package of a catalogue model, which lies in the models folder under
    its name, is found first."""
    if engine == "onnx":
        with contextlib.suppress(EdgeInferError):
            return catalog.resolve_package(name)
    return catalog.ensure(name, progress=progress)


def _with_context(file: Described, config: EngineConfig) -> EngineConfig:
    """With the context that graphs of fixed shapes have, unless another is asked for."""
    if config.n_ctx or not isinstance(file, Package) or is_dynamic_on_cpu(file, config):
        return config
    made_for = [variant.n_ctx for variant in file.variants.values() if variant.n_ctx]
    return dataclasses.replace(config, n_ctx=min([N_CTX_DEFAULT, *made_for]))


def _drafts(file: Described, config: EngineConfig, draft: str) -> tuple[str, list[str]]:
    """Who drafts, and what to tell the user. Graphs of fixed shapes, and devices that choose kernels by the number of
    rows, make a token the same in a pass of several only where one alone is computed so as well: nobody gets that
    unasked."""
    if not isinstance(file, Package) or draft == "off" or is_dynamic_on_cpu(file, config):
        return draft, []
    if draft == "auto":
        return "off", []
    return draft, ["each token is computed as several are, so that drafts leave answers as they are"]


def about_kernels(file: Described, config: EngineConfig) -> tuple[kernels.KernelReport, Coverage]:
    """Whether our kernels will compute, and what of the model."""
    if isinstance(file, Package):
        covered = package_coverage(file, config)
        isa = kernels.best_isa() if covered.same_answers else None
        return kernels.KernelReport(covered.same_answers, covered.why_not, isa), covered
    with kernels.loading(config.kernels) as report:
        n_cells = config.n_cells or config.n_ctx * config.n_seq_max
        return report, coverage(file, report, kv_type=config.kv_type, n_cells=n_cells)


def _kernel_words(file: Described, config: EngineConfig, report: kernels.KernelReport) -> str:
    """Whose kernels compute, as costs are remembered under it."""
    if not isinstance(file, Package):
        return report.isa or ("llama.cpp" if config.device in ("auto", "cpu") else f"llama.cpp {config.device}")
    return f"onnx {report.isa or config.device}"


def _fitting(
    file: Described, config: EngineConfig, cap_bytes: int | None, kv_cache: int, kv_auto: bool
) -> tuple[EngineConfig, int, list[str]]:
    """The configuration and the size of the disk's cache that memory is enough for, and what to tell the user. Raises
    `InsufficientMemory`."""
    notices = []
    try:
        memory.check(file, config, cap_bytes=cap_bytes)
    except InsufficientMemory as error:
        smaller = dataclasses.replace(config, kv_type="q8_0")
        if not kv_auto or memory.plan(file, smaller, cap_bytes=cap_bytes).verdict == "too_big":
            raise
        config = smaller
        notices.append(f"the KV cache is q8_0, half as large and a little less exact: with f16, {error}")
    if kv_cache and memory.plan(file, config, cap_bytes=cap_bytes, saves=True).verdict == "too_big":
        kv_cache = 0
        notices.append("conversations are not saved to disk (--kv-cache): there is no memory for the copy")
    return config, kv_cache, notices


def _with_kept(file: Described, config: EngineConfig, cap_bytes: int | None, saves: bool) -> EngineConfig:
    """With sequences for what has ended, in the cells that requests leave, where memory allows: each has its row of
    logits. Where state is not in cells each sequence would take as much as a request, so there are none."""
    more = dataclasses.replace(
        config,
        n_seq_max=min(config.n_seq_max + N_KEPT, 256),
        n_cells=config.n_cells or config.n_ctx * config.n_seq_max,
    )
    fits = memory.plan(file, more, cap_bytes=cap_bytes, saves=saves).verdict != "too_big"
    return more if fits and not described.sizes(file).n_state else config


def completed(config: EngineConfig, info: ModelInfo) -> tuple[EngineConfig, list[str]]:
    """The configuration with everything chosen, and what to tell the user about it."""
    notices = []
    n_ctx = config.n_ctx or min(N_CTX_DEFAULT, info.n_ctx_train)
    if n_ctx > info.n_ctx_train:
        notices.append(f"a context of {n_ctx} is beyond the {info.n_ctx_train} tokens that this model was trained for")
    tuned = tune.recall(info)
    n_threads = config.n_threads or (tuned.n_threads if tuned else device.default_threads())
    n_threads_batch = config.n_threads_batch or config.n_threads or (tuned.n_threads_batch if tuned else n_threads)
    return dataclasses.replace(config, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads_batch), notices


def with_device_kernels(file: Described, config: EngineConfig) -> EngineConfig:
    """Without our kernels where llama.cpp is to compute elsewhere than on the CPU, which is where they do."""
    elsewhere = not isinstance(file, Package) and devices.parse(config.device)[0] not in ("auto", "cpu")
    return dataclasses.replace(config, kernels=False) if elsewhere else config


def _about_kernels(file: Described, config: EngineConfig, report: kernels.KernelReport, covered: Coverage) -> list[str]:
    """What is slower than it might be, and why: a line at most."""
    slower = []
    if isinstance(file, Package) and not is_dynamic_on_cpu(file, config):
        return []  # asked for, and said by the placement
    if config.kernels and not report.active:
        runtime = "ONNX Runtime" if isinstance(file, Package) else "llama.cpp"
        slower.append(f"{runtime}'s own kernels are used")
    elif config.kernels and "llama.cpp" in covered.types.values():
        slower.append("llama.cpp's own kernels are used in part")
    if config.isolate and config.n_seq_max > 1 and not covered.same_answers:
        slower.append("requests are computed one by one, so that answers agree")
    return [f"{', and '.join(slower)}: {covered.why_not}"] if slower else []


def _template(source: str | None, tokenizer: Tokenizer) -> ChatTemplate | None:
    if source is None:
        return None

    def text(token_id: int | None) -> str:
        return next((text for text, i in tokenizer.control_tokens.items() if i == token_id), "")

    return ChatTemplate(source, bos_text=text(tokenizer.bos_id), eos_text=text(tokenizer.eos_id))
