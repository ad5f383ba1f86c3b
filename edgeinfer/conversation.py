"""A conversation as it grows: turns, settings, its name and its file. Asks the LLM it is given; knows no terminal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer import files, sessions
from edgeinfer.core import Message
from edgeinfer.errors import EdgeInferError, TemplateError, UsageError
from edgeinfer.sessions import Session, Turn

if TYPE_CHECKING:
    from edgeinfer.core import Answer, GenerationStats
    from edgeinfer.llm import LLM, Stream

__all__ = ["Conversation", "named", "timing", "unnamed"]


def unnamed(model: str, settings: Mapping[str, Any], system: str | None = None) -> Session:
    """A conversation that nothing was said in yet; its name is today's date and time."""
    turns = (Turn("system", system),) if system else ()
    return Session(sessions.fresh_name(), model, turns, dict(settings))


def named(name: str, model: str, settings: Mapping[str, Any], system: str | None = None) -> Session:
    """The session of this name, created when new. Raises as `sessions.load`, except that it may be missing."""
    if sessions.exists(name):
        return sessions.load(name)
    return replace(unnamed(model, settings, system), name=sessions.path(name).stem)


def timing(stats: GenerationStats, n_ctx: int) -> list[str]:
    """What an answer cost, in the few words that stand under it."""
    parts = [
        f"first token {stats.ttft_s:.2f} s",
        f"{stats.decode_tps:.1f} tok/s",
        f"{stats.n_generated} tokens",
        f"reused {stats.n_reused}" + (" from disk" if stats.n_restored else ""),
        f"context {stats.n_prompt + stats.n_generated}/{n_ctx}",
    ]
    if stats.n_drafted:
        parts.append(f"accepted {stats.n_accepted}/{stats.n_drafted} drafted, gain {stats.draft_gain:.2f}x")
    return parts


class Conversation:
    """One session and what can be done with it. ``changed`` is called after every change, for whoever saves."""

    def __init__(self, session: Session, changed: Callable[[Conversation], None] = lambda _: None) -> None:
        self.session = session
        self._changed = changed
        self._n_regenerated = 0
        self._exported: set[Path] = set()
        self._recalled: tuple[object, ...] = ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        return self.session.turns

    @property
    def settings(self) -> Mapping[str, Any]:
        """Options of a request, by their names there."""
        return self.session.settings

    @property
    def system(self) -> str | None:
        return self.turns[0].content if self.turns and self.turns[0].role == "system" else None

    @property
    def spoken(self) -> tuple[Turn, ...]:
        """The turns without the system prompt."""
        return self.turns[1 if self.system is not None else 0 :]

    @property
    def messages(self) -> list[Message]:
        return [turn.message for turn in self.turns]

    # ---- asking

    def ask(self, llm: LLM, text: str) -> Stream:
        """Begin to answer ``text``. It joins the conversation together with its answer, in `answered`."""
        seed = self.settings.get("seed")
        options = dict(self.settings)
        self.recall(llm)
        if seed is not None and self._n_regenerated:
            options["seed"] = (seed + self._n_regenerated) % 2**64  # the same seed would give the same answer again
        return llm.stream([*self.messages, {"role": "user", "content": text}], **options)

    def recall(self, llm: LLM) -> None:
        """Have the model spell its earlier answers as it did then, once for each session and model."""
        now = (llm, self.session.name)
        if self._recalled == now:
            return
        self._recalled = now
        for i, turn in enumerate(self.turns):
            if turn.token_ids and i:  # only what the template writes before the answer matters, not the whole history
                with contextlib.suppress(TemplateError):
                    llm.remember(self.messages[i - 1 : i + 1], turn.token_ids)

    def answered(self, text: str, answer: Answer) -> bool:
        """Take the question and its answer, even half of one; false, taking nothing, where no text came at all."""
        return self.take(text, Turn("assistant", answer.text, answer.finish_reason, answer.token_ids))

    def take(self, text: str, reply: Turn) -> bool:
        if not reply.content and reply.finish == "cancelled":
            return False
        self._replace(turns=(*self.turns, Turn("user", text), reply))
        return True

    def undo(self) -> str | None:
        """Take back the last question with its answer; returns the question, None when there is none."""
        asked = [i for i, turn in enumerate(self.turns) if turn.role == "user"]
        if not asked:
            return None
        question = self.turns[asked[-1]].content
        self._replace(turns=self.turns[: asked[-1]])
        return question

    def regenerate(self) -> str | None:
        """`undo`, to ask the same again and get another answer. `restore` brings back what is lost if none comes."""
        self._n_regenerated += 1
        return self.undo()

    def restore(self, session: Session) -> None:
        """Back to an earlier state."""
        self.session = session
        self._changed(self)

    # ---- settings

    def set_system(self, text: str) -> None:
        """Another system prompt, from the next answer on; none where ``text`` is empty."""
        self._replace(turns=((Turn("system", text), *self.spoken) if text else self.spoken))

    def set_option(self, name: str, value: Any) -> None:
        self._replace(settings={**self.settings, name: value})

    def set_model(self, llm: LLM, name: str) -> None:
        """Record which model answers from now on."""
        self.session = replace(self.session, model=name, model_bytes=llm.info.file_bytes)

    # ---- files

    def save(self, name: str | None = None) -> None:
        """Write the session, under another name if one is given. Raises `UsageError` for a name that is taken."""
        if name and name != self.session.name:
            if sessions.path(name).exists():
                raise UsageError(f"there is a session {name!r} already; choose another name, or /load {name}")
            self.session = replace(self.session, name=name, created="")
        sessions.save(self.session)

    def load(self, name: str) -> None:
        """Go on with another session; this one stays as it was saved. Raises as `sessions.load`."""
        self.session = sessions.load(name)
        self._n_regenerated = 0

    def clear(self) -> None:
        """Begin anew with the same system prompt, settings and model."""
        self.session = replace(
            self.session, name=sessions.fresh_name(), turns=self.turns[: len(self.turns) - len(self.spoken)], created=""
        )
        self._n_regenerated = 0

    def export(self, path: Path) -> None:
        """Write the conversation as markdown or JSON, by the file's suffix. Raises `UsageError` for another suffix and
        for a file that is there and is not an earlier export of this conversation."""
        if path.suffix not in (".md", ".json"):
            raise UsageError(f"{path} is neither .md nor .json")
        if path.exists() and path not in self._exported:
            raise UsageError(f"{path} is there already; choose another name")
        text = self._as_markdown() if path.suffix == ".md" else self._as_json()
        try:
            files.atomic_write(path, text.encode("utf-8", "replace"))
        except OSError as error:
            raise EdgeInferError(f"cannot write {path}: {error.strerror}") from error
        self._exported.add(path)

    def _as_markdown(self) -> str:
        parts = [f"# {self.session.name} ({self.session.model})"]
        for turn in self.turns:
            mark = " (stopped)" if turn.finish == "cancelled" else ""
            parts.append(f"## {turn.role.capitalize()}{mark}\n\n{turn.content}")
        return "\n\n".join(parts) + "\n"

    def _as_json(self) -> str:
        turns = [{**turn.message, **({"finish": turn.finish} if turn.finish else {})} for turn in self.turns]
        document = {"name": self.session.name, "model": self.session.model, "messages": turns}
        return json.dumps(document, ensure_ascii=False, indent=2) + "\n"

    def _replace(self, **fields: Any) -> None:
        self.session = replace(self.session, **fields)
        self._changed(self)
