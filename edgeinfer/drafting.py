"""Setting up speculation for a model: which drafters, whether they pay and fit, and what a pass costs on this machine.

Whatever speaks against a draft model leaves the answers as they are, so under ``auto`` it becomes a remark, and an
error only where a draft model was asked for by name."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeinfer import catalog, described, device, memory
from edgeinfer.core import ModelInfo
from edgeinfer.described import Described
from edgeinfer.engines import Engine, EngineConfig, open_engine
from edgeinfer.errors import EdgeInferError, ModelNotFound, UnsupportedModel
from edgeinfer.speculate import CostCurve, Speculator, costs
from edgeinfer.speculate.draft_file import open_draft
from edgeinfer.speculate.economy import Economy, outlook
from edgeinfer.speculate.kept import ensure_draft
from edgeinfer.speculate.model import ModelDrafter
from edgeinfer.speculate.ngram import NgramDrafter
from edgeinfer.speculate.vocabulary import match
from edgeinfer.text import Tokenizer

if TYPE_CHECKING:
    from edgeinfer.catalog import Card, LocalModel, Progress

__all__ = ["DRAFTS", "Target", "forget", "partner", "remembered", "speculator"]

DRAFTS = ("auto", "ngram", "off")
"""What --draft takes besides a model's name."""

_N_LEAST = costs.ROWS[-1]
_GOOD = 0.9  # a draft model that is right so often is a good one
_LEAST_GAIN = 1.05  # and if even that one would win no more than this, none is loaded

Said = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """The model that drafts are made for, as it was opened."""

    local: LocalModel
    info: ModelInfo
    engine: Engine
    tokenizer: Tokenizer
    config: EngineConfig
    plan: memory.MemoryPlan
    kernels: str
    """Which kernels it runs on: what it costs depends on that."""
    form: str = "llamacpp"
    """Which engine runs it, by `edgeinfer.engines.ENGINES`."""


def speculator(
    target: Target, draft: str, *, cap_bytes: int | None, said: Said, progress: Progress | None = None
) -> tuple[Speculator | None, list[str]]:
    """The drafters for ``draft`` (``auto``, ``ngram``, ``off``, or a model's name), and what to tell the user.

    Raises for a draft model asked for by name what `edgeinfer.catalog.ensure` and opening a model raise, and
    `UnsupportedModel` for one whose vocabulary is another.
    """
    engine = target.engine
    if draft == "off":
        return None, []
    if not engine.rewinds or engine.n_batch < _N_LEAST or engine.n_ctx < 4 * _N_LEAST:
        why = f"no drafts: {target.info.architecture} cannot go back a few tokens" if not engine.rewinds else ""
        return None, [why] if why and draft != "auto" else []
    curve = _curve(engine, target.info, target.config, target.kernels, said)
    named = draft not in DRAFTS
    name = draft if named else target.local.card.draft if draft == "auto" and target.local.card else None
    if name is None:
        return Speculator(curve, NgramDrafter()), []
    try:
        model, remarks = _model(target, curve, name, named, cap_bytes, said, progress)
    except EdgeInferError as error:
        if named:
            raise
        return Speculator(curve, NgramDrafter()), [] if isinstance(error, ModelNotFound) else [
            f"no draft model: {error}"
        ]
    return Speculator(curve, NgramDrafter(), *(model or ())), remarks


@dataclass(frozen=True, slots=True)
class _Source:
    """A draft model as it will be opened: the cheap build ``built`` of ``local``, or ``local`` itself. ``file`` is what
    is opened; ``info`` is of ``local``, under whose name all of it is remembered."""

    local: LocalModel
    built: Path | None
    file: Described
    info: ModelInfo

    def open(self, config: EngineConfig) -> tuple[Engine, npt.NDArray[np.int32] | None]:
        if self.built is None:
            return open_engine(described.engine_of(self.file), self.local.path, config), None
        return open_draft(self.built, self.local.path, config)


def _source(local: LocalModel, said: Said, progress: Progress | None) -> tuple[_Source, list[str]]:
    """The cheap build, made where it is not here yet; the model as it is where none can be made, and why."""
    said(f"preparing the draft model {local.name}")
    remarks: list[str] = []
    built: Path | None = None
    try:
        built = None if local.path.is_dir() else ensure_draft(local.path, progress=progress)
    except EdgeInferError as error:
        remarks.append(f"the draft model {local.name} is used as it is: {error}")
    own = described.read(local.path)
    file = described.read(built) if built else own
    return _Source(local, built, file, described.info(own, name=local.name)), remarks


