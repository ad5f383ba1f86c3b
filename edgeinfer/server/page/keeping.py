"""Conversations of the page: those of `edgeinfer.sessions`, read, changed and saved for it, one at a time each.

Blocking work goes to threads; knows no HTTP and no model."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from edgeinfer import sessions
from edgeinfer.conversation import Conversation, unnamed
from edgeinfer.errors import EdgeInferError
from edgeinfer.server.page.rendering import rendered
from edgeinfer.sessions import Session, Turn
from edgeinfer.text.printable import printable

__all__ = ["Kept"]


class Kept:
    """The conversations of whoever opens the page."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._listing, self._reading = sessions.Listing(), asyncio.Lock()

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Nobody else changes this conversation meanwhile; an answer under way is waited for."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            yield

    async def listing(self) -> list[dict[str, Any]]:
        """The newest conversations, each with a title."""
        async with self._reading:
            entries = await asyncio.to_thread(self._listing.newest)
        return [
            {"name": entry.name, "updated": entry.updated, "title": printable(entry.title), "problem": entry.problem}
            for entry in entries
        ]

    async def shown(self, name: str) -> dict[str, Any]:
        """A conversation as the page shows it. Raises as `sessions.load`."""
        return await asyncio.to_thread(lambda: _shown(sessions.load(name)))

    async def remove(self, name: str) -> None:
        """Delete a conversation. Raises `UsageError` where there is none of this name."""
        async with self.alone(name):
            await asyncio.to_thread(sessions.remove, name)

    async def begun(
        self, name: str, source: str | None, at: int | None, model: str, settings: dict[str, Any], system: str | None
    ) -> Conversation:
        """The conversation of this name, as it was saved as ``source`` (None: nowhere yet), up to its turn ``at``."""
        session = await asyncio.to_thread(sessions.load, source) if source else unnamed(model, {})
        if source != name:
            session = replace(session, name=name, created="", turns=session.turns[:at])
        conversation = Conversation(replace(session, model=model, settings={**session.settings, **settings}))
        if system is not None and system != (conversation.system or ""):
            conversation.set_system(system)
        return conversation

    @staticmethod
    async def save(conversation: Conversation) -> None:
        """Raises `EdgeInferError` where the disk does not take it."""
        try:
            await asyncio.to_thread(conversation.save)
        except OSError as error:
            raise EdgeInferError(f"the conversation is not being saved: {error.strerror or error}") from error


def _shown(session: Session) -> dict[str, Any]:
    settings = {name: value for name, value in session.settings.items() if isinstance(value, (int, float, str))}
    return {
        "name": session.name,
        "model": session.model,
        "settings": settings,
        "system": next((turn.content for turn in session.turns[:1] if turn.role == "system"), ""),
        "turns": [_turn(i, turn) for i, turn in enumerate(session.turns) if turn.role != "system"],
    }


def _turn(i: int, turn: Turn) -> dict[str, Any]:
    """``at`` is the turn's place in the session, which counts the system prompt too."""
    html = rendered(turn.content) if turn.role == "assistant" else None
    return {"at": i, "role": turn.role, "text": turn.content, "html": html, "finish": turn.finish}
