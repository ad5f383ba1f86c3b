"""Ask a server anything that its OpenAPI document allows, and much that it does not: ``python tools/server_requests.py
[--n 20000]``. A scripted model answers, in this process; what is tested is everything in front of it.

Says how many answers had which status. Fails on a 5xx other than 503, on an engine that was restarted, and when a known
request beside the others gets another text than alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from schema_values import requests
from serving import URL, application, opened, spec, user

DOCUMENT: Any = application()._app.openapi()  # type: ignore[attr-defined]
_EVERY = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="how many requests")
    n = parser.parse_args().n
    counts: Counter[str] = Counter()
    begin = time.monotonic()
    with opened(spec(n_ctx=256), request_s=60.0) as client:

        @given(asked=requests(DOCUMENT))
        @settings(
            max_examples=n,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        def ask(asked: tuple[str, str, Any]) -> None:
            method, path, body = asked
            content = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"} if content else {}
            response = client.request(method, f"{URL}{path}", content=content, headers=headers)
            counts[f"{path.split('/{')[0]} {response.status_code}"] += 1
            if response.status_code >= 500 and response.status_code != 503:
                raise AssertionError(f"{response.status_code}: {response.text}")
            n_asked = counts.total()
            if n_asked % _EVERY == 0:
                found = client.post("/v1/chat/completions", json=user("canary")).json()
                if found["choices"][0]["message"]["content"] != "You said: canary":
                    raise AssertionError(f"the canary's text has changed: {found}")
                print(
                    f"{n_asked} requests, {n_asked / (time.monotonic() - begin):.0f} a second",
                    end="\r",
                    file=sys.stderr,
                )

        ask()
        restarted = "edgeinfer_engine_restarts_total{" in client.get("/metrics").text
    print(json.dumps({"n": counts.total(), "restarted": restarted, "counts": dict(sorted(counts.items()))}))
    return int(restarted)


if __name__ == "__main__":
    sys.exit(main())
