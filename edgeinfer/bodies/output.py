"""The output of a response as it grows: messages and function calls, and the events that tell of each change."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from edgeinfer.bodies.calls import CallBegun, CallEnded, CallParser, CallPart, Part, random_id
from edgeinfer.bodies.parts import TokenBytes, token_logprob
from edgeinfer.bodies.tools import arguments_of
from edgeinfer.core import Token

__all__ = ["Output"]

Events = list[tuple[str, dict[str, Any]]]


class Output:
    """``names``: the functions whose calls are looked for. ``new_id``: makes the name of an item, from its kind.
    ``items`` is the output so far."""

    def __init__(self, text: TokenBytes, names: Collection[str], new_id: Callable[[str], str] = random_id) -> None:
        self.items: list[dict[str, Any]] = []
        self._new_id = new_id
        self._token_bytes = text
        self._parser = CallParser(names, lambda: new_id("call")) if names else None
        self._open: dict[str, Any] | None = None  # the message that text goes to

    def feed(self, token: Token) -> Events:
        parts: list[Part] = self._parser.feed(token.text) if self._parser else [token.text]
        logprobs = []
        if token.logprob is not None and token.id >= 0:
            logprobs = [token_logprob(token, self._token_bytes)]
        events: Events = []
        for part in parts:
            if isinstance(part, str) and (part or logprobs):
                events += self._text(part, logprobs)
                logprobs = []
            elif not isinstance(part, str):
                events += self._call(part)
        return events

    def end(self, *, cut: bool = False) -> Events:
        """Nothing follows. There is always something: an empty message where there was no answer."""
        events: Events = []
        for part in self._parser.flush() if self._parser else []:
            events += self._text(part, []) if isinstance(part, str) else self._call(part)
        if not self.items:
            events += self._begin()
        return events + self._close("incomplete" if cut else "completed")

    def message(self) -> dict[str, Any]:
        """All of it as one turn of a conversation, for a template."""
        texts = [item["content"][0]["text"] for item in self.items if item["type"] == "message"]
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        calls = [
            {
                "id": item["call_id"],
                "type": "function",
                "function": {"name": item["name"], "arguments": arguments_of(item["arguments"])},
            }
            for item in self.items
            if item["type"] == "function_call"
        ]
        return {**message, "tool_calls": calls} if calls else message

    # ---- messages

    def _begin(self) -> Events:
        item: dict[str, Any] = {"id": self._new_id("msg"), "type": "message", "role": "assistant"}
        item |= {"status": "in_progress", "content": []}
        self.items.append(item)
        self._open = item
        at = {"output_index": len(self.items) - 1}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        events: Events = [
            ("response.output_item.added", {**at, "item": {**item, "content": []}}),
            ("response.content_part.added", {**at, "item_id": item["id"], "content_index": 0, "part": dict(part)}),
        ]
        item["content"] = [part]
        return events

    def _text(self, text: str, logprobs: list[dict[str, Any]]) -> Events:
        events = [] if self._open is not None else self._begin()
        item = self._open or self.items[-1]
        part = item["content"][0]
        part["text"] += text
        part["logprobs"] += logprobs
        where = {"item_id": item["id"], "output_index": len(self.items) - 1, "content_index": 0}
        return [*events, ("response.output_text.delta", {**where, "delta": text, "logprobs": logprobs})]

    def _close(self, status: str = "completed") -> Events:
        item, self._open = self._open, None
        if item is None:
            return []
        item["status"] = status
        part = item["content"][0]
        at = {"output_index": len(self.items) - 1}
        where = {**at, "item_id": item["id"], "content_index": 0}
        return [
            ("response.output_text.done", {**where, "text": part["text"], "logprobs": part["logprobs"]}),
            ("response.content_part.done", {**where, "part": part}),
            ("response.output_item.done", {**at, "item": item}),
        ]

    # ---- calls

    def _call(self, part: CallBegun | CallPart | CallEnded) -> Events:
        if isinstance(part, CallBegun):
            return self._begin_call(part)
        item = self.items[-1]
        at = {"output_index": len(self.items) - 1}
        where = {**at, "item_id": item["id"]}
        if isinstance(part, CallPart):
            item["arguments"] += part.text
            return [("response.function_call_arguments.delta", {**where, "delta": part.text})] if part.text else []
        item["status"] = "completed" if part.whole else "incomplete"
        done = {**where, "arguments": item["arguments"], "name": item["name"]}
        return [
            ("response.function_call_arguments.done", done),
            ("response.output_item.done", {**at, "item": dict(item)}),
        ]

    def _begin_call(self, part: CallBegun) -> Events:
        events = self._close()
        item = {"id": self._new_id("fc"), "type": "function_call", "call_id": part.id, "name": part.name}
        item |= {"arguments": "", "status": "in_progress"}
        self.items.append(item)
        return [*events, ("response.output_item.added", {"output_index": len(self.items) - 1, "item": dict(item)})]
