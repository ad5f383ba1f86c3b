"""``edgeinfer chat``: talk with a model on a terminal, or answer one prompt in a script."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeinfer.cli import options
from edgeinfer.cli.flags import Command, flag
from edgeinfer.cli.settings import field_of
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.sessions import Session

__all__ = ["command", "session_of"]

_SESSION = "Conversation"


@click.command("chat", cls=Command)
@options.prompt_flags
@flag("-sys", "--system", metavar="TEXT", section="Prompt", help="System prompt.")
@flag("--continue", "resume", is_flag=True, section=_SESSION, help="Go on with the latest conversation.")
@flag("--session", metavar="NAME", section=_SESSION, help="Go on with this conversation, or begin it.")
@flag("--list-sessions", is_flag=True, section=_SESSION, help="List conversations and exit.")
@options.model_flags
@options.sampling_flags
@options.json_flag
@options.debug_flag
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Chat with a model; with -p, -f or something on standard input, answer once.

    A single answer goes to standard output alone, everything else to standard error. Without a model on this machine
    the first run fetches the default one.

    \b
      edgeinfer chat
      edgeinfer chat -p "What is a Raspberry Pi?" -n 100
      git diff | edgeinfer chat -p "Explain this change" --temp 0
    """
    from edgeinfer.cli import oneshot

    if flags["list_sessions"]:
        _list_sessions(flags["as_json"])
        return
    prompt = oneshot.read_prompt(flags)
    if prompt is None and flags["as_json"]:
        raise UsageError("--json needs a prompt; give one with -p TEXT, -f FILE or on standard input")
    if prompt is None and not sys.stdout.isatty():
        raise UsageError("a chat needs a terminal for its output; give a prompt with -p TEXT for a single answer")
    given = {name for name in flags if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    session = session_of(flags, given)
    if prompt is None:
        _interactive(flags, session)
    else:
        _once(flags, session, prompt)


def session_of(flags: Mapping[str, Any], given: set[str]) -> Session:
    """The conversation to go on with, or a new one. What it was left with (model, settings, system prompt) stays,
    except for what is given on the command line."""
    from edgeinfer import catalog, sessions
    from edgeinfer.conversation import Conversation, named, unnamed

    settings = {**options.sampling_arguments(flags), "on_overflow": flags["on_overflow"]}
    model = flags["model"] or catalog.DEFAULT_MODEL
    name = flags["session"]
    if flags["resume"] and name:
        raise UsageError("--continue and --session cannot be used together")
    if flags["resume"]:
        name = sessions.newest()
        if name is None:
            raise UsageError("there is no conversation to go on with; start one without --continue")
    if name is None:
        return unnamed(model, settings, flags["system"])
    session = named(name, model, settings, flags["system"])
    fields = {field for flag in given if (field := field_of(flag))}
    session = replace(session, settings={**session.settings, **{field: settings[field] for field in fields}})
    if "model" in given:
        session = replace(session, model=model)
    if "system" in given:
        conversation = Conversation(session)
        conversation.set_system(flags["system"])
        session = conversation.session
    return session


def _interactive(flags: Mapping[str, Any], session: Session) -> None:
    from edgeinfer.cli import loading

    arguments = options.llm_arguments(flags)
    llm = loading.open_llm(session.model, arguments, spinner=True)
    try:
        from edgeinfer.cli.chatting.repl import Repl
        from edgeinfer.cli.chatting.screen import terminal_restored

        repl = Repl(llm, session.model, arguments, session)
    except BaseException:
        llm.close()
        raise
    try:
        with terminal_restored():
            repl.run()
    finally:
        repl.close()


def _once(flags: Mapping[str, Any], session: Session, prompt: str) -> None:
    from edgeinfer.cli import loading, oneshot
    from edgeinfer.conversation import Conversation
    from edgeinfer.sessions import Turn

    conversation = Conversation(session)
    kept = flags["resume"] or flags["session"]

    def stopped(text: str) -> None:
        if kept and conversation.take(prompt, Turn("assistant", text, "cancelled")):
            conversation.save()

    with loading.open_llm(session.model, options.llm_arguments(flags)) as llm:
        conversation.recall(llm)
        messages = [*conversation.messages, {"role": "user", "content": prompt}]
        answer = oneshot.answer(llm, messages, conversation.settings, as_json=flags["as_json"], stopped=stopped)
        conversation.set_model(llm, session.model)
    if kept and conversation.answered(prompt, answer):
        conversation.save()


def _list_sessions(as_json: bool) -> None:
    from edgeinfer import sessions
    from edgeinfer.text.printable import printable

    entries = sessions.listing()
    if as_json:
        rows = [
            {
                "name": entry.name,
                "updated": entry.updated,
                "model": entry.session and entry.session.model,
                "n_messages": len(entry.session.turns) if entry.session else None,
                "problem": entry.problem,
            }
            for entry in entries
        ]
        click.echo(json.dumps({"sessions": rows}))
        return
    if not entries:
        print("no conversations yet", file=sys.stderr)
    # On a terminal a line stays one line: what is cut is the end of a question.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.updated))
        about = entry.problem or _about(entry.session)
        line = printable(" ".join(f"{entry.name:{width}}  {when}  {about}".split("\n")))
        click.echo(line if columns is None or len(line) <= columns else line[: columns - 1] + "…")


def _about(session: Session | None) -> str:
    if session is None:
        return ""
    first = next((turn.content for turn in session.turns if turn.role == "user"), "")
    return f"{len(session.turns):3} messages  {session.model}  {' '.join(first.split())[:60]}"
