"""ONNX packages through the same front door as GGUF files: names, memory, drafts of either kind for either, and saved
states."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted_drafts
from onnx_packages import damaged, export, small_package

from edgeinfer import LLM, catalog, described, keeping, kernels, memory
from edgeinfer.coverage import in_words, package_coverage, work
from edgeinfer.engines import EngineConfig, open_engine
from edgeinfer.engines.base import Slice
from edgeinfer.errors import (
    BackendUnavailable,
    FormatError,
    InsufficientMemory,
    ModelNotFound,
    UnsupportedModel,
    UsageError,
)
from edgeinfer.kv import Shelf, weights
from edgeinfer.onnx import operators
from edgeinfer.onnx.package import Package
from edgeinfer.speculate import costs
from edgeinfer.text import Tokenizer

PROMPT = np.random.default_rng(5).integers(3, 300, 40).tolist()
GREEDY: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0, "ignore_eos": True}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small_package(tmp_path_factory.mktemp("models"))


def answer(model: Path, prompt: list[int] = PROMPT, **options: Any) -> list[int]:
    with LLM(str(model), n_ctx=256, **options) as llm:
        return list(llm.generate(prompt, **GREEDY).token_ids)


# ---- finding and describing


def test_names(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_MODELS", str(tmp_path))
    shutil.copytree(pair[1], tmp_path / "smollm2-135m")
    shutil.copytree(pair[1], tmp_path / "mine")
    assert catalog.resolve(str(pair[1])).path == pair[1]
    assert catalog.resolve("mine").path == tmp_path / "mine"
    assert catalog.resolve_package("smollm2-135m").path == tmp_path / "smollm2-135m"
    with pytest.raises(ModelNotFound, match="models pull"):  # the catalogue's own is the GGUF file
        catalog.resolve("smollm2-135m")
    assert [path.name for path in catalog.packages()] == ["mine", "smollm2-135m"]
    with pytest.raises(UnsupportedModel, match="is a folder and no ONNX package"):
        catalog.resolve(str(tmp_path))
    assert catalog.remove(catalog.resolve("mine")) > 100_000
    assert not (tmp_path / "mine").exists()
    with LLM("smollm2-135m", engine="onnx", n_ctx=64) as llm:
        assert llm.info.path == str(tmp_path / "smollm2-135m")


def test_an_engine_of_the_other_form(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UnsupportedModel, match=r"engine onnx runs ONNX packages, and .*llama\.gguf is none; make one"):
        LLM(str(pair[0]), engine="onnx")
    with pytest.raises(UnsupportedModel, match="engine llamacpp runs GGUF files"):
        LLM(str(pair[1]), engine="llamacpp")
    with pytest.raises(UsageError, match=r"no engine 'torch'; there are: auto, llamacpp, onnx"):
        LLM(str(pair[1]), engine="torch")


def test_what_it_is(pair: tuple[Path, Path]) -> None:
    gguf, package = (described.info(described.read(path)) for path in pair)
    for field in ("architecture", "n_vocab", "n_ctx_train", "n_layers", "n_embd", "n_heads", "n_kv_heads", "head_dim"):
        assert getattr(gguf, field) == getattr(package, field)
    assert package.n_params == pytest.approx(gguf.n_params, rel=0.01)
    assert package.quant_mix == {"Q8_0": 1.0}
    one, other = (work(described.read(path)) for path in pair)
    assert one == other


def test_which_kernels_it_gets(pair: tuple[Path, Path]) -> None:
    package = described.read(pair[1])
    assert isinstance(package, Package)
    plain = package_coverage(package, EngineConfig(kernels=False))
    assert not plain.same_answers
    assert in_words(plain) == "ONNX Runtime's own: our kernels are switched off"
    assert not package_coverage(package, EngineConfig(device="cuda")).same_answers
    if not operators.why_not():
        ours = package_coverage(package, EngineConfig())
        assert ours.same_answers
        assert ours.types.keys() == {"Q8_0"}


def test_it_has_to_fit(pair: tuple[Path, Path]) -> None:
    package = described.read(pair[1])
    small, large = (memory.plan(package, EngineConfig(n_ctx=n)) for n in (256, 2048))
    assert small.total_bytes < large.total_bytes
    plain = memory.plan(package, EngineConfig(n_ctx=2048, kernels=False))
    if not operators.why_not():
        assert plain.kv_bytes == 2 * large.kv_bytes  # float32
    with pytest.raises(InsufficientMemory, match=r"llama needs .* but --memory allows") as raised:
        LLM(str(pair[1]), memory="32M")
    assert raised.value.exit_code == 3


def test_a_package_of_parts_that_do_not_belong_together(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(pair[1], tmp_path / "package")
    damaged(tmp_path / "package", lambda manifest: manifest["hyperparameters"].update(n_vocab=299))
    with pytest.raises(FormatError, match=r"has 300 tokens, but edgeinfer\.json says 299"):
        LLM(str(tmp_path / "package"))


# ---- devices


def test_a_device_that_is_not_here(pair: tuple[Path, Path]) -> None:
    for device, require in (("qnn", ""), ("auto", "npu"), ("cpu", "npu")):
        with pytest.raises(BackendUnavailable) as raised:
            LLM(str(pair[1]), device=device, require=require)
        assert raised.value.exit_code == 5
    with pytest.raises(UsageError, match="no device 'tpu'"):
        LLM(str(pair[1]), device="tpu")
    with pytest.raises(BackendUnavailable, match=r"not one that llama\.cpp runs GGUF models on"):
        LLM(str(pair[0]), device="npu")


def test_placement_is_said(pair: tuple[Path, Path]) -> None:
    with LLM(str(pair[1]), n_ctx=64, require="cpu") as llm:
        assert llm.placement is not None
        assert llm.placement.line.startswith("cpu: ")
        assert not llm.placement.elsewhere


# ---- answers


@pytest.mark.model
def test_a_real_model_is_what_its_gguf_file_is(smollm2: Path, tmp_path: Path) -> None:
    """On 256 tokens of text, the first apart: as near as two ways to round the same weights come."""
    export(smollm2, tmp_path / "package")
    with Tokenizer.from_gguf(smollm2) as tokenizer:
        ids = tokenizer.encode(Path(__file__).read_text(encoding="utf-8"))[:256]
    logs = []
    for path in (smollm2, tmp_path / "package"):
        engine = open_engine("auto", path, EngineConfig(n_ctx=256, n_threads=2))
        rows = engine.forward([Slice(0, ids, 0, 256)])[1:].astype(np.float64)
        shifted = rows - rows.max(axis=1, keepdims=True)
        logs.append(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
        engine.close()
    assert (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean() < 0.006


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("order", ["onnx drafts", "gguf drafts"])
def test_drafts_of_the_other_kind_change_nothing(
    pair: tuple[Path, Path], order: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights on the other engine guess well; each answer is as without."""
    target, draft = pair if order == "onnx drafts" else (pair[1], pair[0])
    plain = answer(target, kernels=kernels)
    curves = iter([scripted_drafts.FLAT])
    monkeypatch.setattr(costs, "measure", lambda *_: next(curves, scripted_drafts.CHEAP))
    with LLM(str(target), n_ctx=256, draft=str(draft), kernels=kernels) as llm:
        turns = [llm.generate(PROMPT, **GREEDY)]
        turns.append(llm.generate([*PROMPT, *turns[0].token_ids, *PROMPT[:9]], **GREEDY))
    assert list(turns[0].token_ids) == plain
    assert list(turns[1].token_ids) == answer(target, [*PROMPT, *plain, *PROMPT[:9]], kernels=kernels)
    assert sum(turn.stats.n_accepted for turn in turns) > 0


