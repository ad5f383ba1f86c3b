"""Stop a server's engine in the middle of a step, again and again: ``python tools/server_faults.py [--n 20]``

Serves a model, and each time stops its process (SIGSTOP: a step that never ends) while requests are being answered.
Says how long `/health` took to turn 503 and how long until a known request had its known answer again. Fails where the
first is over 5 s or the second over 30, or where the answer is another. Only where processes can be stopped."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import psutil

_MOST_BAD_S, _MOST_RECOVERY_S = 5.0, 30.0


def fetch(url: str, body: Any = None, timeout: float = 120) -> tuple[int, Any]:
    """(status, JSON) of a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def known(url: str) -> str:
    """A greedy answer; empty while there is none."""
    body = {"messages": [{"role": "user", "content": "Name three colours."}], "temperature": 0, "max_tokens": 16}
    status, found = fetch(f"{url}/v1/chat/completions", body)
    return str(found["choices"][0]["message"]["content"]) if status == 200 else ""


def worker_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The process that the model has to itself."""
    return next(child for child in psutil.Process(process.pid).children() if child.is_running())


def one_fault(process: subprocess.Popen[str], url: str, expected: str) -> dict[str, Any]:
    """Stop the engine while it answers; how long until that was seen, and until it was over."""
    body = {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 500, "ignore_eos": True}
    statuses: list[int] = []
    asking = threading.Thread(target=lambda: statuses.append(fetch(f"{url}/v1/chat/completions", body)[0]))
    asking.start()
    time.sleep(1.0)
    begin = time.monotonic()
    os.kill(worker_of(process).pid, signal.SIGSTOP)
    while fetch(f"{url}/health")[0] != 503:
        time.sleep(0.02)
    bad_s = time.monotonic() - begin
    while fetch(f"{url}/health")[0] != 200:
        time.sleep(0.05)
    answer = known(url)
    recovery_s = time.monotonic() - begin
    asking.join()
    good = answer == expected and statuses == [503] and bad_s < _MOST_BAD_S and recovery_s < _MOST_RECOVERY_S
    return {"health_503_s": round(bad_s, 2), "recovered_s": round(recovery_s, 2), "good": good}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    args = parser.parse_args()
    command = [sys.executable, "-m", "edgeinfer", "serve", "-m", args.model, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = json.loads((process.stdout or sys.stdin).readline())["url"]
            expected = known(url)
            faults = []
            for i in range(args.n):
                faults.append(one_fault(process, url, expected))
                print(f"{i + 1}: {faults[-1]}", file=sys.stderr)
        finally:
            process.terminate()
    bad = max((fault["health_503_s"] for fault in faults), default=0)
    slowest = max((fault["recovered_s"] for fault in faults), default=0)
    good = all(fault["good"] for fault in faults)
    print(json.dumps({"n": len(faults), "good": good, "health_503_s": bad, "recovered_s": slowest}))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
