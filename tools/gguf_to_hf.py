"""Rebuild a Hugging Face checkpoint from a GGUF model: ``python tools/gguf_to_hf.py MODEL.gguf FOLDER``

The converters' tests begin with it, where no checkpoint can be fetched: what is made of the folder must be the model
again. Weights are written as float32, so that nothing is lost, or as float16 (``--half``), where room counts; models
of architectures llama, qwen2, qwen3 and gemma3, with tokenizers of bytes (gpt2) or of SentencePiece (llama).
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer import catalog, gguf
from edgeinfer.converters.huggingface.architectures import describe
from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Description, Source, Target
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.converters.huggingface.safetensors import Stored
from edgeinfer.converters.quantize.ours import floats_of
from edgeinfer.gguf import GGUFFile, Metadata

Floats = npt.NDArray[np.float32]
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
ENDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + ENDS
QWEN2 = LLAMA3.replace("{1,3}", "")
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5


def config_of(file: GGUFFile) -> dict[str, Any]:
    """``config.json`` from a model's metadata."""
    meta, sizes, name = file.metadata, gguf.dimensions(file), file.architecture
    config: dict[str, Any] = {
        "architectures": [CLASSES[name]],
        "model_type": "gemma3_text" if name == "gemma3" else name,
        "hidden_size": sizes.n_embd,
        "intermediate_size": sizes.n_ff,
        "num_hidden_layers": sizes.n_layers,
        "num_attention_heads": sizes.n_heads[0],
        "num_key_value_heads": sizes.n_kv_heads[0],
        "head_dim": sizes.head_dim_k,
        "max_position_embeddings": sizes.n_ctx_train,
        "rms_norm_eps": meta.number(f"{name}.attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.number(f"{name}.rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "vocab_size": sizes.n_vocab,
    }
    for ours in ("bos", "eos", "pad"):
        key = f"tokenizer.ggml.{'padding' if ours == 'pad' else ours}_token_id"
        config[f"{ours}_token_id"] = meta.integer(key) if key in meta else None
    if name == "gemma3":
        config |= {"sliding_window": sizes.n_swa, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6}
        config |= {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": sizes.head_dim_k}
    else:
        config["hidden_act"] = "silu"
    return config


def tokenizer_of(meta: Metadata) -> tuple[dict[str, Any], dict[str, Any]]:
    """``tokenizer.json`` and ``tokenizer_config.json``."""
    texts, kinds = meta["tokenizer.ggml.tokens"], meta.numbers("tokenizer.ggml.token_type").tolist()
    if not isinstance(texts, list):
        raise TypeError("tokenizer.ggml.tokens is no array of text")
    added = [
        {
            "id": i,
            "content": text,
            "special": kind == CONTROL,
            **dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False),
        }
        for i, (text, kind) in enumerate(zip(texts, kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    words = {text: i for i, text in enumerate(texts) if kinds[i] != UNUSED}
    over_bytes = meta.text("tokenizer.ggml.model") == "gpt2"
    document = _bytes(meta, words) if over_bytes else _spaced(meta, words, kinds)
    config: dict[str, Any] = {"chat_template": meta.get("tokenizer.chat_template")}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        stored = f"tokenizer.ggml.{key}_token_id"
        if stored in meta:
            config[f"{name}_token"] = texts[meta.integer(stored)]
    config["add_bos_token"] = meta.flag("tokenizer.ggml.add_bos_token", document["model"]["byte_fallback"])
    return {"version": "1.0", "added_tokens": added, **document}, config


def _bytes(meta: Metadata, words: Mapping[str, int]) -> dict[str, Any]:
    pre = meta.text("tokenizer.ggml.pre")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    if pre == "smollm":
        split = [{"type": "Digits", "individual_digits": True}, {**level, "use_regex": True}]
    else:
        pattern = {"qwen2": QWEN2, "llama-bpe": LLAMA3}[pre]
        split = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, level]
    merges = meta["tokenizer.ggml.merges"]
    return {
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": split},
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": dict(words),
            "merges": merges,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
        },
    }


def _spaced(meta: Metadata, words: Mapping[str, int], kinds: list[int]) -> dict[str, Any]:
    scores = meta.numbers("tokenizer.ggml.scores")
    plain = {text for text, i in words.items() if kinds[i] == 1}
    ordered = sorted(plain, key=lambda text: (-scores[words[text]], words[text]))
    merges = [
        [text[:at], text[at:]]
        for text in ordered
        for at in range(1, len(text))
        if text[:at] in plain and text[at:] in plain
    ]
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]
    if meta.flag("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, {"type": "Prepend", "prepend": "\u2581"})
    unknown = next((text for text, i in words.items() if i == meta.integer("tokenizer.ggml.unknown_token_id", 0)), None)
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "vocab": dict(words),
            "merges": merges,
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": unknown,
        },
    }


def described(folder: Path, config: Mapping[str, Any]) -> Description:
    """What a converter would read from the checkpoint that is to be written."""
    names = ["model.embed_tokens.weight"] + ([] if config["tie_word_embeddings"] else ["lm_head.weight"])
    stubs = {name: Stored(name, "F32", (1,), folder, 0) for name in names}
    return describe(Checkpoint(folder, Fields(config, "config.json"), (), stubs))


def write_safetensors(path: Path, file: GGUFFile, made: Description, *, half: bool) -> None:
    """Each tensor of the model back to the rows it was made of."""
    dtype, name = (np.dtype(np.float16), "F16") if half else (np.dtype(np.float32), "F32")
    sources = [(target, source) for target in made.targets for source in target.sources]
    header: dict[str, Any] = {}
    offset = 0
    for _, source in sources:
        n_bytes = dtype.itemsize * int(np.prod(source.shape))
        header[source.name] = {"dtype": name, "shape": source.shape, "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for target, source in sources:
            for rows in _rows(file, target, source):
                stream.write(rows.astype(dtype).tobytes())


def _rows(file: GGUFFile, target: Target, source: Source) -> Iterator[Floats]:
    pieces = floats_of(file.tensors[target.name])
    if source.order is None:
        for rows in pieces:
            yield rows / np.float32(source.scale) - np.float32(source.shift)
        return
    whole = np.concatenate([rows.reshape(-1, *source.shape[1:]) for rows in pieces])
    restored = np.empty_like(whole)
    restored[source.order] = whole
    yield restored


def rebuild(model: Path, folder: Path, *, half: bool = False) -> Path:
    """Write the checkpoint of a GGUF model into ``folder``, which is made. ``half``: in float16."""
    file = gguf.read(model)
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(file)
    tokenizer, tokenizer_config = tokenizer_of(file.metadata)
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", file, described(folder, config), half=half)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a catalogue name or the path of a GGUF file")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", action="store_true", help="weights as float16")
    args = parser.parse_args()
    print(rebuild(catalog.ensure(args.model).path, args.folder, half=args.half))
    return 0


if __name__ == "__main__":
    sys.exit(main())
