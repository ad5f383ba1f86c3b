"""Saved states of real models: what is read back equals what would be computed, and answers stay the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer import LLM, catalog
from edgeinfer.engines.base import EngineConfig, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine
from edgeinfer.errors import ModelNotFound

pytestmark = pytest.mark.model

TEXT = " ".join(
    f"Note {i}: box {i * 7 % 23} holds {i * 5 % 17} red coins and {i * 3 % 13} green ones." for i in range(24)
)
QUESTION = [{"role": "user", "content": TEXT}]
CHILD = """
import json, sys
from edgeinfer import LLM
job = json.loads(sys.argv[1])
with LLM(job["model"], n_ctx=2048, kv_cache=job["kv_cache"], n_parallel=job["n_parallel"], **job["options"]) as llm:
    answers = []
    for prompt in job["prompts"]:
        answer = llm.generate(prompt, max_tokens=24, temperature=0.0)
        answers.append([list(answer.token_ids), answer.stats.n_restored])
print(json.dumps(answers))
"""


def ask(model: Path, prompts: list[list[int]], *, kv_cache: str = "1G", n_parallel: int = 1, **options: Any) -> Any:
    """[answer, tokens read back] of each prompt, from a process of its own."""
    job = {"model": str(model), "prompts": prompts, "kv_cache": kv_cache, "n_parallel": n_parallel, "options": options}
    done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(job)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def tokens_of(model: Path) -> list[int]:
    from edgeinfer.text import Tokenizer

    with Tokenizer.from_gguf(model) as tokenizer:
        ids: list[int] = tokenizer.encode(TEXT).tolist()
    return ids


def answers_agree(model: Path, **options: Any) -> None:
    """A conversation, then in other processes: its next turn, one cut midway, one of no relation."""
    ids = tokens_of(model)
    ((first, _),) = ask(model, [ids], **options)
    prompts = [[*ids, *first, *ids[:9]], [*ids[:300], *ids[50:60]], ids[7:90]]
    resumed = ask(model, prompts, n_parallel=2, **options)
    cold = [ask(model, [prompt], kv_cache="off", **options)[0] for prompt in prompts]
    assert [answer for answer, _ in resumed] == [answer for answer, _ in cold]
    assert resumed[0][1] >= len(ids) // 64 * 64
    assert [n for _, n in cold] == [0, 0, 0]


def test_answers_are_the_same_after_a_restart(smollm2: Path) -> None:
    answers_agree(smollm2)


def test_answers_are_the_same_with_drafts(smollm2: Path) -> None:
    """Nothing of a rejected draft is saved."""
    answers_agree(smollm2, draft="ngram")


def test_a_sliding_window_comes_back_too() -> None:
    try:
        model = catalog.resolve("gemma3-270m").path
    except ModelNotFound:
        pytest.skip("gemma3-270m is not here")
    answers_agree(model)


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_restored_bits_are_computed_bits(smollm2: Path, kv_type: str) -> None:
    """Into another place of a cache of another size, beside others: the same logits to the bit."""
    ids = np.random.default_rng(5).integers(100, 48000, 600).astype(np.int32)

    def opened(n_seq_max: int, n_cells: int) -> LlamaCppEngine:
        sizes = {"n_ctx": 1024, "n_seq_max": n_seq_max, "n_cells": n_cells, "n_batch": 1024, "n_threads": 2}
        return LlamaCppEngine(smollm2, EngineConfig(**sizes, kv_type=kv_type))  # type: ignore[arg-type]

    def logits(engine: LlamaCppEngine, seq: int, n_past: int) -> np.ndarray[Any, Any]:
        row: np.ndarray[Any, Any] = engine.forward([Slice(seq, ids[n_past:], n_past, 1)]).copy()
        return row

    first = opened(1, 1024)
    n_held = 0
    for n in (500, 1, 1, 50):  # a prompt, then tokens one by one
        first.forward([Slice(0, ids[n_held : n_held + n], n_held, 1)])
        n_held += n
    state = bytes(first.export_sequence(0))
    first.close()
    second = opened(4, 3000)
    second.forward([Slice(1, ids[300:400], 0, 1)])
    second.import_sequence(2, memoryview(state), n_held)
    restored = logits(second, 2, n_held)
    cold = logits(second, 3, 0)
    assert second.truncate(2, 300) == 300
    cut = logits(second, 2, 300)
    second.close()
    from edgeinfer import kernels

    if kernels.expected().active and kv_type == "f16":
        assert np.array_equal(restored, cold)
        assert np.array_equal(cut, cold)
    else:
        assert np.argmax(restored) == np.argmax(cold) == np.argmax(cut)


def test_a_session_comes_back_with_its_tokens(smollm2: Path) -> None:
    """The answer as it was generated, not as its text would be spelt."""
    with LLM(str(smollm2), n_ctx=2048, kv_cache="1G") as llm:
        answer = llm.chat(QUESTION, max_tokens=40, temperature=1.5, seed=3)
    messages = [*QUESTION, {"role": "assistant", "content": answer.text}]
    with LLM(str(smollm2), n_ctx=2048, kv_cache="1G") as llm:
        llm.remember(messages, answer.token_ids)
        again = llm.chat([*messages, {"role": "user", "content": "Thanks."}], max_tokens=4, temperature=0.0)
        # A message that these ids do not spell is left as it is.
        llm.remember([*QUESTION, {"role": "assistant", "content": "Something else."}], answer.token_ids)
    assert again.stats.n_restored == answer.stats.n_prompt + answer.stats.n_generated - 1
