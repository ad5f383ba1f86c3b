"""A greedy answer does not depend on what else is computed: alone, among others, in their order or against it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeinfer import LLM

pytestmark = pytest.mark.model

RULES = "Answer in one short paragraph. " * 12
PROMPTS = [
    "Name three rivers.",
    RULES + "What is a lighthouse for?",
    RULES + "What is a compiler for?" + " Be exact." * 150,
    "Sort these: " + " ".join(str(7 * i % 101) for i in range(200)),
    RULES + "What is a lighthouse?",
]


def test_alone_and_among_others(smollm2: Path) -> None:
    with LLM(str(smollm2), n_ctx=2048, n_parallel=4) as llm:

        def answer(prompt: str) -> tuple[int, ...]:
            return llm.chat([{"role": "user", "content": prompt}], temperature=0.0, max_tokens=24).token_ids

        alone = []
        for prompt in PROMPTS:
            llm.forget()
            alone.append(answer(prompt))
        assert len(set(alone)) == len(PROMPTS)
        for order in (PROMPTS, PROMPTS[::-1]):
            llm.forget()
            with ThreadPoolExecutor(len(order)) as pool:
                together = dict(zip(order, pool.map(answer, order), strict=True))
            assert [together[prompt] for prompt in PROMPTS] == alone
