"""Small sets of questions with answers to choose from: the answer that a model finds likeliest is its own.

The sets were written for edgeinfer and come under its licence. They are small: they tell a model that quantization
broke from one that it did not, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from edgeinfer import metrics
from edgeinfer.engines import Engine
from edgeinfer.engines.base import Slice
from edgeinfer.errors import FormatError, UsageError
from edgeinfer.metrics import Estimate
from edgeinfer.text import Codec

__all__ = ["SETS", "Question", "TaskSet", "questions", "score"]

TokenIds = npt.NDArray[np.int32]
Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TaskSet:
    """Where a set comes from."""

    name: str
    about: str
    source: str = "written for edgeinfer"
    licence: str = "Apache-2.0"


SETS = {
    one.name: one
    for one in (
        TaskSet("facts", "common knowledge: the end of a sentence"),
        TaskSet("arithmetic", "sums, products and sequences of small numbers"),
        TaskSet("code", "the next words of short programs in several languages"),
    )
}


@dataclass(frozen=True, slots=True)
class Question:
    """A text and its possible continuations, of which ``options[answer]`` is right."""

    text: str
    options: tuple[str, ...]
    answer: int


def questions(name: str) -> tuple[Question, ...]:
    """The questions of a set that ships. Raises `UsageError` for an unknown name."""
    if name not in SETS:
        raise UsageError(f"no set of tasks {name!r}; there are: {', '.join(SETS)}")
    return parse((resources.files("edgeinfer.evaluate") / f"{name}.jsonl").read_text(encoding="utf-8"), name)


def parse(text: str, name: str) -> tuple[Question, ...]:
    """The questions of a JSONL text: ``{"text", "options", "answer"}`` on each line. Raises `FormatError` naming the
    line."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            one = Question(row["text"], tuple(row["options"]), row["answer"])
            _check(one)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(f"{name}, line {number}: not a question: {error}") from error
        found.append(one)
    return tuple(found)


def _check(one: Question) -> None:
    """Raise ValueError with what is wrong. Of two answers that begin alike, one must not be the other's beginning: it
    would be the likelier of the two whatever the question."""
    options = one.options
    if not isinstance(one.text, str) or not all(isinstance(option, str) and option for option in options):
        raise ValueError("its text and its options must be texts")
    if len(options) < 2 or not isinstance(one.answer, int) or not 0 <= one.answer < len(options):
        raise ValueError("it needs two options at least, and the number of the right one")
    for i, option in enumerate(options):
        if any(other.startswith(option) for other in (*options[:i], *options[i + 1 :])):
            raise ValueError(f"the option {option!r} is the beginning of another")


def score(
    engine: Engine, tokenizer: Codec, asked: Sequence[Question], told: Told = lambda _done, _total: None
) -> Estimate:
    """The share of questions (at least one) whose right answer is the likeliest, by the sum of the log-probabilities of
    its tokens. Sequence 0 is used, and empty afterwards. Raises `UsageError` for a question that does not fit."""
    n_right = 0
    try:
        for number, one in enumerate(asked, 1):
            texts = [tokenizer.encode(one.text + option, add_bos=tokenizer.adds_bos) for option in one.options]
            n_right += int(np.argmax(_likelihoods(engine, texts))) == one.answer
            told(number, len(asked))
    finally:
        engine.release(0)
    return metrics.proportion(n_right, len(asked))


def _likelihoods(engine: Engine, texts: Sequence[TokenIds]) -> list[float]:
    """Log-probability of each text's tokens after those that all begin with, which are read once. Whole texts are
    tokenized and not their parts, so that no boundary falls where no token ends."""
    n_least = min(map(len, texts))
    if max(map(len, texts)) > engine.n_ctx or n_least < 2:
        raise UsageError(f"a question of {max(map(len, texts))} tokens does not fit a context of {engine.n_ctx}")
    alike = np.all([text[: n_least - 1] == texts[0][: n_least - 1] for text in texts], axis=0)
    n_shared = max(int(np.argmin(alike)) if not alike.all() else n_least - 1, 1)
    engine.release(0)
    after = _run(engine, texts[0][:n_shared], 0, 1)[-1:].copy()
    found = []
    for text in texts:
        rest = text[n_shared:]
        rows = after
        if len(rest) > 1:
            if engine.length(0) != n_shared and engine.truncate(0, n_shared) != n_shared:
                engine.release(0)  # state that cannot be cut: read it again
                _run(engine, text[:n_shared], 0, 1)
            rows = np.concatenate((after, _run(engine, rest[:-1], n_shared, len(rest) - 1)))
        found.append(float(metrics.token_logprobs(rows, rest).sum()))
    return found


def _run(engine: Engine, ids: TokenIds, n_past: int, n_logits: int) -> npt.NDArray[np.float32]:
    """Append tokens to sequence 0; logits of the last ``n_logits``."""
    rows, first = [], len(ids) - n_logits
    for begin in range(0, len(ids), engine.n_batch):
        part = ids[begin : begin + engine.n_batch]
        wanted = max(0, begin + len(part) - max(begin, first))
        rows.append(engine.forward([Slice(0, part, n_past + begin, wanted)]).copy())
    return np.concatenate(rows)
