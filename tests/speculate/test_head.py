"""The tokens of a head: always those without which an answer cannot go on or end, and otherwise the likely ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_files import ARRAY, I32, STRING
from small_models import small_model, written

from edgeinfer import gguf
from edgeinfer.speculate import head
from edgeinfer.speculate.head import likely_tokens
from edgeinfer.text import Tokenizer


def test_bytes_and_what_the_template_names_are_always_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_library", lambda: iter(()))
    made = small_model()
    tokens, types = (list(made.keys[f"tokenizer.ggml.{key}"][1][1]) for key in ("tokens", "token_type"))
    for at, text, kind in ((296, "<tool>", 4), (297, "<other>", 4), (298, "<|end|>", 3), (299, "<|never|>", 3)):
        tokens[at], types[at] = text, kind
    made.keys["tokenizer.ggml.tokens"] = (ARRAY, (STRING, tokens))
    made.keys["tokenizer.ggml.token_type"] = (ARRAY, (I32, types))
    made.keys["tokenizer.chat_template"] = (STRING, "{{ '<|end|>' }}{{ messages }}<tool>")
    file = gguf.read(written(made, tmp_path))
    chosen = likely_tokens(file, 262)
    assert chosen.dtype == np.int32
    assert (np.diff(chosen) > 0).all()
    assert {*range(256), 296, 298} <= {*chosen.tolist()}
    assert chosen.size == 262
    assert not {297, 299} & {*chosen.tolist()}
    assert np.array_equal(likely_tokens(file, 300), np.arange(300))
    assert np.array_equal(likely_tokens(file, 5000), np.arange(300))


@pytest.mark.model
def test_an_unseen_text_is_covered(smollm2: Path) -> None:
    """A third of the vocabulary holds most tokens of texts that were written for this test, and more than as many of
    the lowest ids: the library's words and the marks count."""
    file = gguf.read(smollm2)
    chosen = likely_tokens(file, 16384)
    with Tokenizer.from_gguf(smollm2) as tokenizer:
        assert {*tokenizer.eog_ids} <= {*chosen.tolist()}
        texts = [tokenizer.encode(text) for text in (CODE, PROSE, ANSWER)]
    shares = [float(np.isin(ids, chosen).mean()) for ids in texts]
    plain = [float((ids < 16384).mean()) for ids in texts]
    assert min(shares) > 0.9
    assert np.mean(shares) > np.mean(plain)


CODE = '''
class Inventory:
    """What lies in a warehouse, by name."""

    def __init__(self, items: dict[str, int] | None = None) -> None:
        self._items = dict(items or {})

    def remove(self, name: str, count: int = 1) -> int:
        if name not in self._items:
            raise KeyError(f"no item named {name!r}")
        left = self._items[name] - count
        if left < 0:
            raise ValueError("not enough items: " + str(self._items[name]))
        self._items[name] = left
        return left
'''
PROSE = (
    "The old bridge across the river had been closed since the winter, when the ice broke two of its wooden posts. "
    "People from the village now walked to the mill and waited for the boat, which came twice a day. Most of them did "
    "not mind. They brought letters, eggs and news, and while they waited they talked about the weather and the price "
    "of bread. Only the children were impatient, for the school lay on the other side."
)
ANSWER = """
Sure! Here are **three ways** to read a file line by line:

1. **Using a loop**: This is the simplest way, and it needs little memory.
2. **Using `readlines()`**: This reads the whole file into a list.

```python
with open("data.txt") as file:
    for line in file:
        print(line.strip())
```

### Summary

- The loop is faster for large files.
- Use `strip()` to remove the newline at the end of each line.
"""


def test_without_the_librarys_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a frozen application."""
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path / "nothing"))
    chosen = likely_tokens(gguf.read(written(small_model(), tmp_path)), 280)
    assert chosen.size == 280


def test_pieces_are_words_punctuation_and_space() -> None:
    text = 'def run(self, n=12):\n    return self._run_all("x y") or 12345\n\n'
    pieces = head._PIECE.findall(text)
    assert "".join(pieces) == text
    assert pieces[:6] == ["def", " run", "(self", ",", " n", "="]
    assert {"):\n", "   ", " return", " self", "._", "run", "_all", '("', "123"} & {*pieces} >= {" return", " self"}
