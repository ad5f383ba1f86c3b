"""An answer for the page: asked like any other request, and sent as HTML that grows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from edgeinfer import sessions
from edgeinfer.conversation import Conversation, timing
from edgeinfer.core import Answer
from edgeinfer.server.asking import Ask, Asking, Running
from edgeinfer.server.page.keeping import Kept
from edgeinfer.server.page.rendering import Growing
from edgeinfer.server.problems import told
from edgeinfer.server.sse import event
from edgeinfer.sessions import Turn

__all__ = ["Question", "answering"]

_FRAME_S = 0.05
_CALM = 6  # what was rendered is followed by so many times its time of rest: the model needs the processor


@dataclass(frozen=True, slots=True)
class Question:
    """What the page asks. ``again``: answer the last question anew; ``at``: ask the turn of this place in another way,
    in a conversation of its own."""

    model: str
    text: str = ""
    session: str | None = None
    again: bool = False
    at: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    system: str | None = None


async def answering(asking: Asking, kept: Kept, question: Question) -> AsyncGenerator[bytes, None]:
    """Events: ``begin`` (the conversation's name), ``text`` (HTML to add for good, HTML to show after it), ``end``
    (why, and what it cost) or ``error``. Whoever leaves stops the answer; what was said by then is kept."""
    talk: _Talk | None = None
    own = question.session if question.at is None else None
    name = own or sessions.fresh_name()
    try:
        async with kept.alone(name):
            conversation = await kept.begun(
                name, question.session, question.at, question.model, question.settings, question.system
            )
            talk = _Talk(asking, kept, conversation, question)
            yield event({"session": name, "text": talk.text}, "begin")
            async with contextlib.aclosing(talk.events(question.model)) as events:
                async for part in events:
                    yield part
    except Exception as error:
        kept_half = talk is not None and talk.kept
        yield event({"message": told(error, "/page/ask")["error"]["message"], "kept": kept_half}, "error")


class _Talk:
    """One question and what comes of it."""

    def __init__(self, asking: Asking, kept: Kept, conversation: Conversation, question: Question) -> None:
        self._asking, self._kept, self._conversation = asking, kept, conversation
        self._before, self._again = conversation.session, question.again
        self.text = (conversation.regenerate() or "") if question.again else question.text
        self.kept = False
        self._growing = Growing()
        self._waiting: list[str] = []

    async def events(self, model: str) -> AsyncGenerator[bytes, None]:
        options = dict(self._conversation.settings)
        if self._again:
            options["seed"] = None  # the same one would give the same answer again
        messages = [*self._conversation.messages, {"role": "user", "content": self.text}]
        running = await self._asking.begin(Ask(model, messages, options, route="page"))
        answer: Answer | None = None
        try:
            async with contextlib.aclosing(self._parts(running)) as parts:
                async for part, end in parts:
                    answer = end
                    yield part
        finally:
            await asyncio.shield(self._settle(running, answer))
        if answer is not None:
            yield event(self._end(answer, running), "end")

    async def _parts(self, running: Running) -> AsyncGenerator[tuple[bytes, Answer | None], None]:
        due = time.monotonic()
        async for _, got in running.events():
            if isinstance(got, Answer):
                yield await self._render(), got
                return
            self._waiting.append(got.text)
            begin = time.monotonic()
            if begin >= due and got.text:
                yield await self._render(), None
                now = time.monotonic()
                due = now + max(_FRAME_S, _CALM * (now - begin))

    async def _render(self) -> bytes:
        """In a thread: a long table or much code takes a while, and others wait for the event loop."""
        text = "".join(self._waiting)
        self._waiting.clear()
        settled, open_ = await asyncio.to_thread(self._growing.feed, text)
        return event({"settled": settled, "open": open_}, "text")

    async def _settle(self, running: Running, answer: Answer | None) -> None:
        """Give the place back, and keep what was said, however it ended."""
        await running.close()
        said = self._growing.source + "".join(self._waiting)
        reply = Turn("assistant", said, "cancelled")
        if answer is not None:
            reply = Turn("assistant", answer.text, answer.finish_reason, answer.token_ids)
        self.kept = self._conversation.take(self.text, reply)
        if not self.kept:
            self._conversation.restore(self._before)
        if self._conversation.spoken:
            await self._kept.save(self._conversation)

    def _end(self, answer: Answer, running: Running) -> dict[str, Any]:
        n_ctx = running.model.facts.n_ctx
        full = answer.stats.n_prompt + answer.stats.n_generated >= n_ctx
        remark = ("the context is full" if full else "cut off") if answer.finish_reason == "length" else ""
        return {
            "finish": answer.finish_reason,
            "remark": remark or ("" if answer.text else "an empty answer"),
            "timing": " · ".join(timing(answer.stats, n_ctx)),
            "at": len(self._conversation.turns) - 2,
            "notices": list(running.model.facts.notices),
        }
