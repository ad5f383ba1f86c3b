"""The tokenizer in Hugging Face's form gives the tokens that ours gives from the same vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import vocabulary_files
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Theirs

from edgeinfer import gguf
from edgeinfer.converters.to_onnx.tokenizer_json import tokenizer_files
from edgeinfer.text.tokenizer import Tokenizer

TEXTS = (
    "Hello world",
    "In 2026, 12345.67 items  cost   $3!\n\n\tdef f(x):\n    return x**2  # ok\n",
    "Ünïcödé — 日本語 テスト 😀\r\n  x",
    "don't I'LL we've",
    "   leading and trailing   ",
    " \n \n\n  \t\t x",
    "a\u0301 combining, ﬁ ligature ½",
)


def theirs(path: Path, folder: Path) -> Theirs:
    made = tokenizer_files(gguf.read_structure(path).metadata)
    (folder / "tokenizer.json").write_text(json.dumps(made["tokenizer.json"]), encoding="utf-8")
    return Theirs.from_file(str(folder / "tokenizer.json"))


@pytest.mark.model
def test_byte_pairs(smollm2: Path, tmp_path: Path) -> None:
    their, our = theirs(smollm2, tmp_path), Tokenizer.from_gguf(smollm2)
    for text in (*TEXTS, "<|im_start|>user\nhi<|im_end|>\n", Path(__file__).read_text(encoding="utf-8")):
        ids = our.encode(text, parse_special=True).tolist()
        assert their.encode(text, add_special_tokens=True).ids == ids
        assert their.decode(ids) == our.decode(ids)
    our.close()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "prefixed"])
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Theirs, Tokenizer]:
    folder = tmp_path_factory.mktemp("vocabulary")
    path = vocabulary_files.sentencepiece(folder / "small.gguf", add_space_prefix=request.param)
    return theirs(path, folder), Tokenizer.from_gguf(path)


@given(text=st.text(st.sampled_from("abcthe <>/_.é你😀\n\t▁x"), min_size=1, max_size=30))
def test_sentencepiece(pieces: tuple[Theirs, Tokenizer], text: str) -> None:
    """With merges made of scores, bytes for what has no token, tokens of the user's kind, and a start."""
    their, our = pieces
    assert their.encode(text, add_special_tokens=True).ids == our.encode(text, add_bos=True).tolist()


def test_control_tokens_and_the_start(pieces: tuple[Theirs, Tokenizer]) -> None:
    their, our = pieces
    ids = their.encode("<start_of_turn>the<end_of_turn>", add_special_tokens=True).ids
    assert ids[0] == our.bos_id
    assert ids[1] == their.token_to_id("<start_of_turn>")
    assert ids[-1] == their.token_to_id("<end_of_turn>")


def test_an_unknown_kind_has_no_files(tmp_path: Path) -> None:
    tokens = [("<s>", 3, 0.0), ("</s>", 3, 0.0), ("a", 1, 0.0)]
    path = vocabulary_files.write(tmp_path / "odd.gguf", "gpt2", tokens, merges=["a a"], pre="something-new")
    assert tokenizer_files(gguf.read_structure(path).metadata) == {}


def test_config(tmp_path: Path) -> None:
    path = vocabulary_files.sentencepiece(tmp_path / "small.gguf")
    config = tokenizer_files(gguf.read_structure(path).metadata)["tokenizer_config.json"]
    assert config["tokenizer_class"] == "GemmaTokenizer"
    assert config["bos_token"] == "<s>"
    assert config["add_bos_token"]
