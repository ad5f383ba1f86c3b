#!/usr/bin/env python3
"""Whether a batch job survives kill -9: killed at random moments until it is finished, again and again.

    python tools/batch_kill.py                                     1,000 rows on the scripted engine, 100 kills
    python tools/batch_kill.py --model smollm2-135m --tokens 16    the same through `edgeinfer batch` and a real model

Of the rows 200 repeat a prompt and 50 a custom_id. Prints one JSON object and exits with 0 where it held: after the
kills exactly one result for each row, no bad line, and all bytes, sorted, those of a run that nobody disturbed. POSIX.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeinfer import batch
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.llm import LLM
from edgeinfer.text import ChatTemplate
from edgeinfer.text.byte_tokenizer import ByteTokenizer

TEMPLATE = "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% endfor %}<|turn|>assistant: "
N_DUPLICATE_PROMPTS, N_DUPLICATE_IDS = 200, 50
_MOST_S = 600.0
_SYSTEM = "Answer in one short sentence."


class _Nothing(list[Any]):
    """Takes no note of what the engine was asked: a long job would fill memory with it."""

    def append(self, _entry: Any) -> None:
        pass


def scripted_llm(n_parallel: int = 8, n_ctx: int = 512) -> LLM:
    """A model of no weight, whose next token follows from all before it."""
    engine = ScriptedEngine(lambda tokens: 33 + sum(tokens) % 90, n_vocab=259, n_ctx=n_ctx, n_seq_max=n_parallel)
    engine.calls = _Nothing()
    return LLM.from_engine(engine, ByteTokenizer(), template=ChatTemplate(TEMPLATE, bos_text="", eos_text=""))


def write_rows(path: Path, n_rows: int, n_tokens: int) -> None:
    """OpenAI lines. Row i and row i + n / 2 ask the same in a fifth of them; a twentieth share their custom_id."""
    n_prompts, n_ids = (n_rows * share // 1000 for share in (N_DUPLICATE_PROMPTS, N_DUPLICATE_IDS))
    with path.open("w", encoding="utf-8") as stream:
        for i in range(n_rows):
            asked = i - n_rows // 2 if 0 <= i - n_rows // 2 < n_prompts else i
            name = i - n_rows // 3 if 0 <= i - n_rows // 3 < n_ids else i
            messages = [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": f"Question {asked}: what is {asked} plus {asked % 7}?"},
            ]
            body = {"model": "any", "messages": messages, "max_tokens": 1 + n_tokens // 2 + asked % max(n_tokens, 1)}
            line = {"custom_id": f"row-{name}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            stream.write(json.dumps(line) + "\n")


def scripted_job(rows: Path, out: Path) -> None:
    """Run the job to its end in this process."""
    with scripted_llm() as llm:
        batch.run(rows, llm, out, temperature=0.0)


class Child:
    """A process that runs the job: the command, or a copy of this process, which must have no threads then."""

    def __init__(self, rows: Path, out: Path, command: Sequence[str] | None) -> None:
        if command is not None:
            arguments = [*command, "-i", str(rows), "-o", str(out)]
            self.pid = subprocess.Popen(arguments, stderr=subprocess.DEVNULL).pid
            return
        self.pid = os.fork()
        if not self.pid:
            with contextlib.suppress(BaseException):
                scripted_job(rows, out)
                os._exit(0)
            os._exit(1)

    def wait(self) -> bool:
        """True when the job has finished, false when it was killed. Raises `SystemExit` where it failed by itself."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"the job failed by itself, with code {code}")
        return code == 0

    def killed_after(self, pause_s: float) -> bool:
        """False when it was finished by then."""
        time.sleep(pause_s)
        os.kill(self.pid, signal.SIGKILL)  # of a process that has ended but was not waited for: harmless
        return not self.wait()


def fault(out: Path, reference: Sequence[bytes], n_rows: int) -> str | None:
    """What is wrong with a finished output, if anything."""
    lines = out.read_bytes().splitlines(keepends=True)
    if len(lines) != n_rows:
        return f"{len(lines)} results for {n_rows} rows"
    if len({json.loads(line)["id"] for line in lines}) != n_rows:
        return "a row has two results"
    return None if sorted(lines) == reference else "the bytes differ from those of an undisturbed run"


def kills(
    folder: Path, n_rows: int, n_kills: int, n_tokens: int, command: Sequence[str] | None, seed: int = 1
) -> dict[str, Any]:
    """Kill jobs until there were ``n_kills``; each job is finished and looked at."""
    chance, rows, whole = random.Random(seed), folder / "in.jsonl", folder / "whole.jsonl"
    write_rows(rows, n_rows, n_tokens)
    begin = time.monotonic()
    child = Child(rows, whole, command)
    while not (whole.exists() and whole.stat().st_size) and time.monotonic() - begin < _MOST_S:
        time.sleep(0.01)
    start_s = time.monotonic() - begin
    child.wait()
    whole_s = time.monotonic() - begin
    reference = sorted(whole.read_bytes().splitlines(keepends=True))
    found = fault(whole, reference, n_rows)
    n_killed = n_jobs = n_torn = 0
    while n_killed < n_kills and found is None:
        n_jobs += 1
        out = folder / f"out-{n_jobs}.jsonl"
        # Short enough that one job is killed many times, long enough that runs come a little further.
        longest_s = (1.2 * start_s if command else 0.02) + 4 * (whole_s - start_s) / n_kills
        while n_killed < n_kills and Child(rows, out, command).killed_after(chance.uniform(0, longest_s)):
            n_killed += 1
            n_torn += out.exists() and not out.read_bytes().endswith(b"\n")
        if not Child(rows, out, command).wait():
            raise SystemExit("somebody else killed it")
        found = fault(out, reference, n_rows)
    counts = {"rows": n_rows, "kills": n_killed, "jobs": n_jobs, "torn": n_torn, "whole_s": round(whole_s, 2)}
    return {**counts, "fault": found, "ok": found is None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, metavar="N")
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--tokens", type=int, default=8, metavar="N", help="about so many for each answer")
    parser.add_argument("--model", metavar="NAME", help="a real model instead of the scripted engine")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    command = None
    if args.model:
        command = [sys.executable, "-m", "edgeinfer", "batch", "-m", args.model, "--temp", "0", "-c", "512"]
    with tempfile.TemporaryDirectory() as folder:
        result = kills(Path(folder), args.rows, args.kills, args.tokens, command, args.seed)
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
