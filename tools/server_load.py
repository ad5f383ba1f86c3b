"""Many clients at once against a server of its own: ``python tools/server_load.py [--clients 256] [--each 8]``

Each client asks one thing after another, waits where it is told to (429), and looks whether every greedy answer is the
one that the request got alone. Says how many requests had which outcome, how fast tokens came, and how long the first
took. Fails on an answer that differs, on an outcome that is neither an answer nor a refusal, and on a missing one."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import httpx2 as httpx

_SUBJECTS = ("rivers", "colours", "birds", "stars", "breads", "winds", "metals", "songs")


class Load:
    """What the clients share."""

    def __init__(self, client: httpx.AsyncClient, n_tokens: int) -> None:
        self.client, self.n_tokens = client, n_tokens
        self.outcomes: Counter[str] = Counter()
        self.first_s: list[float] = []
        self.n_generated = 0

    def body(self, i: int) -> dict[str, Any]:
        """One of a few dozen requests."""
        text = f"Name {2 + i % 7} {_SUBJECTS[i % len(_SUBJECTS)]}."
        return {
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": self.n_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def ask(self, i: int) -> tuple[int, str]:
        """(status, text) of one request, streamed."""
        begin = time.monotonic()
        text = ""
        async with self.client.stream("POST", "/v1/chat/completions", json=self.body(i)) as response:
            if response.status_code != 200:
                await response.aread()
                return response.status_code, response.headers.get("Retry-After", "")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    return 0, chunk["error"]["message"]
                for choice in chunk["choices"]:
                    if choice["delta"].get("content") and not text:
                        self.first_s.append(time.monotonic() - begin)
                    text += choice["delta"].get("content") or ""
                self.n_generated += (chunk.get("usage") or {}).get("completion_tokens", 0)
        return 200, text

    async def one(self, n: int, start: int, known: dict[int, str]) -> None:
        """A client: ``n`` requests, each until it has an answer."""
        for j in range(n):
            i = (start * 31 + j * 7) % len(known)
            while True:
                status, said = await self.ask(i)
                if status == 429:
                    self.outcomes["refused"] += 1
                    await asyncio.sleep(float(said))
                    continue
                same = status == 200 and said == known[i]
                self.outcomes["answered" if same else "differs" if status == 200 else f"failed {status} {said}"] += 1
                break


async def load(url: str, args: argparse.Namespace) -> int:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        found = Load(client, args.tokens)
        known = {i: (await found.ask(i))[1] for i in range(len(_SUBJECTS) * 7)}
        alone_s, found.first_s, found.n_generated = sorted(found.first_s), [], 0
        begin = time.monotonic()
        await asyncio.gather(*(found.one(args.each, start, known) for start in range(args.clients)))
        seconds = time.monotonic() - begin
    first = sorted(found.first_s)
    n_asked = args.clients * args.each
    told = {
        "requests": n_asked,
        "outcomes": dict(found.outcomes),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(found.n_generated / seconds, 1),
        "first_token_s": {"alone": alone_s[len(alone_s) // 2], "median": first[len(first) // 2], "last": first[-1]},
    }
    print(json.dumps(told))
    return int(found.outcomes["answered"] != n_asked or bool(set(found.outcomes) - {"answered", "refused"}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--each", type=int, default=8, help="requests of each client")
    parser.add_argument("--tokens", type=int, default=16, help="most tokens of an answer")
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--max-queue", type=int, default=256)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    args = parser.parse_args()
    command = [sys.executable, "-m", "edgeinfer", "serve", "-m", args.model, "--port", "0", "--json"]
    command += ["-np", str(args.parallel), "--max-queue", str(args.max_queue), "-c", "512"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            return asyncio.run(load(json.loads(line)["url"], args)) if line else 1
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
