"""Which drafters a model gets: under ``auto`` whatever speaks against a draft model is a remark, by name an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scripted_drafts
import vocabulary_files
from scripted_drafts import FLAT, STEEP
from small_models import small_model, written

from edgeinfer import catalog, drafting, env, gguf, memory
from edgeinfer.engines import EngineConfig
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.errors import (
    DraftUnavailable,
    EngineError,
    FormatError,
    InsufficientMemory,
    ModelNotFound,
    UnsupportedModel,
)
from edgeinfer.speculate import CostCurve, costs
from edgeinfer.speculate.model import ModelDrafter
from edgeinfer.text import Tokenizer


class Machine:
    """A target with a partner in its card, engines that are scripted, and costs that are measured in no time."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = written(small_model(), folder)
        self.here: dict[str, Path] = {"partner": self.path}
        self.engines: list[ScriptedEngine] = []
        self.measured: list[ScriptedEngine] = []
        self.curves: Callable[[ScriptedEngine], CostCurve] = lambda each: (
            FLAT if each is self.engine else scripted_drafts.CHEAP
        )
        self.engine = scripted_drafts.engine()
        self.rewinds = True
        self.free_bytes = 1 << 40
        monkeypatch.setattr(catalog, "resolve", self._find)
        monkeypatch.setattr(catalog, "ensure", self._find)
        monkeypatch.setattr(drafting, "open_engine", self._open)
        monkeypatch.setattr(drafting, "ensure_draft", self._no_build)
        monkeypatch.setattr(memory, "available", lambda: self.free_bytes)
        monkeypatch.setattr(costs, "measure", self._measure)
        self._tokenizer = Tokenizer.from_gguf(self.path)

    def _find(self, name: str, **_: Any) -> Any:
        if name not in self.here:
            raise ModelNotFound(f"no model {name}")
        return SimpleNamespace(path=self.here[name], name=name, card=None)

    def _open(self, _engine: str, _path: Path, _config: EngineConfig) -> ScriptedEngine:
        opened = scripted_drafts.engine()
        opened.rewinds = self.rewinds
        self.engines.append(opened)
        return opened

    @staticmethod
    def _no_build(*_: Any, **__: Any) -> Path:
        raise DraftUnavailable("none is made here")

    def _measure(self, engine: ScriptedEngine, _said: Any) -> CostCurve:
        self.measured.append(engine)
        return self.curves(engine)

    def speculator(self, draft: str, *, card: str | None = "partner") -> tuple[Any, list[str]]:
        local: Any = SimpleNamespace(path=self.path, name="target", card=SimpleNamespace(draft=card))
        info = gguf.model_info(gguf.read(self.path), name="target")
        plan: Any = SimpleNamespace(total_bytes=0)
        config = EngineConfig(n_ctx=512)
        target = drafting.Target(local, info, self.engine, self._tokenizer, config, plan, "scripted")
        return drafting.speculator(target, draft, cap_bytes=None, said=lambda _: None)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, monkeypatch)
    made.curves = lambda each: FLAT if each is made.engine else scripted_drafts.CHEAP
    # Target and partner are the same file here; what is remembered of one is not taken for the other.
    words = drafting._words
    monkeypatch.setattr(drafting, "_words", lambda info, *rest: (*words(info, *rest), info.name))
    return made


def test_auto_takes_the_partner(machine: Machine) -> None:
    speculator, remarks = machine.speculator("auto")
    assert isinstance(speculator._model, ModelDrafter)
    assert remarks == ["the draft model partner is used as it is: none is made here"]
    assert machine.measured == [machine.engine, *machine.engines]
    speculator.close()
    assert machine.engines[0].closed


def test_off_ngram_and_no_partner(machine: Machine) -> None:
    assert machine.speculator("off") == (None, [])
    assert machine.measured == []
    for draft, card in (("ngram", "partner"), ("auto", None)):
        speculator, remarks = machine.speculator(draft, card=card)
        assert (speculator._model, remarks, machine.engines) == (None, [], [])


def test_a_partner_that_is_not_here(machine: Machine) -> None:
    machine.here = {}
    speculator, remarks = machine.speculator("auto")
    assert (speculator._model, remarks) == (None, [])
    with pytest.raises(ModelNotFound, match="no model partner"):
        machine.speculator("partner")


def foreign(folder: Path) -> Path:
    kinds = [("<unk>", vocabulary_files.UNKNOWN), ("<s>", vocabulary_files.CONTROL), ("</s>", vocabulary_files.CONTROL)]
    kinds += [(f"▁word{i}", vocabulary_files.NORMAL) for i in range(300)]
    tokens = [(text, kind, -float(i)) for i, (text, kind) in enumerate(kinds)]
    return vocabulary_files.write(folder / "foreign.gguf", "llama", tokens)


def damaged(folder: Path) -> Path:
    path = folder / "damaged.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        (foreign, UnsupportedModel, "cannot draft for target: it has .* of its 300 tokens"),
        (damaged, FormatError, "damaged.gguf"),
    ],
)
def test_a_partner_of_no_use(
    what: Callable[[Path], Path], error: type[Exception], words: str, machine: Machine, tmp_path: Path
) -> None:
    machine.here = {"partner": what(tmp_path)}
    with pytest.raises(error, match=words):
        machine.speculator("partner")
    speculator, remarks = machine.speculator("auto")
    assert speculator._model is None
    assert len(remarks) == 1
    assert remarks[0].startswith("no draft model: ")
    assert machine.engines == []


def test_one_that_does_not_fit(machine: Machine) -> None:
    machine.free_bytes = 1 << 20
    with pytest.raises(InsufficientMemory):
        machine.speculator("partner")
    speculator, remarks = machine.speculator("auto")
    assert (speculator._model, machine.engines) == (None, [])
    assert "needs" in remarks[0]


def test_one_that_does_not_pay_is_not_opened_twice(machine: Machine) -> None:
    machine.curves = lambda _: STEEP
    for _ in range(2):
        speculator, remarks = machine.speculator("auto")
        assert speculator._model is None
        assert "is not used: on this machine" in remarks[-1]
    assert [opened.closed for opened in machine.engines] == [True]


def test_measured_once_and_again_where_that_is_of_no_use(machine: Machine) -> None:
    for _ in range(2):
        machine.speculator("auto")
    assert len(machine.measured) == 2
    store = env.cache_dir() / "costs.json"
    store.write_text(store.read_text().replace('"version": 1', '"version": 0'))
    machine.speculator("auto")
    assert len(machine.measured) == 4


def test_costs_that_cannot_be_kept_are_used(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(costs, "remember", full)
    speculator, _ = machine.speculator("auto")
    assert speculator._model is not None


@pytest.mark.parametrize("error", [EngineError("out of luck"), ZeroDivisionError("a bug"), KeyboardInterrupt()])
def test_an_engine_that_cannot_be_measured_is_closed(error: BaseException, machine: Machine) -> None:
    def fails(each: ScriptedEngine) -> CostCurve:
        if each is machine.engine:
            return FLAT
        raise error

    machine.curves = fails
    with pytest.raises(type(error)):
        machine.speculator("partner")
    assert [opened.closed for opened in machine.engines] == [True]
    if isinstance(error, EngineError):
        assert machine.speculator("auto")[1][-1] == "no draft model: out of luck"


def test_one_that_cannot_go_back(machine: Machine) -> None:
    machine.rewinds = False
    with pytest.raises(UnsupportedModel, match="cannot go back"):
        machine.speculator("partner")
    assert [opened.closed for opened in machine.engines] == [True]
