"""Responses that others may follow on: the latest, in memory, within a bound. Knows nothing of how they were made."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from edgeinfer.server.problems import Problem, dumps

__all__ = ["Kept"]

_MOST = 512
_MOST_BYTES = 64 << 20


class Kept:
    """What was said, by a response's id. Used on the event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[dict[str, Any], list[dict[str, Any]], int]] = OrderedDict()
        self._n_bytes = 0

    def keep(self, response: dict[str, Any], history: list[dict[str, Any]]) -> None:
        """``history``: the whole conversation, the response's own message last. The oldest make room."""
        n_bytes = len(dumps([response, history]))
        if n_bytes > _MOST_BYTES:
            return
        self._known[response["id"]] = (response, history, n_bytes)
        self._n_bytes += n_bytes
        while len(self._known) > _MOST or self._n_bytes > _MOST_BYTES:
            self._n_bytes -= self._known.popitem(last=False)[1][2]

    def history(self, name: str) -> list[dict[str, Any]]:
        """The conversation up to this response. Raises `Problem` for one that is not kept."""
        if name not in self._known:
            message = (
                f"no response {name[:80]!r} is kept here: they do not outlive the server, and only the latest stay"
            )
            raise Problem(400, message, code="previous_response_not_found", param="previous_response_id")
        self._known.move_to_end(name)
        return self._known[name][1]

    def response(self, name: str) -> dict[str, Any]:
        if name not in self._known:
            raise Problem(404, f"no response {name[:80]!r} is kept here", code="not_found")
        return self._known[name][0]

    def forget(self, name: str) -> None:
        if name not in self._known:
            raise Problem(404, f"no response {name[:80]!r} is kept here", code="not_found")
        self._n_bytes -= self._known.pop(name)[2]
