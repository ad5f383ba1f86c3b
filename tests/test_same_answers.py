"""A greedy answer does not depend on what else is computed: alone, among others, in their order or against it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeinfer import LLM, kernels
from edgeinfer.engines.base import Logits, Slice
from edgeinfer.engines.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.model

RULES = "Answer in one short paragraph. " * 12
PROMPTS = [
    "Name three rivers.",
    RULES + "What is a lighthouse for?",
    RULES + "What is a compiler for?" + " Be exact." * 150,
    "Sort these: " + " ".join(str(7 * i % 101) for i in range(200)),
    RULES + "Why is the sky blue?",
    "Write a haiku about rain.",
    "List five fruits.",
    "Translate to French: good morning.",
]


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_alone_and_among_others(smollm2: Path, monkeypatch: pytest.MonkeyPatch, ours: bool) -> None:
    """Ours compute them jointly and give the same bits all the same; under stock's they are computed one by one."""
    widths = []
    forward = LlamaCppEngine._pass

    def counted(self: LlamaCppEngine, slices: Sequence[Slice]) -> Logits:
        widths.append(len(slices))
        return forward(self, slices)

    monkeypatch.setattr(LlamaCppEngine, "_pass", counted)
    ours = ours and kernels.expected().active
    prompts = PROMPTS if ours else PROMPTS[:5]
    with LLM(str(smollm2), n_ctx=2048, n_parallel=8 if ours else 4, kernels=ours) as llm:
        assert llm.notices == () if ours else "one by one" in llm.notices[0]

        def answer(prompt: str) -> tuple[int, ...]:
            return llm.chat([{"role": "user", "content": prompt}], temperature=0.0, max_tokens=24).token_ids

        alone = []
        for prompt in prompts:
            llm.forget()
            alone.append(answer(prompt))
        assert len(set(alone)) == len(prompts)
        for order in (prompts, prompts[::-1]):
            llm.forget()
            with ThreadPoolExecutor(len(order)) as pool:
                together = dict(zip(order, pool.map(answer, order), strict=True))
            assert [together[prompt] for prompt in prompts] == alone
    assert (max(widths) >= len(prompts) - 1) if ours else (max(widths) == 1)
