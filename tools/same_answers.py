"""Are greedy answers the same alone and beside seven others? ``python tools/same_answers.py PROMPTS.jsonl -m MODEL``

Each line of the file is an object with "id" and "prompt". Every prompt is answered alone, then all with eight in
flight. On kernels that are batch-invariant the answers are identical; on others a first difference is excusable only
where the two best logits were nearly equal, so the gap between them is shown. Exits 1 when a gap reaches the bound.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeinfer import LLM, Answer


def first_difference(alone: Answer, together: Answer) -> int | None:
    """Index of the first token that differs; None when the answers are the same."""
    a, b = alone.token_ids, together.token_ids
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def gap(answer: Answer, index: int) -> float:
    """How much likelier (in logits) the best token was than the second best."""
    if index >= len(answer.tokens):
        return float("nan")
    best, second = answer.tokens[index].top[:2]
    return best.logprob - second.logprob


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-n", "--max-tokens", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--bound", type=float, default=0.05)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.prompts.read_text().splitlines() if line.strip()]

    with LLM(args.model, n_parallel=args.parallel) as llm:

        def ask(row: dict[str, str]) -> Answer:
            message = {"role": "user", "content": row["prompt"]}
            return llm.chat([message], temperature=0, max_tokens=args.max_tokens, logprobs=2)

        alone = []
        for row in rows:
            llm.forget()
            alone.append(ask(row))
            print(f"\r{len(alone)} of {len(rows)} alone", end="", file=sys.stderr, flush=True)
        llm.forget()
        with ThreadPoolExecutor(args.parallel) as pool:
            together = list(pool.map(ask, rows))
    print(file=sys.stderr)

    gaps = []
    for row, one, many in zip(rows, alone, together, strict=True):
        index = first_difference(one, many)
        if index is not None:
            gaps.append(gap(one, index))
            print(f"{row['id']}: token {index} of {len(one.token_ids)} differs, gap of the two best {gaps[-1]:.3f}")
    over = [g for g in gaps if not g < args.bound]
    print(f"{len(rows) - len(gaps)} of {len(rows)} identical, {len(over)} first differences of {args.bound} or more")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
