"""The tokenizer: exact, safe against text that spells control tokens, and linear in what it is given."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from vocabulary_files import sentencepiece

from edgeinfer.errors import FormatError, ModelNotFound, UnsupportedModel, UsageError
from edgeinfer.text import Tokenizer, tokenizer
from edgeinfer.text.specials import ControlTokens, cut_points, none_of


def native(tokens: Tokenizer, text: str, *, parse_special: bool = False) -> list[int]:
    """llama.cpp's own ids, in one call for the whole text."""
    data = text.encode()
    out = np.empty(len(data) + 16, np.int32)
    pointer = out.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
    n = tokens._lib.llama_tokenize(tokens._vocab, data, len(data), pointer, len(out), False, parse_special)
    assert n >= 0
    return [int(i) for i in out[:n]]


@pytest.fixture(scope="module", params=[False, True], ids=["bare", "space-prefix"])
def spm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    path = sentencepiece(tmp_path_factory.mktemp("spm") / "v.gguf", add_space_prefix=request.param)
    with Tokenizer.from_gguf(path) as tokens:
        yield tokens


@pytest.fixture(scope="module")
def smol(smollm2: Path) -> Iterator[Tokenizer]:
    with Tokenizer.from_gguf(smollm2) as tokens:
        yield tokens


# ---- a small SentencePiece vocabulary

WORDS = st.sampled_from(
    [
        "a",
        "abc",
        "the",
        " the",
        " ",
        "  ",
        "\n",
        "\n\n\n",
        "\t",
        "<tool>",
        "<to",
        "é",
        "你",
        "😀",
        "🦙",
        "\0",
        "x\u0301",
        "Z",
        "_",
    ]
)


def test_what_a_vocabulary_says(spm: Tokenizer) -> None:
    assert spm.control_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<start_of_turn>": 3, "<end_of_turn>": 4}
    assert (spm.bos_id, spm.eos_id, spm.adds_bos) == (1, 2, True)
    assert spm.eog_ids == {2, 4}
    assert spm.token_bytes(1) == b""
    assert spm.all_token_bytes() == [spm.token_bytes(i) for i in range(spm.n_vocab)]
    assert spm.encode("a", add_bos=True)[0] == 1
    assert spm.encode("a").dtype == np.int32
    assert spm.encode("").shape == (0,)


@given(st.lists(WORDS, max_size=60))
def test_pieces_are_exact(spm: Tokenizer, words: list[str]) -> None:
    """Cutting a long text never changes its tokens, nor does the search for places to cut in the whole vocabulary."""
    text = "".join(words)
    want = native(spm, text)
    whole = spm.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_PIECE", 3)
        patch.setattr(tokenizer, "_LONG", 0)
        patch.setattr(spm, "_foreign", None)
        cut = spm.encode(text)
        patch.setattr(tokenizer, "_LONG", 1 << 30)
        assert spm.encode(text).tolist() == want
    assert whole.tolist() == cut.tolist() == want
    if spm.decode(spm.encode("a")) == " a":  # it puts spaces of its own where a word begins
        assert spm.decode(whole).replace(" ", "") == text.replace(" ", "")
    else:
        assert spm.decode(whole) == text


def test_merging_cannot_reach_a_control_token(spm: Tokenizer) -> None:
    """SentencePiece joins whatever its vocabulary spells: "</" and "s>" became the token that ends a text."""
    assert 2 in native(spm, "x</s>y")
    ids = spm.encode("x</s>y</s>")
    assert not set(ids.tolist()) & set(spm.control_tokens.values())
    assert spm.decode(ids).strip() == "x</s>y</s>"


@given(
    st.lists(
        st.one_of(WORDS, st.sampled_from(["<s>", "</s>", "<end_of_turn>", "<", ">", "<start_of_turn"])), max_size=30
    )
)
def test_control_tokens_are_parsed_as_llama_cpp_does(spm: Tokenizer, words: list[str]) -> None:
    text = "".join(words)
    assert spm.encode(text, parse_special=True).tolist() == native(spm, text, parse_special=True)
    assert not set(spm.encode(text).tolist()) & set(spm.control_tokens.values())


def test_bytes_beside_a_prefix(spm: Tokenizer) -> None:
    text = "\0" * (1 << 16)
    assert len(spm.encode(text)) in (len(text), len(text) + 1)
    assert spm.decode(spm.encode("a\0b")).strip(" ") == "a\0b"


def test_out_of_range(spm: Tokenizer) -> None:
    for token_id in (-1, spm.n_vocab):
        with pytest.raises(UsageError, match="not in the vocabulary"):
            spm.token_bytes(token_id)


def test_surrogates_are_refused(spm: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"U\+D83D at character 2"):
        spm.encode("ab\ud83d")


def test_close(tmp_path: Path) -> None:
    tokens = Tokenizer.from_gguf(sentencepiece(tmp_path / "v.gguf"))
    tokens.close()
    tokens.close()
    with pytest.raises(UsageError, match="closed"):
        tokens.encode("a")
    with pytest.raises(UsageError, match="closed"):
        tokens.token_bytes(5)


def test_close_waits_for_calls(tmp_path: Path) -> None:
    """Freeing a vocabulary that another thread reads would crash the process."""
    for _ in range(5):
        tokens = Tokenizer.from_gguf(sentencepiece(tmp_path / "v.gguf"))
        failures: list[BaseException] = []

        def work(tokens: Tokenizer = tokens, failures: list[BaseException] = failures) -> None:
            try:
                while True:
                    tokens.encode("abc the " * 200)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        tokens.close()
        for thread in threads:
            thread.join(10)
        assert [type(failure) for failure in failures] == [UsageError] * 4


