"""Text to token ids and back, with the vocabulary of a GGUF file. Owns a vocabulary-only llama.cpp model; knows no
weights.

Text given to `Tokenizer.encode` never yields a control token unless the caller says ``parse_special=True``, whatever it
spells.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeinfer.engines import llama_log
from edgeinfer.errors import EngineError, FormatError, ModelNotFound, UnsupportedModel, UsageError
from edgeinfer.text.space_prefix import SpacePrefix
from edgeinfer.text.specials import ControlTokens, TokenIds, cut_points, none_of
from edgeinfer.text.wordpiece import WordPiece

__all__ = ["TokenIds", "Tokenizer", "Vocabulary"]

# llama_token_attr in llama.h
_UNKNOWN, _NORMAL, _CONTROL, _USER_DEFINED, _BYTE = 1 << 0, 1 << 2, 1 << 3, 1 << 4, 1 << 5
_LSTRIP, _RSTRIP = 1 << 7, 1 << 8
_PIECE = 512  # characters that llama.cpp gets at once, where the text can be cut
_LONG = 1 << 15  # characters from which on it pays to look at the whole vocabulary for places to cut
_MAX_STATED = 1 << 16
_MAX_TEXT_BYTES = 1 << 30  # llama.cpp counts in int32


_SPACES = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
_NORMALIZERS: Mapping[str, Callable[[str], str]] = {
    "NFC": partial(unicodedata.normalize, "NFC"),
    "NFD": partial(unicodedata.normalize, "NFD"),
    "NFKC": partial(unicodedata.normalize, "NFKC"),
    "NFKD": partial(unicodedata.normalize, "NFKD"),
    "spaces": lambda text: _SPACES.sub(" ", text).strip(" "),
}
"""What our converters find that a model's text goes through first, and llama.cpp does not do."""


class Vocabulary(Protocol):
    """What token ids mean. Implemented by `Tokenizer`; small fakes serve tests."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def eog_ids(self) -> frozenset[int]:
        """Every token that ends an answer; ``eos_id`` is one of them."""
        ...

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Text to id of the tokens that steer the model (types CONTROL and UNKNOWN) rather than stand for text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for, which need not be whole characters; ``b""`` for control tokens."""
        ...


class Codec(Vocabulary, Protocol):
    """A vocabulary that also turns text to token ids and back. `Tokenizer` says what the methods do."""

    @property
    def adds_bos(self) -> bool:
        """Whether the model expects a prompt to begin with ``bos_id``."""
        ...

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> TokenIds: ...
    def decode(self, ids: Iterable[int]) -> str: ...


