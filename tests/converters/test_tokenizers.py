"""Tokenizers of every kind split hard texts as Hugging Face's library does, once their checkpoint is converted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import byte_alphabet

from edgeinfer import gguf
from edgeinfer.converters.huggingface.checkpoint import open_checkpoint
from edgeinfer.converters.huggingface.tokenizers import read_vocabulary
from edgeinfer.converters.huggingface.tokenizers.pretokenizers import QWEN2
from edgeinfer.converters.huggingface.tokenizers.proof import HARD_TEXTS
from edgeinfer.converters.to_onnx.tokenizer_json import tokenizer_files
from edgeinfer.errors import FormatError, UnsupportedModel
from edgeinfer.gguf import TENSOR_TYPES, writer
from edgeinfer.gguf.writer import NewTensor
from edgeinfer.text import Tokenizer

tokenizers = pytest.importorskip("tokenizers")

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXTS = [*HARD_TEXTS, *(text * 3 for text in HARD_TEXTS), "the theory of the other thing that they thought " * 20]
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def folder_with(tmp_path: Path, document: dict[str, Any], **config: Any) -> Path:
    """A checkpoint as far as a tokenizer is concerned."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}), encoding="utf-8")
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return tmp_path


def vocabulary_file(folder: Path) -> Path:
    """A GGUF file with the vocabulary of a checkpoint and nothing else."""
    vocabulary = read_vocabulary(open_checkpoint(folder))
    keys = vocabulary.metadata(vocabulary.tokens.n, str(folder))
    keys |= {"general.architecture": "llama", "llama.vocab_size": vocabulary.tokens.n}
    path = folder / "vocabulary.gguf"
    with path.open("wb") as stream:
        one = NewTensor("x", (1,), TENSOR_TYPES[0], lambda: [np.zeros(1, np.float32)])
        writer.write(stream, {key: writer.encoded(value) for key, value in keys.items()}, [one])
    return path


def check(folder: Path, texts: list[str] = TEXTS) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    wrong = []
    with Tokenizer.from_gguf(vocabulary_file(folder)) as ours:
        for text in texts:
            want = theirs.encode(text, add_special_tokens=False).ids
            if ours.encode(text, parse_special=True).tolist() != want:
                wrong.append((text, theirs.encode(text, add_special_tokens=False).tokens))
        with_bos = ours.encode("a b", add_bos=ours.adds_bos).tolist() + list(ours.suffix_ids)
        assert with_bos == theirs.encode("a b").ids
    assert not wrong


def check_package(folder: Path, texts: list[str] = TEXTS) -> None:
    """The tokenizer.json of an ONNX package splits, and puts around a text, what the checkpoint's does."""
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    files = tokenizer_files(gguf.read_structure(vocabulary_file(folder)).metadata)
    ours = tokenizers.Tokenizer.from_str(json.dumps(files["tokenizer.json"]))
    assert [text for text in texts if ours.encode(text).ids != theirs.encode(text).ids] == []


def corpus() -> Iterator[str]:
    yield from HARD_TEXTS
    yield from [
        "the theory of the other thing that they thought about",
        "l'été à la plage",
        "def f(self): return x",
    ] * 20
    yield from ["Привет мир", "你好世界 你好", "    if x:\n        y = 1\n", "1234 5678 2024"] * 10


def trained(model: Any, trainer: Any, **parts: Any) -> dict[str, Any]:
    made = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    made.train_from_iterator(corpus(), trainer)
    document: dict[str, Any] = json.loads(made.to_str())
    return document


def byte_level(split: Any, normalizer: Any = None, *, ignore_merges: bool = False) -> dict[str, Any]:
    parts = tokenizers.pre_tokenizers
    steps = [*split, parts.ByteLevel(add_prefix_space=False, use_regex=not split or "Digits" in str(split))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=byte_alphabet(), show_progress=False
    )
    model = tokenizers.models.BPE(ignore_merges=ignore_merges)
    more = {"normalizer": normalizer} if normalizer else {}
    return trained(model, trainer, pre_tokenizer=parts.Sequence(steps), **more)


def split_by(pattern: str) -> Any:
    return tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def test_bytes_as_gpt2(tmp_path: Path) -> None:
    check(folder_with(tmp_path, byte_level([])))


def test_bytes_as_smollm(tmp_path: Path) -> None:
    check(folder_with(tmp_path, byte_level([tokenizers.pre_tokenizers.Digits(individual_digits=True)])))


