"""What a converter says of a model before it writes anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf_files import F32, STRING, U32, File, Tensor
from onnx_packages import export
from small_models import small_model, written

from edgeinfer import gguf
from edgeinfer.converters.architectures import describe
from edgeinfer.converters.architectures.decoder import Decoder
from edgeinfer.converters.architectures.rope import Rope, Yarn
from edgeinfer.errors import EdgeInferError, FormatError, UnsupportedModel, UnsupportedQuant


def described(made: File, folder: Path) -> Decoder:
    return describe(gguf.read(written(made, folder)))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_sizes(architecture: str, tmp_path: Path) -> None:
    decoder = described(small_model(architecture, tied=True), tmp_path)
    sizes = decoder.sizes
    assert (sizes.n_layers, sizes.n_embd, sizes.n_heads, sizes.n_kv_heads, sizes.head_dim) == (2, 256, 4, 2, 64)
    assert sizes.tied_embeddings
    assert decoder.interleaved_rope == (architecture == "llama")
    assert decoder.qk_norm == ("heads" if architecture in ("qwen3", "gemma3") else "none")
    assert sizes.windowed(0) == (architecture == "gemma3")
    assert not sizes.windowed(5)
    assert sizes.attention_scale == 0.125


def without(*names: str) -> Callable[[File], None]:
    def change(made: File) -> None:
        made.tensors = [tensor for tensor in made.tensors if tensor.name not in names]

    return change


def key(name: str, kind: int, value: object) -> Callable[[File], None]:
    def change(made: File) -> None:
        made.keys[name] = (kind, value)

    return change


def extra(made: File) -> None:
    made.tensors += [Tensor("blk.0.surprise.weight", (32,)), Tensor("another.weight", (32,))]


def reshaped(made: File) -> None:
    made.tensors = [tensor for tensor in made.tensors if tensor.name != "blk.1.ffn_up.weight"]
    made.tensors.append(Tensor("blk.1.ffn_up.weight", (256, 480)))


WRONG: list[tuple[Callable[[File], None], type[EdgeInferError], str]] = [
    (key("general.architecture", STRING, "mamba"), UnsupportedModel, "'mamba'.*llama, qwen2, qwen3, gemma3"),
    (without("blk.1.attn_q.weight", "output_norm.weight"), FormatError, r"missing: 'blk\.1\.attn_q\.w.*, 'output_norm"),
    (extra, FormatError, r"unexpected: 'another\.weight', 'blk\.0\.surprise\.weight"),
    (reshaped, FormatError, r"blk\.1\.ffn_up\.weight' \[480, 256\] instead of \[512, 256\]"),
    (key("llama.expert_count", U32, 4), FormatError, "expert"),
    (key("llama.rope.dimension_count", U32, 32), UnsupportedModel, "only 32 of the 64 elements"),
    (key("llama.rope.scaling.type", STRING, "longrope"), UnsupportedModel, "longrope"),
    (key("llama.final_logit_softcapping", F32, 30.0), UnsupportedModel, "softcapping is 30"),
    (key("llama.attention.value_length", U32, 32), UnsupportedModel, "64 elements a head and values 32"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_refused_before_anything_is_written(
    change: Callable[[File], None], error: type[EdgeInferError], message: str, tmp_path: Path
) -> None:
    made = small_model("llama")
    change(made)
    if made.keys["general.architecture"][1] == "mamba":
        made.keys |= {name.replace("llama.", "mamba."): value for name, value in made.keys.items()}
    model = written(made, tmp_path)
    with pytest.raises(error, match=message):
        export(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_all_that_is_wrong_with_tensors_is_one_error(tmp_path: Path) -> None:
    made = small_model("llama")
    for change in (without("blk.1.attn_q.weight"), extra, reshaped):
        change(made)
    with pytest.raises(FormatError, match=r"missing: .*; unexpected: .*; of another shape.*ffn_up"):
        export(written(made, tmp_path), tmp_path / "out")


def test_a_vocabulary_of_another_size(tmp_path: Path) -> None:
    made = small_model("llama")
    made.tensors[0] = Tensor("token_embd.weight", (256, 299), 8)
    with pytest.raises(FormatError, match=r"token_embd\.weight has shape \[256, 299\]"):
        export(written(made, tmp_path), tmp_path / "out")


def test_a_truncated_file(tmp_path: Path) -> None:
    model = written(small_model("llama"), tmp_path)
    model.write_bytes(model.read_bytes()[:-5000])
    with pytest.raises(FormatError, match="truncated"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_blocks_that_cannot_be_kept_are_all_named(tmp_path: Path) -> None:
    made = small_model("llama", default="Q2_K")
    with pytest.raises(UnsupportedQuant, match=r"blk\.0\.attn_q\.weight \(Q2_K\).*blk\.1\.ffn_down.*--quant int8"):
        export(written(made, tmp_path), tmp_path / "out")
    made_package = export(written(made, tmp_path), tmp_path / "out", quant="int8")
    assert made_package.measured["relative_error"] < 0.01


# ---- rope


def test_plain_and_stretched_ropes() -> None:
    plain = Rope(10000.0, 8)
    assert plain.plain
    assert np.allclose(plain.angles(), [1, 0.1, 0.01, 0.001])
    assert np.allclose(Rope(10000.0, 8, 4.0).angles(), plain.angles() / 4)
    assert np.allclose(Rope(10000.0, 8, factors=(1, 1, 2, 8)).angles(), plain.angles() / [1, 1, 2, 8])
    (cos, sin), *more = plain.tables(5000)
    assert len(cos) == 4096
    assert np.allclose(cos[3], np.cos(3 * plain.angles()))
    assert np.allclose(more[0][1][0], np.sin(4096 * plain.angles()))
    assert sin.dtype == np.float32


def test_yarn_leaves_fast_pairs_and_stretches_slow_ones() -> None:
    rope = Rope(10000.0, 128, 4.0, Yarn(2048))
    ratio = rope.angles() / Rope(10000.0, 128).angles()
    assert ratio[0] == 1
    assert np.isclose(ratio[-1], 0.25)
    assert (np.diff(ratio) <= 0).all()
    assert np.isclose(rope.magnitude, 1 + 0.1 * np.log(4))
