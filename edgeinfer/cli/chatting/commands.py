"""The slash commands: a table of names, helps and functions of the chat and what was typed after the name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edgeinfer import sessions
from edgeinfer.cli import did_you_mean, options, settings
from edgeinfer.core import Grammar, SamplingParams
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.cli.chatting.screen import Screen
    from edgeinfer.conversation import Conversation
    from edgeinfer.core import Answer
    from edgeinfer.llm import LLM

__all__ = ["COMMANDS", "Chat", "SlashCommand", "run"]

_COMMAND = re.compile(r"/([a-z]+|\?)(?:\s+(.*))?$", re.DOTALL)
_MAX_READ = 16 << 20


class Chat(Protocol):
    """What a command may use of the chat."""

    conversation: Conversation
    screen: Screen
    llm: LLM
    model: str
    last: Answer | None
    attached: list[str]
    leaving: bool

    def ask(self, text: str) -> bool: ...
    def switch_model(self, name: str) -> None: ...
    def remind(self) -> None: ...


class SlashCommand(NamedTuple):
    """``follows``: what may come after the name, for completion: ``"path"``, a function that lists words, or None."""

    usage: str
    help: str
    run: Callable[[Chat, str], None]
    follows: Callable[[], Iterable[str]] | str | None = None


def run(chat: Chat, text: str) -> bool:
    """Run ``text`` if it is a command; false if it is a message. Raises `UsageError` for a command that is unknown, and
    whatever the command does."""
    match = _COMMAND.fullmatch(text.strip())
    if not match:
        return False
    name = _ALIASES.get(match[1], match[1])
    if name not in COMMANDS:
        known = did_you_mean(name, COMMANDS) if len(name) > 1 else ""
        raise UsageError(f"no command /{name}{known if 'did you mean' in known else ''} (/help lists them)")
    COMMANDS[name].run(chat, (match[2] or "").strip())
    return True


def _help(chat: Chat, _: str) -> None:
    wide = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        if chat.screen.width > wide + 30:
            chat.screen.say(f"{command.usage:{wide}}  {command.help}")
        else:
            chat.screen.say(command.usage)
            chat.screen.note(f"  {command.help}")
    chat.screen.note(
        'Several lines: """ … """, a \\ at the end of a line, Alt-Enter, or paste. Ctrl-C stops an answer; '
        "Ctrl-C or Ctrl-D on an empty line leaves."
    )


def _exit(chat: Chat, _: str) -> None:
    chat.leaving = True


def _clear(chat: Chat, _: str) -> None:
    saved = chat.conversation.session.name if chat.conversation.spoken else None
    chat.conversation.clear()
    chat.attached.clear()
    chat.screen.note("a new conversation" + (f"; the last one is saved as {saved}" if saved else ""))


def _system(chat: Chat, text: str) -> None:
    if text:
        chat.conversation.set_system("" if text == "-" else text)
        chat.screen.note("no system prompt from now on" if text == "-" else "system prompt set")
    else:
        chat.screen.say(chat.conversation.system or "no system prompt; /system TEXT sets one")


def _model(chat: Chat, name: str) -> None:
    if name:
        chat.switch_model(name)
        return
    info = chat.llm.info
    chat.screen.say(
        f"{info.name}: {info.architecture}, {info.n_params / 1e6:.0f} M parameters, "
        f"{info.bits_per_weight:.1f} bits a weight, context {chat.llm.n_ctx} of {info.n_ctx_train}"
    )
    chat.screen.note(info.path)


def _set(chat: Chat, text: str) -> None:
    key, _, value = text.partition(" ")
    if not key:
        _show_settings(chat)
        return
    if not value.strip():
        raise UsageError(f"give a value: /set {key} VALUE ('default' for the default)")
    field, parsed = settings.setting(key, value.strip())
    chat.conversation.set_option(field, parsed)
    chat.screen.note(f"{key} is now {_shown(parsed)}")


def _show_settings(chat: Chat) -> None:
    defaults = SamplingParams()
    for name in settings.setting_names():
        if name in ("json-schema", "regex"):
            continue  # these are all the one grammar
        field, default = settings.setting(name, "default")
        value = chat.conversation.settings.get(field, getattr(defaults, field, default))
        chat.screen.say(f"{name:18} {_shown(value)}", "" if value != default else "dim")


def _shown(value: object) -> str:
    if isinstance(value, Grammar):
        return f"{value.kind}: {' '.join(value.source.split())[:60]}"
    if isinstance(value, tuple):
        return ", ".join(map(repr, value)) or "none"
    return str(value) if value not in (None, {}) else "none"


def _stats(chat: Chat, _: str) -> None:
    session = chat.conversation.session
    n_answers = sum(turn.role == "assistant" for turn in session.turns)
    chat.screen.say(f"session {session.name}: {len(chat.conversation.spoken)} messages, {n_answers} answers")
    if session.turns:
        n_tokens = chat.llm.count_tokens(chat.conversation.messages)
        chat.screen.say(f"context {n_tokens} of {chat.llm.n_ctx} tokens ({n_tokens / chat.llm.n_ctx:.0%})")
    if chat.last:
        stats = chat.last.stats
        chat.screen.say(
            f"last answer: {stats.n_prompt} prompt tokens of which {stats.n_reused} reused, "
            f"{stats.n_generated} generated; first token after {stats.ttft_s:.2f} s, "
            f"prefill {stats.prefill_tps:.0f} tok/s, decode {stats.decode_tps:.1f} tok/s"
        )
        if stats.n_drafted:
            chat.screen.say(
                f"drafts: {stats.n_drafted} tokens in {stats.n_rounds} rounds, {stats.n_accepted} accepted; "
                f"{stats.draft_gain:.2f} times as fast as without"
            )
    plan = chat.llm.plan
    if plan:
        mib = [n_bytes / 2**20 for n_bytes in (plan.total_bytes, plan.weights_bytes, plan.kv_bytes)]
        chat.screen.say(f"memory {mib[0]:.0f} MiB: weights {mib[1]:.0f}, KV cache {mib[2]:.0f}, the rest scratch")


def _save(chat: Chat, name: str) -> None:
    chat.conversation.save(name or None)
    saved = chat.conversation.session.name
    chat.screen.note(f"saved as {saved}; edgeinfer chat --session {saved} goes on with it")


def _load(chat: Chat, name: str) -> None:
    if not name:
        raise UsageError("give a name: /load NAME")
    chat.conversation.load(name)
    chat.remind()
    if chat.conversation.session.model != chat.model:
        chat.screen.note(
            f"this was a conversation with {chat.conversation.session.model}; {chat.model} goes on with it"
        )


def _undo(chat: Chat, _: str) -> None:
    question = chat.conversation.undo()
    if question is None:
        raise UsageError("there is nothing to take back")
    chat.screen.brief("taken back:", question, 1)


def _regen(chat: Chat, _: str) -> None:
    before = chat.conversation.session
    question = chat.conversation.regenerate()
    if question is None:
        raise UsageError("there is nothing to answer again")
    if chat.conversation.settings.get("temperature") == 0:
        chat.screen.note("the temperature is 0: the same question has the same answer")
    if not chat.ask(question):
        chat.conversation.restore(before)


def _read(chat: Chat, name: str) -> None:
    if not name:
        raise UsageError("give a file: /read FILE")
    path = Path(name).expanduser()
    text = options.read_text(path, "file", _MAX_READ)
    n_tokens = chat.llm.count_tokens(text)
    if n_tokens >= chat.llm.n_ctx:
        raise UsageError(f"{path} has {n_tokens} tokens but the context holds {chat.llm.n_ctx}")
    chat.attached.append(f"{path.name}:\n\n{text}")
    chat.screen.note(f"{path.name} ({n_tokens} tokens) goes with your next message")


def _export(chat: Chat, name: str) -> None:
    if not name:
        raise UsageError("give a file: /export FILE.md or /export FILE.json")
    chat.conversation.export(Path(name).expanduser())
    chat.screen.note(f"written to {name}")


def _session_names() -> list[str]:
    return sorted(name for name, _ in sessions.stamps())


def _model_names() -> list[str]:
    from edgeinfer import catalog

    return list(catalog.cards())


def _setting_words() -> list[str]:
    return [f"{name} " for name in settings.setting_names()]


COMMANDS: dict[str, SlashCommand] = {
    "help": SlashCommand("/help", "this list", _help),
    "exit": SlashCommand("/exit", "leave; the conversation is saved", _exit),
    "clear": SlashCommand("/clear", "begin a new conversation", _clear),
    "system": SlashCommand("/system [TEXT]", "show or set the system prompt (- for none)", _system),
    "model": SlashCommand("/model [NAME]", "show the model, or go on with another", _model, _model_names),
    "set": SlashCommand("/set [KEY VALUE]", "show or change settings, such as temp 0.2", _set, _setting_words),
    "stats": SlashCommand("/stats", "tokens, speed and memory", _stats),
    "save": SlashCommand("/save [NAME]", "name this conversation", _save, _session_names),
    "load": SlashCommand("/load NAME", "go on with another conversation", _load, _session_names),
    "undo": SlashCommand("/undo", "take back the last question and its answer", _undo),
    "regen": SlashCommand("/regen", "answer the last question again", _regen),
    "read": SlashCommand("/read FILE", "send a text file along with the next message", _read, "path"),
    "export": SlashCommand("/export FILE", "write the conversation as .md or .json", _export, "path"),
}
_ALIASES = {"quit": "exit", "bye": "exit", "q": "exit", "?": "help", "h": "help", "new": "clear", "reset": "clear"}
