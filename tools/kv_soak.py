#!/usr/bin/env python3
"""Whether the store of saved KV states holds: writers that are killed, and several processes at random work.

    python tools/kv_soak.py --kills 200                   kill -9 at random moments of a save; POSIX only
    python tools/kv_soak.py --seconds 600 --workers 2     random work of several processes on one small store

Each prints one JSON object and exits with 0 where everything held: after a kill the old or the new state loads, whole;
under random work no process fails or reads a wrong state, and the folder is never more than 5 % above the cap.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer import files
from edgeinfer.kv.fingerprint import Fingerprint
from edgeinfer.kv.store import Store

TokenIds = npt.NDArray[np.int32]

CAP_BYTES = 3_000_000
MODELS = tuple(
    Fingerprint(weights=name, engine="none", library="1", kernels="", kv_type="f16", label=f"soak {name}")
    for name in ("a", "b")
)
MARGIN = 1.05


def state_of(fingerprint: Fingerprint, tokens: TokenIds) -> bytes:
    """The only right state of these tokens: 1 to 60 kB of them."""
    seed = hashlib.sha256(fingerprint.digest() + tokens.tobytes()).digest()
    return seed * (32 + int.from_bytes(seed[:2], "little") % 1900)


def store_in(folder: Path, said: list[str]) -> Store:
    return Store(folder, said=said.append, cap_bytes=CAP_BYTES, keep_free_bytes=0, patience_s=300)


# ---- kills


def save_until_killed(folder: Path, n_done: int, report: int) -> None:
    """A conversation that grows by one token a turn, each turn saved; the last turn on disk is told to the parent."""
    store = store_in(folder, [])
    tokens = np.arange(100_000, dtype=np.int32)
    while True:
        n_done += 1
        if not store.save(MODELS[0], tokens[:n_done], memoryview(state_of(MODELS[0], tokens[:n_done]))):
            os.write(report, b"-1\n")
        os.write(report, b"%d\n" % n_done)


def one_kill(folder: Path, n_done: int, pause_s: float) -> int:
    """How many turns the killed child told of, at least ``n_done``."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            save_until_killed(folder, n_done, write_end)
        os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as reports:
        time.sleep(pause_s)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        told = [n_done, *map(int, reports)]
    if -1 in told or os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit("a save failed by itself")
    return max(told)


def right_state(n_tokens: int) -> bytes:
    return state_of(MODELS[0], np.arange(n_tokens, dtype=np.int32))


def kills(n_kills: int, seed: int) -> dict[str, Any]:
    """Kill a saving child again and again; each starts where the one before was stopped."""
    chance, lost, interrupted, said = random.Random(seed), 0, 0, list[str]()
    tokens = np.arange(100_000, dtype=np.int32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "kv"
        n_done = 0
        for _ in range(n_kills):
            n_done = one_kill(folder, n_done, chance.uniform(0.0, 0.03))
            store = store_in(folder, said)
            interrupted += any(folder.glob(".*.tmp"))
            found = store.find(MODELS[0], tokens)
            state = store.load(found) if found else None
            if found is None or state is None:
                lost += n_done > 0
            elif found.n_tokens not in (n_done, n_done + 1) or bytes(state) != right_state(found.n_tokens):
                lost += 1
            store.tidy()
            lost += any(folder.glob(".*.tmp"))
    held = lost == 0 and not said
    return {"kills": n_kills, "turns": n_done, "during_a_save": interrupted, "lost": lost, "said": said, "ok": held}


# ---- random work


def some_tokens(chance: random.Random) -> TokenIds:
    """One of few conversations, of which many share their beginning."""
    branch = chance.randrange(12)
    length = chance.choice((1, 40, 64, 65, 300, 1000))
    tokens = np.arange(length, dtype=np.int32)
    tokens[length // 2 :] += branch
    return tokens


def work(folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Random saves, finds, loads and an occasional clear. Raises `SystemExit` for a wrong state."""
    chance, said = random.Random(seed), list[str]()
    store = store_in(folder, said)
    counts = dict.fromkeys(("saved", "found", "loaded", "gone", "cleared"), 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        fingerprint, tokens = chance.choice(MODELS), some_tokens(chance)
        dice = chance.random()
        if dice < 0.45:
            counts["saved"] += store.save(fingerprint, tokens, memoryview(state_of(fingerprint, tokens)))
        elif dice < 0.995:
            found = store.find(fingerprint, tokens)
            if found is not None:
                counts["found"] += 1
                state = store.load(found)
                counts["gone" if state is None else "loaded"] += 1
                check(fingerprint, tokens, found.n_common, found.n_tokens, state)
        elif dice < 0.996:
            store.clear()
            counts["cleared"] += 1
        else:
            store.ls()
            store.tidy()
    return {**counts, "said": said}


def check(fingerprint: Fingerprint, asked: TokenIds, n_common: int, n_tokens: int, state: memoryview | None) -> None:
    """Any of the conversations of that length may have been found, if it shares what it claims."""
    if state is None:
        return
    for branch in range(12):
        tokens = np.arange(n_tokens, dtype=np.int32)
        tokens[n_tokens // 2 :] += branch
        if (tokens[:n_common] == asked[:n_common]).all() and state == state_of(fingerprint, tokens):
            return
    raise SystemExit(f"a wrong state: {n_common} of {n_tokens} tokens in common")


def used_bytes(folder: Path) -> int:
    """All that lies in the folder, while nobody moves anything."""
    with files.lock(folder / "lock"):
        return sum(path.stat().st_size for path in folder.iterdir())


def soak(seconds: float, n_workers: int, seed: int) -> dict[str, Any]:
    """Start the workers, watch the folder until they end, and collect what they say."""
    with tempfile.TemporaryDirectory() as name:
        folder = files.private_dir(Path(name) / "kv")
        command = [sys.executable, __file__, "--seconds", str(seconds), "--folder", str(folder)]
        workers = [
            subprocess.Popen([*command, "--seed", str(seed + i)], stdout=subprocess.PIPE, text=True)
            for i in range(n_workers)
        ]
        peak = samples = 0
        while any(worker.poll() is None for worker in workers):
            peak, samples = max(peak, used_bytes(folder)), samples + 1
            time.sleep(0.02)
        outputs = [worker.communicate()[0] for worker in workers]
    results = [json.loads(output.splitlines()[-1]) if output else {} for output in outputs]
    clean = all(worker.returncode == 0 for worker in workers) and not any(result.get("said") for result in results)
    held = clean and peak <= MARGIN * CAP_BYTES
    return {"seconds": seconds, "workers": results, "samples": samples, "peak_of_cap": peak / CAP_BYTES, "ok": held}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, metavar="S")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # what a worker is started with
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(work(args.folder, args.seconds, args.seed)))
        return 0
    if not args.kills and not args.seconds:
        parser.error("give --kills or --seconds")
    result = kills(args.kills, args.seed) if args.kills else soak(args.seconds, args.workers, args.seed)
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
