"""What a saved state is worth after a restart: time to the first token with it and without, and whether the answer is
the same.

    python tools/kv_restart.py -m qwen2.5-coder-1.5b --tokens 4000

Three processes, one after the other, with a folder of saved states of their own:

    talk     reads a text of so many tokens and answers; its state is saved as the process ends
    cold     opens the model anew, without saved states, and answers the next message of that conversation
    resumed  the same with them

Loading the model is in none of the times. Prints a line of JSON: seconds to the first token, their ratio, whether the
greedy answers are token for token the same, how many tokens were read back. Exit code 1 where the answers differ or
nothing was read back.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_SUBJECTS = ("ledger", "harbour", "orchard", "signal", "bridge", "garden", "engine", "letter", "winter", "market")
_DEEDS = ("was moved to", "was paid for by", "is kept beside", "was painted like", "is older than", "came before")


def text_of(n_sentences: int) -> str:
    """Sentences of which no two are the same."""
    lines = []
    for i in range(n_sentences):
        first, deed, second = _SUBJECTS[i % 10], _DEEDS[i % 6], _SUBJECTS[(i // 10 + 3) % 10]
        lines.append(f"Note {i}: the {first} {deed} the {second}, for {(i * 37) % 101} coins.")
    return " ".join(lines)


def child(job: dict[str, Any]) -> None:
    """One process: open, answer, close; its findings as the last line of its output."""
    import edgeinfer

    with edgeinfer.LLM(job["model"], n_ctx=job["n_ctx"], kv_cache=job["kv_cache"], draft=job["draft"]) as llm:
        if "answer" in job:
            llm.remember(job["messages"][:-1], job["answer"])
        else:
            job["messages"] = [{"role": "user", "content": _sized(llm, job["n_tokens"])}]
        answer = llm.chat(job["messages"], max_tokens=job["max_tokens"], temperature=0.0)
        stats = answer.stats
        found = {
            "messages": job["messages"],
            "text": answer.text,
            "token_ids": list(answer.token_ids),
            "ttft_s": stats.ttft_s,
            "n_prompt": stats.n_prompt,
            "n_restored": stats.n_restored,
        }
    print(json.dumps(found))


def _sized(llm: Any, n_tokens: int) -> str:
    n = 1
    while llm.count_tokens([{"role": "user", "content": text_of(n)}]) < n_tokens:
        n += max(1, n // 20)
    return text_of(n)


def run(**job: Any) -> dict[str, Any]:
    """A child's findings."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(job)], stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(model: str, n_tokens: int, draft: str = "off") -> dict[str, Any]:
    """The figures of one round."""
    common = {"model": model, "n_ctx": n_tokens + 640, "draft": draft}
    with tempfile.TemporaryDirectory(prefix="kv-restart-") as home:
        models = os.environ.get("EDGEINFER_MODELS")
        if models is None:
            from edgeinfer import env

            os.environ["EDGEINFER_MODELS"] = str(env.models_dir())
        os.environ["EDGEINFER_HOME"] = str(Path(home))
        talk = run(**common, n_tokens=n_tokens, max_tokens=64, kv_cache="4G")
        said = [*talk["messages"], {"role": "assistant", "content": talk["text"]}]
        messages = [*said, {"role": "user", "content": "Which note was the first, and what did it cost?"}]
        again = {**common, "messages": messages, "answer": talk["token_ids"], "max_tokens": 64}
        cold = run(**again, kv_cache="off")
        resumed = run(**again, kv_cache="4G")
    return {
        "model": model,
        "n_prompt": cold["n_prompt"],
        "n_restored": resumed["n_restored"],
        "cold_s": round(cold["ttft_s"], 4),
        "resumed_s": round(resumed["ttft_s"], 4),
        "ratio": round(cold["ttft_s"] / resumed["ttft_s"], 2),
        "identical": cold["token_ids"] == resumed["token_ids"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Time to the first token after a restart, with and without saved KV.")
    parser.add_argument("-m", "--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--tokens", type=int, default=4000, help="of the conversation")
    parser.add_argument("--draft", default="off")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return 0
    found = measure(args.model, args.tokens, args.draft)
    print(json.dumps(found))
    return 0 if found["identical"] and found["n_restored"] else 1


if __name__ == "__main__":
    sys.exit(main())
