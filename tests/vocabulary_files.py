"""Small vocabularies in GGUF files, made for one test each."""

from __future__ import annotations

from pathlib import Path

import gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
Token = tuple[str, int, float]


def write(
    path: Path,
    model: str,
    tokens: list[Token],
    *,
    merges: list[str] | None = None,
    pre: str = "gpt-2",
    add_bos: bool = False,
    add_space_prefix: bool = False,
) -> Path:
    """A GGUF file with nothing but this vocabulary; tokens are (text, type, score)."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([text for text, _, _ in tokens])
    writer.add_token_types([kind for _, kind, _ in tokens])
    writer.add_token_scores([score for _, _, score in tokens])
    if merges is not None:
        writer.add_token_merges(merges)
    index = {text: i for i, (text, _, _) in enumerate(tokens)}
    writer.add_bos_token_id(index["<s>"])
    writer.add_eos_token_id(index["</s>"])
    writer.add_add_bos_token(add_bos)
    writer.add_add_space_prefix(add_space_prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sentencepiece(
    path: Path, *, add_space_prefix: bool = False, add_bos: bool = True, control: tuple[str, ...] = ()
) -> Path:
    """Like Gemma's: control tokens, newlines and runs of spaces as user-defined tokens, bytes, and some words."""
    tokens: list[Token] = [("<unk>", UNKNOWN, 0.0), ("<s>", CONTROL, 0.0), ("</s>", CONTROL, 0.0)]
    tokens += [(text, CONTROL, 0.0) for text in ("<start_of_turn>", "<end_of_turn>", *control)]
    tokens += [("\n" * n, USER_DEFINED, 0.0) for n in range(1, 6)]
    tokens += [(" " * n, USER_DEFINED, 0.0) for n in range(2, 8)]
    tokens += [("\t", USER_DEFINED, 0.0), ("<tool>", USER_DEFINED, 0.0)]
    tokens += [(f"<0x{byte:02X}>", BYTE, 0.0) for byte in range(256)]
    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz<>/_.,", "é", "你", "😀", "ab", "abc", "▁a", "▁ab", "th", "the", "▁the"]
    pieces += ["</", "s>"]  # with these, plain merging makes "</s>" of its characters
    tokens += [(piece, NORMAL, -float(i)) for i, piece in enumerate(pieces)]
    return write(path, "llama", tokens, add_bos=add_bos, add_space_prefix=add_space_prefix)
