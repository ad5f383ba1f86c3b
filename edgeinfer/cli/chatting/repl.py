"""The chat itself: read a message, answer it, save. Wires editor, commands, conversation and screen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeinfer import env, sessions
from edgeinfer.cli import Terminated, loading
from edgeinfer.cli.chatting import commands
from edgeinfer.cli.chatting.editor import Editor
from edgeinfer.cli.chatting.screen import Screen
from edgeinfer.conversation import Conversation, timing
from edgeinfer.errors import EdgeInferError
from edgeinfer.sessions import Session, Turn

if TYPE_CHECKING:
    from edgeinfer.core import Answer
    from edgeinfer.llm import LLM

__all__ = ["Repl"]

_JUST_ENDED_S = 1.0
_N_REMINDED = 4


class Repl:
    """One chat on this terminal. ``arguments`` are those of `LLM`, for when another model is opened."""

    def __init__(self, llm: LLM, model: str, arguments: Mapping[str, Any], session: Session) -> None:
        self.llm = llm
        self.model = model
        self.screen = Screen()
        self.conversation = Conversation(session, changed=self._autosave)
        self.last: Answer | None = None
        self.attached: list[str] = []
        self.leaving = False
        self._arguments = arguments
        self._save_failed = False
        self._unsaved = False
        self._ended = 0.0
        table = {f"/{name}": (command.help, command.follows) for name, command in commands.COMMANDS.items()}
        self._editor = Editor(table, env.data_dir() / "history")

    def run(self) -> None:
        """Chat until the user leaves. Raises KeyboardInterrupt when an answer was interrupted twice."""
        sessions.sweep()
        self._welcome()
        try:
            self._loop()
        finally:
            if self._unsaved:  # an interrupt came in the middle of saving
                self._autosave(self.conversation)
        self._farewell()

    def _loop(self) -> None:
        while not self.leaving:
            try:
                text = self._editor.read()
            except EOFError:
                break
            except KeyboardInterrupt as pressed:
                if isinstance(pressed, Terminated):
                    raise
                if self._meant_to_leave():
                    break
                self.screen.note("the answer had ended already; Ctrl-C once more leaves")
                continue
            if text.strip():
                self._take(text)

    def _meant_to_leave(self) -> bool:
        """A Ctrl-C that comes just after an answer ended by itself was meant to stop it."""
        late = time.monotonic() - self._ended < _JUST_ENDED_S
        self._ended = 0.0
        return not late

    def _take(self, text: str) -> None:
        self._ended = 0.0
        try:
            if not commands.run(self, text):
                self._send(text)
        except EdgeInferError as error:
            self.screen.error(str(error))
        except OSError as error:
            self.screen.error(f"{error.strerror}: {error.filename}")

    # ---- answers

    def _send(self, text: str) -> None:
        """Ask, with the files that were read along; they stay for another try when the answer is stopped."""
        try:
            if self.ask("\n\n".join([*self.attached, text])):
                self.attached.clear()
        except EdgeInferError:
            if self.attached:
                self.attached.clear()
                self.screen.note("files that were read no longer go with the next message")
            raise

    def ask(self, text: str) -> bool:
        """Answer ``text`` on the screen; false where no answer came of it. Raises as `LLM.stream`."""
        self.conversation.set_model(self.llm, self.model)
        try:
            stream = self.conversation.ask(self.llm, text)
        except KeyboardInterrupt as pressed:
            self._stopped(pressed)
            return False
        with stream:
            for line in stream.notices:
                self.screen.note(line)
            before = self.conversation.session
            try:
                answer = self.screen.draw(stream)
                kept = self.conversation.answered(text, answer)
            except BaseException:
                # Twice interrupted, terminated or failed: what was said so far is still the user's.
                if self.conversation.session is before:
                    self.conversation.take(text, Turn("assistant", stream.text, "cancelled"))
                raise
        self.last = answer
        self._after(answer, kept)
        return kept

    def _after(self, answer: Answer, kept: bool) -> None:
        if answer.finish_reason == "cancelled":
            self.screen.note("[stopped]" if kept else "[stopped before an answer began: the question is taken back]")
        else:
            self._ended = time.monotonic()
            if not answer.text:
                self.screen.note("[an empty answer]")
        stats = answer.stats
        if answer.finish_reason == "length":
            full = stats.n_prompt + stats.n_generated >= self.llm.n_ctx
            self.screen.note("[the context is full]" if full else "[cut off: /set max-tokens default lets it go on]")
        self.screen.note(_filled(timing(stats, self.llm.n_ctx), self.screen.width))

    # ---- the model

    def switch_model(self, name: str) -> None:
        """Go on with another model; with the old one where that fails."""
        try:
            loading.fetch(name)
        except KeyboardInterrupt as pressed:
            self._stopped(pressed)
            return
        self.llm.close()  # first, because there may not be room for two
        try:
            self.llm = loading.open_llm(name, self._arguments, spinner=True)
        except (EdgeInferError, KeyboardInterrupt) as failure:
            self.llm = loading.open_llm(self.model, self._arguments, spinner=True)
            self.screen.note(f"{self.model} stays")
            if isinstance(failure, KeyboardInterrupt):
                self._stopped(failure)
                return
            raise
        self.model = name
        self.conversation.set_model(self.llm, name)
        self._introduce()

    def _stopped(self, pressed: KeyboardInterrupt) -> None:
        if isinstance(pressed, Terminated):
            raise pressed
        self.screen.note("stopped")

    def close(self) -> None:
        self.llm.close()

    # ---- around the conversation

    def _welcome(self) -> None:
        self._introduce()
        if self._editor.problem:
            self.screen.note(self._editor.problem)
        if self.conversation.spoken:
            self.remind()

    def _introduce(self) -> None:
        self.screen.say(f"{self.llm.info.name} · context {self.llm.n_ctx} · /help for commands, Ctrl-D leaves", "bold")

    def remind(self) -> None:
        """Show where the conversation stands."""
        spoken = self.conversation.spoken
        self.screen.note(f"session {self.conversation.session.name}, {len(spoken)} messages")
        for turn in spoken[-_N_REMINDED:]:
            self.screen.brief(">" if turn.role == "user" else f"{turn.role}:", turn.content)
            if turn.finish == "cancelled":
                self.screen.note("[stopped]")

    def _autosave(self, conversation: Conversation) -> None:
        if not conversation.spoken and not sessions.exists(conversation.session.name):
            return
        self._unsaved = True
        try:
            conversation.save()
        except OSError as error:
            if not self._save_failed:
                self.screen.error(f"the conversation is not being saved: {error.strerror} ({error.filename})")
            self._save_failed = True
        else:
            self._unsaved = self._save_failed = False

    def _farewell(self) -> None:
        if self.conversation.spoken and not self._save_failed:
            name = self.conversation.session.name
            self.screen.note(f"saved as {name}; edgeinfer chat --continue goes on with it")


def _filled(parts: Sequence[str], width: int) -> str:
    """The parts with dots between them, in as few lines as they take."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(part)
    return "\n".join(lines)