def test_bytes_as_qwen2(tmp_path: Path) -> None:
    """With Unicode brought into one form first, which llama.cpp does not do."""
    folder = folder_with(tmp_path, byte_level([split_by(QWEN2)], tokenizers.normalizers.NFC()))
    check(folder)
    check_package(folder)


@pytest.mark.parametrize("ignore_merges", [True, False])
def test_bytes_as_llama3(ignore_merges: bool, tmp_path: Path) -> None:
    document = byte_level([split_by(LLAMA3)], ignore_merges=ignore_merges)
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    check(folder_with(tmp_path, document))


def test_tokens_of_users(tmp_path: Path) -> None:
    """Added tokens that are not special: found in any text, kept as text."""
    document = byte_level([split_by(QWEN2)])
    n = len(document["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    document["added_tokens"] += [
        {"id": n, "content": "<tool_call>", **flags},
        {"id": n + 1, "content": "    ", **flags},
    ]
    check(folder_with(tmp_path, document), [*TEXTS, "x<tool_call>y    z", "<tool_call", "a        b"])


def spaced(prepend: bool, *, all_merges: bool) -> dict[str, Any]:
    """BPE with bytes for what no token has. ``all_merges``: as SentencePiece lists them, every pair that spells a
    token; else only those that training found."""
    steps: list[Any] = [tokenizers.normalizers.Replace(" ", "\u2581")]
    if prepend:
        steps.insert(0, tokenizers.normalizers.Prepend("\u2581"))
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL, show_progress=False)
    model = tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    document = trained(model, trainer, normalizer=tokenizers.normalizers.Sequence(steps))
    words = {text: i for text, i in document["model"]["vocab"].items() if "\n" not in text and text.isprintable()}
    texts = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    texts += [text for text in sorted(words, key=words.__getitem__) if text not in SPECIAL]
    vocab = {text: i for i, text in enumerate(texts)}
    merges = [tuple(merge) for merge in document["model"]["merges"]]
    merges = [(a, b) for a, b in merges if a in vocab and b in vocab and a + b in vocab]
    if all_merges:
        ranks = {a + b: rank for rank, (a, b) in reversed(list(enumerate(merges)))}
        plain = set(texts[len(SPECIAL) + 256 :])
        found = [
            (rank, at, text[:at], text[at:])
            for text, rank in ranks.items()
            for at in range(1, len(text))
            if text[:at] in plain and text[at:] in plain
        ]
        merges = [(a, b) for _, _, a, b in sorted(found)]
    document["model"] |= {"vocab": vocab, "merges": [list(pair) for pair in merges]}
    return document


@pytest.mark.parametrize("prepend", [True, False])
@pytest.mark.parametrize("all_merges", [True, False])
def test_characters_with_bytes(prepend: bool, all_merges: bool, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, spaced(prepend, all_merges=all_merges), unk_token="<unk>", bos_token="<s>")
    assert read_vocabulary(open_checkpoint(folder)).model == ("llama" if all_merges else "gpt2")
    check(folder)


def test_unigram(tmp_path: Path) -> None:
    parts = tokenizers.pre_tokenizers
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    document = trained(
        tokenizers.models.Unigram(),
        trainer,
        pre_tokenizer=parts.Sequence([parts.WhitespaceSplit(), parts.Metaspace()]),
    )
    document["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["</s>", 2],
        "cls": ["<s>", 0],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    # A text with the very sign that stands for spaces is not split alike.
    check(folder_with(tmp_path, document, bos_token="<s>", eos_token="</s>"), [t for t in TEXTS if "\u2581" not in t])


@pytest.mark.parametrize(("lowercase", "strip_accents"), [(True, None), (False, False), (False, True), (True, False)])
def test_wordpiece(lowercase: bool, strip_accents: bool | None, tmp_path: Path) -> None:
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    document = trained(
        tokenizers.models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizer=tokenizers.normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents),
        pre_tokenizer=tokenizers.pre_tokenizers.BertPreTokenizer(),
        post_processor=tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
    )
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    texts = [*TEXTS, "w" * 100, "w" * 101, "ΌΣΟΣ σ ς", "İstanbul"]
    check(folder_with(tmp_path, document, **special), texts)