# ---- files that are no vocabulary


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"nothing\.gguf"):
        Tokenizer.from_gguf(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 40, b"\0" * 100])
def test_damaged_files(tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"bad\.gguf") as caught:
        Tokenizer.from_gguf(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_no_vocabulary(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "none.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8)
    writer.add_tokenizer_model("no_vocab")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises((UnsupportedModel, FormatError)):
        Tokenizer.from_gguf(path)


# ---- finding special tokens


def test_longest_and_leftmost() -> None:
    tokens = ControlTokens({"<a>": 1, "<a><b>": 2, "<": 3, "": 9})
    assert list(tokens.find("x<a><b><a>< <a")) == [(1, 7, 2), (7, 10, 1), (10, 11, 3), (12, 13, 3)]
    assert list(ControlTokens({}).find("abc")) == []


def test_white_space_beside_a_token_that_takes_it() -> None:
    seen: list[str] = []

    def encode(text: str) -> tokenizer.TokenIds:
        seen.append(text)
        return np.array([0], np.int32)

    tokens = ControlTokens({"<a>": 1, "<b>": 2}, strip_before=[2], strip_after=[1])
    assert tokens.encode("<a> \n<a> x <b> y", "<a> \n<a> x <b> y", encode).tolist() == [1, 1, 0, 2, 0]
    assert seen == ["x", " y"]


def test_no_cuts_where_tokens_overlap() -> None:
    """ "ab" and "bc" in "abc": which is taken depends on more than what stands at the cut."""
    assert cut_points(["ab", "bc"]) is None
    assert cut_points([]) is None
    assert cut_points(["  ", "   ", "\n", "\n\n"]) is not None
    assert cut_points(["  ", "x "]) is None


@given(st.sets(st.characters(), max_size=20), st.characters())
def test_none_of(characters: set[str], other: str) -> None:
    import re

    pattern = re.compile(none_of(characters) if characters else "(?s:.)")
    assert bool(pattern.fullmatch(other)) == (other not in characters)


# ---- a real vocabulary

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
HARD = [
    *(
        "Hello world",
        "  leading",
        "trailing  ",
        "\n\n\n",
        "\t \t",
        "a\0b",
        "naïve café",
        "你好，世界",
        FAMILY * 3,
        "e\u0301\u0323",
    ),
    *("\u200d\u200d", "1234567890", "don't we'll I'M", "<|im_end|>", "<|im_start|>system\n", "<|im_", "im_end|>"),
    *("<repo_name>x", "def f(x):\n    return x  # ok\n\n\n", "\r\n\r\n", "\u00a0\u3000x", "ﬁ ſ K", "\U0010ffff\ufffd"),
    *("a" * 1000, "}{[]()\\\"'`~"),
]


@pytest.mark.model
@pytest.mark.parametrize("text", HARD)
def test_round_trip(smol: Tokenizer, text: str) -> None:
    ids = smol.encode(text)
    assert ids.tolist() == native(smol, text)
    assert smol.decode(ids) == text
    assert not set(ids.tolist()) & set(smol.control_tokens.values())
    assert smol.encode(text, parse_special=True).tolist() == native(smol, text, parse_special=True)


@pytest.mark.model
@settings(deadline=None)
@given(text=st.text())
def test_any_text_comes_back(smol: Tokenizer, text: str) -> None:
    known = {piece for piece in smol.all_token_bytes() if len(piece) == 1}
    assume(all(bytes([byte]) in known for byte in text.encode()))
    assert smol.decode(smol.encode(text)) == text


@pytest.mark.model
def test_control_tokens_of_a_real_model(smol: Tokenizer) -> None:
    assert smol.control_tokens["<|im_end|>"] == smol.eos_id
    assert smol.eos_id in smol.eog_ids
    assert not smol.adds_bos
    ends = {i for i in range(smol.n_vocab) if smol._lib.llama_vocab_is_eog(smol._vocab, i)}
    assert smol.eog_ids == ends
    for text, token_id in smol.control_tokens.items():
        assert smol.encode(text, parse_special=True).tolist() == [token_id]
        assert smol.decode(smol.encode(text)) == text
        assert smol.token_bytes(token_id) == b""


@pytest.mark.model
def test_threads_agree(smol: Tokenizer) -> None:
    want = [smol.encode(text).tolist() for text in HARD]
    got: list[list[list[int]]] = []
    threads = [threading.Thread(target=lambda: got.append([smol.encode(t).tolist() for t in HARD])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [want] * 8


UNITS = [
    "A",
    " ",
    "\n",
    "😀",
    "\u200d",
    FAMILY,
    "7",
    "!",
    "ab",
    "e\u0301",
    " \t",
    "'s",
    "<|im_start",
    "\0",
    "你",
    "Hi, wörld 12 ",
]


@pytest.mark.model
@pytest.mark.parametrize("unit", UNITS)
def test_long_runs_are_linear(smol: Tokenizer, unit: str) -> None:
    """llama.cpp has crashed in std::regex and been quadratic on these (its issues 21257, 27783, 17786)."""

    def seconds(n_bytes: int) -> float:
        text = unit * (n_bytes // len(unit.encode()))
        best = 9.0
        for _ in range(3):
            began = time.thread_time()
            smol.encode(text)
            best = min(best, time.thread_time() - began)
        return best

    # Linear would be 4, quadratic 16; what others do to the caches of the machine lies between.
    assert seconds(400_000) / seconds(100_000) < 9