def _model(
    target: Target,
    curve: CostCurve,
    name: str,
    named: bool,
    cap_bytes: int | None,
    said: Said,
    progress: Progress | None,
) -> tuple[tuple[ModelDrafter, CostCurve] | None, list[str]]:
    """The draft model and its price, and what to tell the user; None where it would not pay."""
    local = catalog.ensure(name, progress=progress) if named else catalog.resolve(name)
    with Tokenizer.from_gguf(described.vocabulary_at(local.path)) as tokenizer:
        vocabulary = match(target.tokenizer, tokenizer, (target.info.name, local.name))
    source, remarks = _source(local, said, progress)
    config = _draft_config(target, source)
    kernels = _draft_kernels(target, source)
    remembered = costs.recall(*_words(source.info, config, kernels))
    if remembered is not None and not _pays(curve, remembered):
        return None, [_not_worth(name)]
    room = min(memory.available(), cap_bytes or sys.maxsize) - target.plan.total_bytes
    memory.check(source.file, config, cap_bytes=max(room, 1))
    engine, heads = source.open(config)
    try:
        if not engine.rewinds:
            raise UnsupportedModel(f"{name} cannot draft: {source.info.architecture} cannot go back a few tokens")
        price = _curve(engine, source.info, config, kernels, said)
        if _pays(curve, price):
            return (ModelDrafter(engine, vocabulary, heads), price), remarks
    except BaseException:
        engine.close()
        raise
    engine.close()
    return None, [_not_worth(name)]


def _draft_config(target: Target, source: _Source) -> EngineConfig:
    """As the target is opened; a draft for another engine is computed on the CPU, wherever the target is."""
    config = dataclasses.replace(
        target.config, n_ctx=min(target.config.n_ctx, source.info.n_ctx_train), n_batch=256, drafted=False, require=""
    )
    if described.engine_of(source.file) == target.form:
        return config
    return dataclasses.replace(config, device="cpu", isolate=False)


def _draft_kernels(target: Target, source: _Source) -> str:
    """Whose kernels a draft runs on, as its costs are remembered."""
    form = described.engine_of(source.file)
    own = target.kernels if form == target.form else f"{form} beside {target.kernels}"
    return f"cheap build on {own}" if source.built else own


def _not_worth(name: str) -> str:
    return f"the draft model {name} is not used: on this machine checking its guesses costs what they could win"


def _pays(target: CostCurve, draft: CostCurve) -> bool:
    """Whether a draft model that is nearly always right would win anything."""
    depth = target.depths[1]
    economy = Economy(target.at(depth), 1, 1, gain=_LEAST_GAIN)
    return outlook(1.0, _GOOD, draft.at(depth)(1), economy, 0, costs.ROWS[-1])[0] > 0


def _curve(engine: Engine, info: ModelInfo, config: EngineConfig, kernels: str, said: Said) -> CostCurve:
    """What passes cost, measured when first asked for."""
    words = _words(info, config, kernels)
    curve = costs.recall(*words)
    if curve is None:
        said(f"measuring {info.name} once")
        # From a thread that ends: see `edgeinfer.kernels.plugin` for what OpenMP makes of others.
        with ThreadPoolExecutor(1, thread_name_prefix="edgeinfer-measuring") as pool:
            what = pool.submit(costs.measure, engine, lambda part: said(f"measuring {info.name} once: {part}"))
            curve = what.result()
        with contextlib.suppress(OSError):  # a disk that is full or not ours: it is measured again
            costs.remember(curve, *words)
    return curve


def _words(info: ModelInfo, config: EngineConfig, kernels: str) -> tuple[object, ...]:
    threads = f"{config.n_threads}/{config.n_threads_batch} threads"
    return *_whose(info), threads, f"{kernels} kernels", f"{config.kv_type} KV"


def _whose(info: ModelInfo) -> tuple[str, str]:
    """These weights, wherever the file lies, on this machine."""
    return f"{info.architecture}-{info.n_params}-{info.bits_per_weight:.2f}bpw", device.machine_key()


# ---- for those who show it


def partner(card: Card | None) -> tuple[str | None, LocalModel | None]:
    """The draft model that the catalogue names for the one of this card, and where it lies if it is here."""
    name = card.draft if card else None
    if name is not None:
        with contextlib.suppress(EdgeInferError):
            return name, catalog.resolve(name)
    return name, None


def remembered(info: ModelInfo) -> dict[str, CostCurve]:
    """What passes of this model cost on this machine, as far as it was measured: by threads, kernels and KV cache."""
    return costs.remembered(*_whose(info))


def forget(info: ModelInfo) -> bool:
    """Drop that; false when there was nothing."""
    return costs.forget(*_whose(info))