def test_a_split_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    document = byte_level([split_by(r"\w+|\W")])
    with pytest.raises(UnsupportedModel, match=r"llama\.cpp has no way to split text like this one"):
        read_vocabulary(open_checkpoint(folder_with(tmp_path, document)))


def test_two_tokens_of_one_text_are_refused(tmp_path: Path) -> None:
    document = byte_level([])
    document["added_tokens"].append({"id": 5000, "content": "the", "special": True})
    with pytest.raises(FormatError, match="'the' is token"):
        read_vocabulary(open_checkpoint(folder_with(tmp_path, document)))


def metaspace(scheme: str, *, split: bool = False) -> dict[str, Any]:
    """As transformers saves tokenizers of SentencePiece's kind, without a normalizer."""
    step = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}
    return spaced(False, all_merges=True) | {"normalizer": None, "pre_tokenizer": step}


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_spaces_before_a_text(scheme: str, tmp_path: Path) -> None:
    """None where there is one already; and with ``first`` none behind a special token."""
    texts = ["<s> the<|im_end|>the", "the</s>the", "<s>the", "</s> ", " \u2581the", "\u2581the"]
    folder = folder_with(tmp_path, metaspace(scheme), bos_token="<s>")
    check(folder, [*TEXTS, *texts])
    check_package(folder, [*TEXTS, *texts])


def test_words_of_users_have_a_space_behind_them(tmp_path: Path) -> None:
    document = spaced(True, all_merges=False)
    n = len(document["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    document["added_tokens"].append({"id": n, "content": "\n\n\n", **flags})
    check(folder_with(tmp_path, document), [*TEXTS, "a\n\n\nb", "\n\n\n b"])


def test_a_split_at_spaces_that_tokens_contradict(tmp_path: Path) -> None:
    document = metaspace("always", split=True)
    inside = {text: i for text, i in document["model"]["vocab"].items() if "\u2581" not in text[1:]}
    if len(inside) == len(document["model"]["vocab"]):
        document["model"]["vocab"]["\u2581\u2581"] = len(inside)
    with pytest.raises(UnsupportedModel, match="split at spaces first"):
        read_vocabulary(open_checkpoint(folder_with(tmp_path, document)))


def test_special_tokens_that_take_white_space_away(tmp_path: Path) -> None:
    """As Phi 3 has them, whatever the model is called."""
    document = byte_level([split_by(QWEN2)])
    for entry in document["added_tokens"]:
        entry["rstrip"], entry["lstrip"] = entry["content"] == "<|im_start|>", entry["content"] == "<|im_end|>"
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
    }
    texts = [*TEXTS, "a <|im_start|>\n b <|im_end|> c", "<|im_start|> ", " <|im_end|>"]
    folder = folder_with(tmp_path, document, eos_token="</s>")
    check(folder, texts)
    check_package(folder, texts)


@pytest.mark.parametrize("stated", [True, False, None])
@pytest.mark.parametrize("put", [True, False])
def test_only_tokenizer_json_puts_a_bos_token(put: bool, stated: bool | None, tmp_path: Path) -> None:
    """transformers takes no notice of add_bos_token beside one."""
    document = byte_level([])
    if put:
        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
    check(folder_with(tmp_path, document, bos_token="<s>", eos_token="</s>", add_bos_token=stated), TEXTS[:2])


@pytest.mark.parametrize(
    ("flag", "message"),
    [("single_word", "found by single_word"), ("lstrip", "found by lstrip"), ("rstrip", "found by rstrip")],
)
def test_words_that_llama_cpp_cannot_find(flag: str, message: str, tmp_path: Path) -> None:
    document = byte_level([])
    document["added_tokens"].append({"id": 5000, "content": "<x>", "special": False, flag: True})
    with pytest.raises(UnsupportedModel, match=message):
        read_vocabulary(open_checkpoint(folder_with(tmp_path, document)))


def test_words_added_to_wordpiece_are_refused(tmp_path: Path) -> None:
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    document = trained(
        tokenizers.models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizer=tokenizers.normalizers.BertNormalizer(),
        pre_tokenizer=tokenizers.pre_tokenizers.BertPreTokenizer(),
    )
    document["added_tokens"].append({"id": 400, "content": "covid", "special": False})
    with pytest.raises(UnsupportedModel, match="1 words such as 'covid' were added"):
        read_vocabulary(open_checkpoint(folder_with(tmp_path, document)))
