#!/usr/bin/env python3
"""How much sooner a batch job is done than by other ways to answer the same rows on this machine.

    python tools/batch_speed.py -m qwen2.5-coder-1.5b                     rows of their own
    python tools/batch_speed.py -m qwen2.5-coder-1.5b --shared 1500       rows with one system prompt of 1,500 tokens

Rows of their own (by default 256 tokens in, 128 out, greedy) are answered by `edgeinfer.batch` with 16 in flight,
without drafts and as the controller decides; by the same scheduler on llama.cpp's own kernels; and by a loop over
llama-cpp-python's `Llama`. Rows with a shared prompt are answered as they are, and with the row's number in front of
the prompt, so that nothing is shared. Each way runs in a process of its own, on as many rows as it needs for a steady
rate. Prints one JSON object: what each way did, and how often ours is its rate in rows a second.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgeinfer import LLM, batch
from edgeinfer.opening import found

N_PLACES, N_THREADS = 16, 2
OWN_WAYS = {"ours": 32, "ours, drafts": 32, "llama.cpp's kernels": 16, "loop over Llama": 3}
"""Rows of each way: whole fillings of the places, or a few one after the other."""
SHARED_WAYS = {"shared": 200, "nothing shared": 16}


def words(llm: LLM, n_tokens: int, seed: int) -> str:
    """Code-like text of about so many tokens, the same for the same seed."""
    draw = random.Random(seed)
    nouns = ["user", "order", "index", "buffer", "token", "query", "matrix", "result", "socket", "record"]
    verbs = ["load", "store", "merge", "split", "check", "parse", "count", "close", "update", "remove"]
    text = f"# module {seed}\n"
    while llm.count_tokens(text) < n_tokens:
        noun, other, verb = draw.choice(nouns), draw.choice(nouns), draw.choice(verbs)
        text += f"def {verb}_{noun}({other}, n={draw.randrange(1000)}):\n    return {other}.{verb}({noun!r}, n + 1)\n\n"
    return text


def write_rows(path: Path, llm: LLM, way: str, args: argparse.Namespace) -> None:
    rows: list[dict[str, Any]]
    if args.shared:
        system = words(llm, args.shared, 0)
        rows = [
            {
                "messages": [
                    {"role": "system", "content": system if way == "shared" else f"{i} {system}"},
                    {"role": "user", "content": f"What is {i} + {2 * i}?"},
                ]
            }
            for i in range(args.rows)
        ]
    else:
        rows = [{"prompt": words(llm, args.prompt, 1 + i)} for i in range(args.rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(way: str, args: argparse.Namespace) -> LLM:
    return LLM(
        args.model,
        n_ctx=(args.shared or args.prompt) + args.out + 128,
        n_parallel=N_PLACES,
        n_threads=N_THREADS,
        n_threads_batch=N_THREADS,
        kernels=way != "llama.cpp's kernels",
        draft="auto" if way == "ours, drafts" else "off",
    )


def by_batch(llm: LLM, args: argparse.Namespace, rows: Path, out: Path) -> dict[str, Any]:
    report = batch.run(rows, llm, out, raw=not args.shared, temperature=0.0, max_tokens=args.out)
    return {
        "rows": report.n_done,
        "seconds": report.seconds,
        "prompt_tokens": report.n_prompt,
        "prefilled_tokens": report.n_prefilled,
        "generated_tokens": report.n_generated,
        "drafted_tokens": report.n_drafted,
        "accepted_tokens": report.n_accepted,
        "retries": report.n_retries,
    }


def by_loop(args: argparse.Namespace, rows: Path) -> dict[str, Any]:
    import llama_cpp

    path = str(found(args.model, "auto").path)
    llama = llama_cpp.Llama(path, n_ctx=1024, n_threads=N_THREADS, n_threads_batch=N_THREADS, verbose=False)
    n_prompt = n_tokens = n_rows = 0
    begin = time.monotonic()
    for line in rows.read_text().splitlines():
        answer = llama.create_completion(json.loads(line)["prompt"], max_tokens=args.out, temperature=0.0)
        n_prompt += answer["usage"]["prompt_tokens"]
        n_tokens += answer["usage"]["completion_tokens"]
        n_rows += 1
    seconds = time.monotonic() - begin
    return {"rows": n_rows, "seconds": seconds, "prompt_tokens": n_prompt, "generated_tokens": n_tokens}


def one_way(way: str, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        rows, out = Path(name) / "in.jsonl", Path(name) / "out.jsonl"
        if way == "loop over Llama":
            with LLM(args.model) as llm:
                write_rows(rows, llm, way, args)
            return by_loop(args, rows)
        with opened(way, args) as llm:
            write_rows(rows, llm, way, args)
            return by_batch(llm, args, rows, out)


def all_ways(args: argparse.Namespace) -> dict[str, Any]:
    """Each in turn; rates by generated tokens, for a row may end early."""
    done: dict[str, Any] = {}
    sizes = ["--prompt", str(args.prompt), "--out", str(args.out), "--shared", str(args.shared)]
    for way, n_rows in (SHARED_WAYS if args.shared else OWN_WAYS).items():
        if way in args.skip:
            continue
        command = [sys.executable, __file__, "-m", args.model, *sizes, "--way", way, "--rows", str(args.rows or n_rows)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        done[way] = json.loads(result.stdout.splitlines()[-1])
        done[way]["generated_tps"] = done[way]["generated_tokens"] / done[way]["seconds"]
    first = next(iter(done.values()))
    return {"ways": done, "ours_to": {way: first["generated_tps"] / one["generated_tps"] for way, one in done.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--prompt", type=int, default=256, help="tokens in")
    parser.add_argument("--out", type=int, default=128, help="tokens out")
    parser.add_argument("--shared", type=int, default=0, help="tokens of a system prompt that all rows have")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--skip", action="append", default=[], help="a way that is not to be measured")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    print(json.dumps(one_way(args.way, args) if args.way else all_ways(args)))


if __name__ == "__main__":
    main()
