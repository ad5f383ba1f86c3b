"""With sampling, drafts change nothing about the distribution: 20,000 draws against the target's own probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scripted_drafts import CHEAP, FLAT, Heard, Oracle

from edgeinfer.core import SamplingParams
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.request import Request
from edgeinfer.sampling import Sampler
from edgeinfer.scheduler import Scheduler
from edgeinfer.speculate import Speculator
from edgeinfer.speculate.model import ModelDrafter
from edgeinfer.speculate.ngram import NgramDrafter
from edgeinfer.speculate.vocabulary import VocabularyMap

N_VOCAB = 12
N_TOKENS = 8
N_ANSWERS = 20_000 // N_TOKENS


def logits(tokens: Sequence[int], seed: int = 3) -> npt.NDArray[np.float32]:
    """Depends on the last token alone, so that draws are many for each row."""
    return np.random.default_rng((seed, tokens[-1])).standard_normal(N_VOCAB).astype(np.float32) * 1.5


def other(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """A draft model of some likeness."""
    return logits(tokens) + logits(tokens, 4) * 0.5


def speculator(kind: str) -> Speculator:
    if kind == "ngram":
        return Speculator(FLAT, NgramDrafter())
    if kind == "guesses":
        return Speculator(FLAT, Oracle(chance=0.9, script=lambda tokens: int(logits(tokens).argmax())))
    drafter = ModelDrafter(ScriptedEngine(other, n_vocab=N_VOCAB, n_seq_max=1), VocabularyMap.same(N_VOCAB))
    return Speculator(FLAT, NgramDrafter() if kind == "both" else None, drafter, CHEAP)


def draws(speculator: Speculator) -> tuple[npt.NDArray[np.int64], int]:
    """How often each token followed each, and how many drafted tokens were accepted."""
    engine = ScriptedEngine(logits, n_vocab=N_VOCAB, n_seq_max=1)
    scheduler = Scheduler(engine, speculator)
    counts = np.zeros((N_VOCAB, N_VOCAB), np.int64)
    n_accepted = 0
    for seed in range(N_ANSWERS):
        prompt = np.array([seed % N_VOCAB], np.int32)
        sampler = Sampler(SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed), N_VOCAB, prompt)
        heard = Heard()
        scheduler.submit(Request(prompt, sampler, heard, n_ctx=64, max_tokens=N_TOKENS))
        while not scheduler.idle:
            scheduler.step()
        np.add.at(counts, ([int(prompt[0]), *heard.ids[:-1]], heard.ids), 1)
        n_accepted += heard.stats.n_accepted
    return counts, n_accepted


def chi_squared_excess(counts: npt.NDArray[np.int64]) -> float:
    """Standard deviations by which the statistic lies above its mean, all rows together (Wilson and Hilferty, 1931)."""
    statistic, n_free = 0.0, 0
    for last, row in enumerate(counts):
        weights = np.exp(logits([last]).astype(np.float64))
        wanted = row.sum() * weights / weights.sum()
        enough = wanted >= 5
        wanted = np.append(wanted[enough], wanted[~enough].sum())
        seen = np.append(row[enough], row[~enough].sum())
        seen, wanted = seen[wanted > 0], wanted[wanted > 0]
        statistic += float(((seen - wanted) ** 2 / wanted).sum())
        n_free += len(wanted) - 1
    scale = 2 / (9 * n_free)
    return float(((statistic / n_free) ** (1 / 3) - (1 - scale)) / np.sqrt(scale))


@pytest.mark.parametrize("kind", ["ngram", "guesses", "model", "both"])
def test_draws_follow_the_targets_distribution(kind: str) -> None:
    counts, n_accepted = draws(speculator(kind))
    assert counts.sum() == N_ANSWERS * N_TOKENS == 20_000
    assert n_accepted > 500, "nothing was tested: hardly a draft was accepted"
    assert chi_squared_excess(counts) < 3.5


@pytest.mark.parametrize("kind", ["guesses", "model"])
def test_a_broken_rule_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test with an acceptance that is too kind to drafts: one drafted token in five is taken whatever was
    sampled."""
    original: Callable[..., object] = Scheduler._choose

    def kind_choose(part: object, rows: npt.NDArray[np.float32]) -> object:
        from edgeinfer.scheduler import _Part

        assert isinstance(part, _Part)
        drafted = part.slice.token_ids[1:].tolist()
        rows = rows.copy()
        for row, token in zip(rows, drafted, strict=False):
            if np.random.default_rng(int(1e6 * abs(float(row[0]))) + token).random() < 0.2:
                row[token] = 30.0
        return original(part, rows)

    monkeypatch.setattr(Scheduler, "_choose", staticmethod(kind_choose))
    counts, _ = draws(speculator(kind))
    assert chi_squared_excess(counts) > 10
