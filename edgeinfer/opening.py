"""Opening a model: from a name to an engine, a tokenizer and a template, after a check that it will fit.

Everything that can be refused is refused from the file's header, before any weight is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer import catalog, device, drafting, gguf, kernels, memory, tune
from edgeinfer.core import ModelInfo
from edgeinfer.coverage import Coverage, coverage
from edgeinfer.engines import Engine, EngineConfig, open_engine
from edgeinfer.files import parse_bytes
from edgeinfer.speculate import Speculator
from edgeinfer.text import ChatTemplate, Codec, Tokenizer

if TYPE_CHECKING:
    from edgeinfer.catalog import Progress

__all__ = ["Opened", "completed", "open_model"]

N_CTX_DEFAULT = 4096


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


def open_model(
    name: str,
    config: EngineConfig,
    *,
    engine: str = "auto",
    cap: str | int | None = None,
    chat_template: str | None = None,
    draft: str = "off",
    progress: Progress | None = None,
    said: Callable[[str], None] = lambda _what: None,
) -> Opened:
    """Find (or fetch) the model, see that it fits, load it and what drafts for it. ``config.n_ctx`` 0 chooses; so do
    thread counts of 0. ``said`` hears what takes a while.

    Raises `ModelNotFound`, `DownloadError`, `FormatError`, `UnsupportedModel`, `InsufficientMemory`,
    `BackendUnavailable`."""
    local = catalog.ensure(name, progress=progress)
    file = gguf.read(local.path)
    info = gguf.model_info(file, name=local.name)
    config, notices = completed(config, info)
    cap_bytes = None if cap is None else parse_bytes(cap)
    plan = memory.check(file, config, cap_bytes=cap_bytes)
    with kernels.loading(config.kernels) as report:
        n_cells = config.n_cells or config.n_ctx * config.n_seq_max
        covered = coverage(file, report, kv_type=config.kv_type, n_cells=n_cells)
    notices += _about_kernels(config, report, covered)
    if covered.same_answers:
        config = dataclasses.replace(config, isolate=False)
    if plan.verdict == "pages":
        notices.append(
            f"the weights ({plan.weights_bytes / 2**30:.1f} GiB) exceed the free memory: "
            "they will be read from disk again and again"
        )
    with ThreadPoolExecutor(1, thread_name_prefix="edgeinfer-tokenizer") as pool:
        loading = pool.submit(Tokenizer.from_gguf, local.path)
        opened = open_engine(engine, local.path, config)
        try:
            tokenizer = loading.result()
            template = _template(chat_template or info.chat_template, tokenizer)
            isa = report.isa or "llama.cpp"
            target = drafting.Target(local, info, opened, tokenizer, config, plan, isa)
            speculator, remarks = drafting.speculator(target, draft, cap_bytes=cap_bytes, said=said, progress=progress)
        except BaseException:
            opened.close()
            raise
    notices += getattr(opened, "notices", ())  # not every engine has something to say
    return Opened(opened, tokenizer, template, info, plan, (*notices, *remarks), speculator)


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


def _about_kernels(config: EngineConfig, report: kernels.KernelReport, covered: Coverage) -> list[str]:
    """What is slower than it might be, and why: a line at most."""
    slower = []
    if config.kernels and not report.active:
        slower.append("llama.cpp's own kernels are used")
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