class Tokenizer:
    """A GGUF file's vocabulary. All methods may be called from any thread; `close` waits for calls under way.

    Attributes that never change: ``n_vocab``, ``bos_id``, ``eos_id``, ``eog_ids``, ``control_tokens``, ``adds_bos``
    (whether the model wants its BOS token in front of a prompt), ``suffix_ids`` (what it wants after a text that is
    embedded).
    """

    def __init__(self, model: Any, lib: Any, path: Path) -> None:
        self._model, self._lib, self._path = model, lib, path
        self._idle = threading.Condition()
        self._n_calls = 0
        vocab = self._vocab = lib.llama_model_get_vocab(model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(vocab)
        attrs = np.fromiter(map(lib.llama_vocab_get_attr, repeat(vocab), range(self.n_vocab)), np.int32)
        self._is_control: npt.NDArray[np.bool_] = (attrs & _CONTROL) != 0
        self._attrs = attrs
        self._pieces: list[bytes | None] = [None] * self.n_vocab
        self._all_pieces: list[bytes] | None = None
        self._byte_ids: dict[int, int] | None = None
        self._is_wordpiece: bool = lib.llama_vocab_type(vocab) == lib.LLAMA_VOCAB_TYPE_WPM
        self._pieces_of_words: WordPiece | None = None
        self.bos_id: int | None = self._optional(lib.llama_vocab_bos(vocab))
        self.eos_id: int | None = self._optional(lib.llama_vocab_eos(vocab))
        self.adds_bos: bool = bool(lib.llama_vocab_get_add_bos(vocab)) and self.bos_id is not None
        control = np.flatnonzero(attrs & (_CONTROL | _UNKNOWN)).tolist()
        # llama.cpp marks every end-of-generation token that it finds by name as a control token; eos and eot may be
        # others.
        ends = {*control, lib.llama_vocab_eos(vocab), lib.llama_vocab_eot(vocab)} - {-1}
        self.eog_ids: frozenset[int] = frozenset(i for i in ends if lib.llama_vocab_is_eog(vocab, i))
        before, after = (
            [*np.flatnonzero(attrs & strip).tolist(), *self._stated(f"strip_{side}")]
            for strip, side in ((_LSTRIP, "before"), (_RSTRIP, "after"))
        )
        texts = self._texts(control)
        # llama.cpp takes every "</s>" for the end of a text; in Qwen2.5 it is text, of the most ordinary kind.
        if attrs[texts.get("</s>", 0)] & _NORMAL and texts.get("</s>") not in (None, self.eos_id):
            del texts["</s>"]
        self.control_tokens = ControlTokens(texts, before, after)
        self.suffix_ids: tuple[int, ...] = self._suffix(vocab)
        self._normalized = _NORMALIZERS.get(self._meta("edgeinfer.tokenizer.normalizer"), str)
        words = self._user_defined()
        native = self._meta("tokenizer.ggml.add_space_prefix") == "true"
        self._prefix = SpacePrefix(self._meta("edgeinfer.tokenizer.space_prefix"), native, frozenset(words))
        self._cut_points = cut_points(words)
        self._foreign: re.Pattern[str] | None = None

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Load the vocabulary alone (70 to 400 ms for 50 to 260 thousand tokens).

        Raises `ModelNotFound` for no such file, `FormatError` for a damaged one, `UnsupportedModel` for one without a
        vocabulary.
        """
        import llama_cpp as lib

        path = Path(path)
        if not path.is_file():
            raise ModelNotFound(f"{path} is not a file: give the path of a GGUF model")
        llama_log.install()
        llama_log.clear()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        params.n_gpu_layers = 0
        name = str(path).encode() if os.name == "nt" else os.fsencode(path)
        model = lib.llama_model_load_from_file(name, params)
        if not model:
            raise FormatError(
                f"the vocabulary of {path} cannot be read: {llama_log.last_errors() or 'no reason given'}"
            )
        if lib.llama_vocab_type(lib.llama_model_get_vocab(model)) == lib.LLAMA_VOCAB_TYPE_NONE:
            lib.llama_model_free(model)
            raise UnsupportedModel(f"{path} has no vocabulary, so it cannot take or give text")
        return cls(model, lib, path)

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> TokenIds:
        """Token ids of ``text``, int32.

        ``parse_special`` False: text that spells a control token is text like any other. True: it becomes that token,
        so never pass text of another's making. ``add_bos`` puts the BOS token in front, if the vocabulary has one.
        Bytes for which the vocabulary has no token vanish (SmolLM2 lacks six control characters and planes 4 to 11).
        Raises `UsageError` for text that is not Unicode (lone surrogates).
        """
        apart = parse_special and next(self.control_tokens.find(text), (1, 1, 1))[0] == 0
        text = text if apart else self._prefix.begun(text)
        ids = self.control_tokens.encode(text, text, self._plain) if parse_special else self._plain(text)
        return ids if not add_bos or self.bos_id is None else np.concatenate((np.array([self.bos_id], np.int32), ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the ids stand for; bytes that are no UTF-8 become U+FFFD. Raises `UsageError` for an id out of
        range."""
        return b"".join(self.token_bytes(int(i)) for i in ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for; ``b""`` for control tokens. Raises `UsageError` for an id out of
        range."""
        if not 0 <= token_id < self.n_vocab:
            raise UsageError(f"token id {token_id} is not in the vocabulary: ids run from 0 to {self.n_vocab - 1}")
        piece = self._pieces[token_id]
        if piece is None:
            with self._use() as vocab:
                piece = self._pieces[token_id] = self._piece(vocab, token_id, ctypes.create_string_buffer(256))
        return piece

    def all_token_bytes(self) -> list[bytes]:
        """`token_bytes` of every id, in order (0.1 to 0.4 s at the first call, remembered). Do not change the list."""
        if self._all_pieces is None:
            with self._use() as vocab:
                buffer = ctypes.create_string_buffer(256)
                pieces = [self._piece(vocab, i, buffer) for i in range(self.n_vocab)]
            self._pieces = list(pieces)
            self._all_pieces = pieces
        return self._all_pieces

    def close(self) -> None:
        """Free the vocabulary once no call uses it. Closing twice is harmless; calls afterwards raise `UsageError`."""
        with self._idle:
            self._idle.wait_for(lambda: self._n_calls == 0)
            model, self._model = self._model, None
        if model is not None:
            self._lib.llama_model_free(model)

    def __enter__(self) -> Tokenizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _use(self) -> Iterator[Any]:
        """The native vocabulary, which is not freed before the block ends."""
        with self._idle:
            if self._model is None:
                raise UsageError(f"the model {self._path.name} is closed")
            self._n_calls += 1
        try:
            yield self._vocab
        finally:
            with self._idle:
                self._n_calls -= 1
                self._idle.notify_all()

    def _plain(self, text: str) -> TokenIds:
        """Ids of text in which nothing is a control token."""
        if self._is_wordpiece:
            _utf8(text)
            return np.array(self._word_pieces().encode(text), np.int32)
        text = self._normalized(text)
        found = [self._split(piece) if piece else self._lone_space() for piece in self._prefix.pieces(text)]
        return np.concatenate(found) if found else np.empty(0, np.int32)

    def _lone_space(self) -> TokenIds:
        return np.array([self._byte_id(ord(" "))], np.int32)

    def _split(self, text: str) -> TokenIds:
        """Ids of text that is as llama.cpp wants it."""
        parts: list[TokenIds] = []
        for piece in self._cut(text):
            data = _utf8(piece)
            with self._use() as vocab:
                ids = self._tokenize(vocab, data)
            if parts and len(ids) and self._attrs[ids[0]] & _NORMAL and not self._ends_defined(parts[-1]):
                # The space that some SentencePiece models put in front of a text, and after user-defined tokens.
                ids = ids[1:]
            parts.append(self._spell_out(ids) if self._is_control[ids].any() else ids)
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def _ends_defined(self, ids: TokenIds) -> bool:
        return bool((self._attrs[ids[-1:]] & _USER_DEFINED).any())

    def _cut(self, text: str) -> Iterator[str]:
        """The text in pieces that can be tokenized apart.

        llama.cpp's search for tokens of type USER_DEFINED is quadratic in how many there are (in Gemma every newline
        and every run of spaces is one: 400 KB of source code would take seconds), and so is SentencePiece's fallback to
        bytes.
        """
        start = 0
        points = self._cut_points if len(text) < _LONG else self._long_cut_points()
        if points is not None and len(text) > _PIECE:
            for match in points.finditer(text):
                if match.start() - start >= _PIECE:
                    yield text[start : match.start()]
                    start = match.start()
        if start < len(text):
            yield text[start:] if start else text

    def _tokenize(self, vocab: Any, data: bytes) -> TokenIds:
        ids = np.empty(len(data) + 16, np.int32)  # a token covers at least a byte; SentencePiece may add a space
        for _ in range(2):
            out = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            n = self._lib.llama_tokenize(vocab, data, len(data), out, len(ids), False, False)
            if n >= 0:
                return ids[:n] if n * 2 > len(ids) else ids[:n].copy()  # a view would keep the whole buffer
            ids = np.empty(-n, np.int32)
        raise EngineError(f"llama.cpp cannot tokenize a text of {len(data)} bytes with {self._path.name}")

    def _piece(self, vocab: Any, token_id: int, buffer: ctypes.Array[ctypes.c_char]) -> bytes:
        n = self._lib.llama_token_to_piece(vocab, token_id, buffer, len(buffer), 0, False)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = self._lib.llama_token_to_piece(vocab, token_id, buffer, len(buffer), 0, False)
        return buffer.raw[: max(n, 0)]

    def _spell_out(self, ids: TokenIds) -> TokenIds:
        """Replace control tokens by the tokens of their text's single bytes.

        Some vocabularies hold a control token among their ordinary merges (``</s>`` in Qwen2.5), where only the
        splitting of text into words stands between plain text and it; SentencePiece merges whatever its vocabulary
        spells.
        """
        parts: list[TokenIds] = []
        start = 0
        texts = {token_id: text for text, token_id in self.control_tokens.items()}
        for at in np.flatnonzero(self._is_control[ids]).tolist():
            parts.append(ids[start:at])
            parts.append(np.array([self._byte_id(byte) for byte in texts.get(int(ids[at]), "").encode()], np.int32))
            start = at + 1
        parts.append(ids[start:])
        return np.concatenate(parts)

    def _word_pieces(self) -> WordPiece:
        """The vocabulary of an encoder, which is not llama.cpp's to split."""
        if self._pieces_of_words is None:
            get = self._lib.llama_vocab_get_text
            with self._use() as vocab:
                ids = np.flatnonzero(self._attrs & _NORMAL).tolist()
                texts = {(get(vocab, i) or b"").decode("utf-8", "replace"): i for i in ids}
                unknown = np.flatnonzero(self._attrs & _UNKNOWN).tolist()
            unknown_id = unknown[0] if unknown else self.control_tokens.get("[UNK]", 0)
            lowercase = self._meta("tokenizer.ggml.normalizer.lowercase") != "false"
            strips = self._meta("tokenizer.ggml.normalizer.strip_accents") or str(lowercase).lower()
            self._pieces_of_words = WordPiece(texts, unknown_id, lowercase=lowercase, strip_accents=strips != "false")
        return self._pieces_of_words

    def _suffix(self, vocab: Any) -> tuple[int, ...]:
        """What the model wants after a text: its end, or what separates texts."""
        if self._lib.llama_vocab_get_add_eos(vocab):
            return (self._lib.llama_vocab_eos(vocab),)
        return (self._lib.llama_vocab_sep(vocab),) if self._lib.llama_vocab_get_add_sep(vocab) else ()

    def _stated(self, what: str) -> list[int]:
        """Ids in metadata of our converters, where they are text, since llama.cpp gives no arrays."""
        found = (word for word in self._meta(f"edgeinfer.tokenizer.{what}", _MAX_STATED).split(",") if word.isdecimal())
        return [token_id for token_id in map(int, found) if token_id < self.n_vocab]

    def _meta(self, key: str, n_most: int = 64) -> str:
        buffer = ctypes.create_string_buffer(n_most)
        n = self._lib.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.raw[: max(n, 0)].decode("utf-8", "replace") if n < len(buffer) else ""

    def _byte_id(self, byte: int) -> int:
        if self._byte_ids is None:
            plain = np.flatnonzero((self._attrs & (_NORMAL | _BYTE) != 0) & ~self._is_control).tolist()
            pieces = self.all_token_bytes()
            table: dict[int, int] = {}
            for i in plain:
                if len(pieces[i]) == 1 and (pieces[i][0] not in table or self._attrs[i] & _NORMAL):
                    table[pieces[i][0]] = i
            self._byte_ids = table
        if byte not in self._byte_ids:
            raise FormatError(f"the vocabulary of {self._path.name} has no token for the byte 0x{byte:02x}")
        return self._byte_ids[byte]

    def _texts(self, ids: list[int]) -> dict[str, int]:
        texts: dict[str, int] = {}
        for i in ids:
            text = self._lib.llama_vocab_get_text(self._vocab, i)
            with contextlib.suppress(UnicodeDecodeError):  # no valid text can spell such a token
                if text:
                    texts.setdefault(text.decode("utf-8"), i)
        return texts

    def _user_defined(self) -> list[str]:
        ids = np.flatnonzero((self._attrs & _USER_DEFINED != 0) & ~self._is_control)
        if (self._attrs[ids] & _LSTRIP).any():
            return []  # such a token takes whitespace from the text before it, which must not be cut off
        return list(self._texts(ids.tolist()))

    def _long_cut_points(self) -> re.Pattern[str] | None:
        """`_cut_points`, and for SentencePiece also the characters that no token holds: nothing merges across them."""
        if self._lib.llama_vocab_type(self._vocab) != self._lib.LLAMA_VOCAB_TYPE_SPM:
            return self._cut_points
        if self._foreign is None:
            pieces = self.all_token_bytes()
            whole = np.flatnonzero(self._attrs & _BYTE == 0).tolist()
            texts = b" ".join(pieces[i] for i in whole).decode("utf-8", "ignore")
            ours = self._user_defined()
            if ours and self._cut_points is None:
                return None
            self._foreign = cut_points(ours, none_of({*texts, "\u2581"}) + f"{{1,{_PIECE}}}")
        return self._foreign

    @staticmethod
    def _optional(token_id: int) -> int | None:
        return None if token_id < 0 else token_id


def _utf8(text: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the text is not valid Unicode: a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        ) from None
    if len(data) > _MAX_TEXT_BYTES:
        raise UsageError(f"the text has {len(data)} bytes, but at most {_MAX_TEXT_BYTES} can be tokenized at once")
    return data