@pytest.mark.parametrize("kernels", [True, False])
def test_company_changes_no_answer(pair: tuple[Path, Path], kernels: bool) -> None:
    prompts = [PROMPT[i : i + 12] for i in range(0, 24, 6)]
    alone = [answer(pair[1], prompt, kernels=kernels) for prompt in prompts]
    with LLM(str(pair[1]), n_ctx=256, n_parallel=4, kernels=kernels) as llm:
        streams = [llm.stream(prompt, **GREEDY) for prompt in prompts]
        assert [list(stream.answer.token_ids) for stream in streams] == alone


@pytest.mark.parametrize("kernels", [True, False])
def test_saved_states_come_back(pair: tuple[Path, Path], kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shelf, "_pays", lambda *_: True)  # so small a model computes faster than a disk reads
    monkeypatch.setattr(weights, "_SETTLED_NS", 0)
    package = described.read(pair[1])
    for path in [pair[0], *(described.weight_files(package) if isinstance(package, Package) else ())]:
        weights.weights_hash(path)  # known when the first request comes
    options: dict[str, Any] = {"n_ctx": 256, "kv_cache": "100M", "kernels": kernels}
    long = np.random.default_rng(7).integers(3, 300, 150).tolist()
    with LLM(str(pair[1]), **options) as llm:
        first = llm.generate(long, **GREEDY)
    with LLM(str(pair[1]), **options) as llm:
        second = llm.generate([*long, *first.token_ids, 9], **GREEDY)
    assert second.stats.n_restored >= len(long)
    assert list(second.token_ids) == answer(pair[1], [*long, *first.token_ids, 9], kernels=kernels)
    with LLM(str(pair[0]), n_ctx=256, kv_cache="100M", kernels=kernels) as llm:  # another engine's are no use to it
        assert llm.generate(long, **GREEDY).stats.n_restored == 0


def test_what_states_depend_on(pair: tuple[Path, Path]) -> None:
    package = described.read(pair[1])
    info = described.info(package)
    report = kernels.KernelReport(False, "")
    seen = {
        keeping.fingerprint(weights, package, info, config, report).digest()
        for weights in ("a", "b")
        for config in (
            EngineConfig(n_ctx=64),
            EngineConfig(n_ctx=64, kernels=False),
            EngineConfig(n_ctx=64, kernels=False, n_batch=64),
            EngineConfig(n_ctx=64, device="openvino"),
        )
    }
    assert len(seen) == 8


def test_embeddings(pair: tuple[Path, Path]) -> None:
    vectors = []
    for path in pair:
        with LLM(str(path), n_ctx=256) as llm:
            vectors.append(llm.embed(["abc", "def ghi"]))
    assert vectors[1].shape == (2, 256)
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.98
