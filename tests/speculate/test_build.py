"""Drafts of small models: what they compute, what is left of their source, what cannot become one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf_files import Tensor
from small_models import ARCHITECTURES, N_VOCAB, Heard, small_model, written
from tiny_models import TYPES, random_weights, runnable

from edgeinfer import coverage, gguf, kernels
from edgeinfer.engines.base import Engine, EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine
from edgeinfer.errors import DraftUnavailable, FormatError
from edgeinfer.gguf import writer
from edgeinfer.speculate import build
from edgeinfer.speculate.build import Recipe, build_draft
from edgeinfer.speculate.draft_file import fingerprint, open_draft, read_draft
from edgeinfer.text import Tokenizer

pytestmark = pytest.mark.skipif(not kernels.available(), reason="weights are converted by our library")

TokenIds = npt.NDArray[np.int32]
CONFIG = EngineConfig(n_ctx=256, n_threads=2)
IDS = np.random.default_rng(3).integers(0, N_VOCAB, 40).astype(np.int32)
N_HEAD = 272


def built(source: Path, recipe: Recipe, name: str = "draft.gguf") -> Path:
    target = source.with_name(name)
    build_draft(source, target, recipe, fingerprint(gguf.read(source)), Heard())
    return target


def logits(engine: Engine) -> npt.NDArray[np.float32]:
    steps = [(0, 32), (32, 33), (33, 36), (36, 40)]
    try:
        return np.concatenate([engine.forward([Slice(0, IDS[a:b], a, b - a)]).copy() for a, b in steps])
    finally:
        engine.close()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_cut_head_gives_the_logits_of_the_whole(tmp_path: Path, architecture: str, tied: bool) -> None:
    """Bit for bit with our kernels, where a row does not depend on its neighbours."""
    source = written(small_model(architecture, tied=tied), tmp_path)
    whole, all_ids = open_draft(built(source, Recipe(n_head=N_VOCAB), "whole.gguf"), source, CONFIG)
    cut, ids = open_draft(built(source, Recipe(n_head=N_HEAD)), source, CONFIG)
    assert np.array_equal(all_ids, np.arange(N_VOCAB))
    assert (cut.n_vocab, cut.n_vocab_in, ids.size) == (N_HEAD, N_VOCAB, N_HEAD)
    assert (np.diff(ids) > 0).all()
    wanted = logits(whole)[:, ids]
    found = logits(cut)
    if kernels.expected().active:
        assert np.array_equal(found, wanted)
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_without_our_kernels_the_logits_are_nearly_the_same(tmp_path: Path) -> None:
    """llama.cpp computes rows eight at a time where their number allows it, and rounds otherwise then."""
    source = written(small_model(), tmp_path)
    config = EngineConfig(n_ctx=256, n_threads=2, kernels=False)
    whole, _ = open_draft(built(source, Recipe(n_head=N_VOCAB), "whole.gguf"), source, config)
    cut, ids = open_draft(built(source, Recipe(n_head=N_HEAD)), source, config)
    np.testing.assert_allclose(logits(cut), logits(whole)[:, ids], atol=0.05)


def test_a_draft_is_near_its_source(tmp_path: Path) -> None:
    """Four bits of random weights are not much, but far from chance."""
    source = written(small_model("qwen2"), tmp_path)
    draft, ids = open_draft(built(source, Recipe(n_head=N_HEAD)), source, CONFIG)
    wanted = logits(LlamaCppEngine(source, CONFIG))[:, ids]
    found = logits(draft)
    likeness = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(found, wanted, strict=True)]
    assert np.median(likeness) > 0.85


def test_every_matrix_is_what_the_recipe_says(tmp_path: Path) -> None:
    made = small_model(default="Q6_K")
    made.tensors.append(Tensor("rope_freqs.weight", (32,), data=np.ones(32, np.float32).tobytes()))
    source = written(made, tmp_path)
    heard = Heard()
    target = tmp_path / "draft.gguf"
    build_draft(source, target, Recipe(N_HEAD, "Q4_0", "Q5_0"), "print", heard)
    before, after = gguf.read(source), gguf.read(target)
    assert {t.name for t in after.tensors.values()} == {*before.tensors} - {"output.weight"}
    assert after.tensors["token_embd.weight"].shape == (256, N_HEAD)
    for tensor in after.tensors.values():
        expected = "Q5_0" if tensor.name.startswith("token_embd") else "Q4_0" if len(tensor.shape) > 1 else "F32"
        assert tensor.type.name == expected, tensor.name
    assert build.planned_bytes(before, Recipe(N_HEAD, "Q4_0", "Q5_0")) == sum(t.n_bytes for t in after.tensors.values())
    kept = {key: value for key, value in before.metadata.items() if not key.startswith("tokenizer.")}
    assert all(after.metadata[key] == value for key, value in kept.items())
    draft = read_draft(target)
    assert (draft.source, draft.fingerprint) == (source, "print")
    total = sum(tensor.n_bytes for name, tensor in before.tensors.items() if name != "token_embd.weight")
    cut = before.tensors["output.weight"].n_bytes * N_HEAD // N_VOCAB
    done = total - before.tensors["output.weight"].n_bytes + cut
    assert heard.updates[-1][0] == done
    assert [n for n, _ in heard.updates] == sorted(n for n, _ in heard.updates)


def test_what_is_small_already_is_copied(tmp_path: Path) -> None:
    types = {"ffn_up": "Q2_K", "ffn_down": "IQ4_XS", "attn_q": "Q4_K", "attn_k": "F16"}
    made = small_model()
    for tensor in made.tensors:
        kind = types.get(tensor.name.split(".")[-2])
        if kind:
            tensor.type = TYPES[kind]
            tensor.data = random_weights(kind, tensor.shape, np.random.default_rng(0))
    source = written(made, tmp_path)
    after = gguf.read(built(source, Recipe(N_HEAD)))
    found = {kind: after.tensors[f"blk.0.{kind}.weight"] for kind in types}
    assert {kind: tensor.type.name for kind, tensor in found.items()} == {
        "ffn_up": "Q2_K",
        "ffn_down": "IQ4_XS",
        "attn_q": "Q4_K",
        "attn_k": "Q4_0",
    }
    for kind in ("ffn_up", "ffn_down", "attn_q"):
        at = found[kind].offset
        data = (tmp_path / "draft.gguf").read_bytes()[at : at + found[kind].n_bytes]
        assert data == next(t.data for t in made.tensors if t.name == f"blk.0.{kind}.weight")


def test_pieces_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(small_model(), tmp_path)
    wanted = built(source, Recipe(N_HEAD)).read_bytes()
    monkeypatch.setattr(build, "_PIECE_ELEMENTS", 700)
    assert built(source, Recipe(N_HEAD)).read_bytes() == wanted


def test_experts(tmp_path: Path) -> None:
    source = written(runnable(n_experts=4), tmp_path)
    target = built(source, Recipe(N_HEAD))
    after = gguf.read(target)
    assert after.tensors["blk.0.ffn_up_exps.weight"].type.name == "Q4_0"
    assert after.tensors["blk.0.ffn_gate_inp.weight"].type.name == "F32"
    engine, _ = open_draft(target, source, CONFIG)
    assert np.isfinite(logits(engine)).all()


def test_a_draft_reads_less(tmp_path: Path) -> None:
    source = written(small_model(), tmp_path)
    draft = gguf.read(built(source, Recipe(N_HEAD)))
    assert coverage.work(draft).decode_bytes < 0.6 * coverage.work(gguf.read(source)).decode_bytes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("architecture", "architecture gemma2; drafts are made of gemma3, llama"),
        ("no embedding", "no output head of a kind that can be cut"),
        ("bias", "no output head of a kind that can be cut"),
        ("head", r"output\.weight is of type Q2_K, which we do not decode"),
    ],
)
def test_models_that_no_draft_is_made_of(tmp_path: Path, damage: str, message: str) -> None:
    made = small_model("gemma2" if damage == "architecture" else "llama")
    if damage == "no embedding":
        made.tensors = made.tensors[1:]
    elif damage == "bias":
        made.tensors.append(Tensor("output.bias", (N_VOCAB,)))
    elif damage == "head":
        made.tensors[2].type, made.tensors[2].data = 10, None
    source = written(made, tmp_path)
    with pytest.raises(DraftUnavailable, match=message):
        built(source, Recipe(N_HEAD))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


# ---- opening


def test_another_source_is_refused(tmp_path: Path) -> None:
    source = written(small_model(), tmp_path)
    target = built(source, Recipe(N_HEAD))
    other = written(small_model(seed=7), tmp_path, "other.gguf")
    with pytest.raises(FormatError, match=r"draft\.gguf is a draft of .*tiny\.gguf, and .*other\.gguf is another"):
        open_draft(target, other, CONFIG)


def test_files_that_are_no_drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(small_model(), tmp_path)
    with pytest.raises(FormatError, match="no draft made by edgeinfer"):
        read_draft(source)
    with monkeypatch.context() as patch:
        patch.setattr(build, "BUILD_VERSION", 99)
        target = built(source, Recipe(N_HEAD))
    with pytest.raises(FormatError, match="a draft of version 99; this edgeinfer makes and reads version 1"):
        read_draft(target)
    for ids in (np.arange(N_HEAD - 1), np.zeros(N_HEAD), np.arange(N_HEAD) - 1):
        value = writer.array(ids.astype(np.int32))
        with monkeypatch.context() as patch:
            patch.setattr(writer, "array", lambda _ids, value=value: value)
            target = built(source, Recipe(N_HEAD))
        with pytest.raises(FormatError, match="token ids are not those of its head"):
            read_draft(target)


def test_a_fingerprint_sees_size_and_samples(tmp_path: Path) -> None:
    source = written(small_model(), tmp_path)
    first = fingerprint(gguf.read(source))
    data = bytearray(source.read_bytes())
    for at in (len(data) // 2, len(data) - 5):
        data[at] ^= 1
        source.write_bytes(data)
        assert fingerprint(gguf.read(source)) != first
        data[at] ^= 1
    source.write_bytes(data + b"\0")
    assert fingerprint(gguf.read(source)) != first
    source.write_bytes(data)
    assert fingerprint(gguf.read(source)) == first


# ---- a real model


def along(engine: Engine, ids: TokenIds, n_logits: int) -> npt.NDArray[np.float32]:
    try:
        rows: npt.NDArray[np.float32] = engine.forward([Slice(0, ids, 0, n_logits)]).copy()
        return rows
    finally:
        engine.close()


@pytest.mark.model
def test_the_draft_of_a_real_model(smollm2: Path, tmp_path: Path) -> None:
    """Copied and cut, it is the model itself on the tokens it has. In 4 bits it often chooses the same token."""
    with Tokenizer.from_gguf(smollm2) as tokenizer:
        text = tokenizer.encode("def add(a, b):\n    return a + b\n\n\ndef subtract(a, b):\n    return a - b\n\n\ndef")
    identity = fingerprint(gguf.read(smollm2))
    wanted = along(LlamaCppEngine(smollm2, CONFIG), text, len(text) - 1)
    for recipe, bound in ((Recipe(32768, "Q8_0", "Q8_0"), 1.0), (Recipe(32768), 0.7)):
        build_draft(smollm2, tmp_path / "draft.gguf", recipe, identity, Heard())
        draft, ids = open_draft(tmp_path / "draft.gguf", smollm2, CONFIG)
        found = along(draft, text, len(text) - 1)
        assert found.shape == (len(text) - 1, 32768)
        assert (found.argmax(axis=1) == wanted[:, ids].argmax(axis=1)).mean() >= bound
        if bound == 1 and kernels.expected().active:
            assert np.array_equal(found, wanted[:, ids])
