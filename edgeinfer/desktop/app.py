"""The application: its flags, its event loop, its end."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeinfer import cli
from edgeinfer.cli import options
from edgeinfer.cli.flags import Command, flag
from edgeinfer.errors import BackendUnavailable, EdgeInferError

if TYPE_CHECKING:
    from edgeinfer.core import Answer
    from edgeinfer.sessions import Session

__all__ = ["command", "main", "need_qt"]

_INSTALL = "pip install 'edgeinfer[desktop]'"


@click.command("desktop", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@flag("-p", "--prompt", metavar="TEXT", section="Conversation", help="Ask this as soon as the model is there.")
@flag("--once", is_flag=True, section="Conversation", help="With -p: leave after that answer, and print it.")
@flag("--continue", "resume", is_flag=True, section="Conversation", help="Go on with the latest conversation.")
@flag("--session", metavar="NAME", section="Conversation", help="Go on with this conversation, or begin it.")
@options.model_flags
@options.sampling_flags
@options.json_flag
@options.debug_flag
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Chat with a model in a window.

    \b
      python -m edgeinfer.desktop
      python -m edgeinfer.desktop -m qwen2.5-coder-1.5b --draft auto
    """
    need_qt()
    given = {name for name in flags if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return _run(flags, _session(flags, given))


def main(args: Sequence[str] | None = None) -> int:
    """Run the application; returns its exit code, which means what the command line's does."""
    return cli.run(command, "edgeinfer-desktop", list(sys.argv[1:] if args is None else args))


def need_qt() -> None:
    """Raises `BackendUnavailable` where Qt is missing or cannot be used."""
    try:
        import PySide6
        from PySide6.QtCore import QPoint
    except ImportError as error:
        raise BackendUnavailable(f"the window needs Qt ({error}): {_INSTALL}") from error
    if sys.version_info >= (3, 12):
        return
    # Each method without a result gives away a reference to None that it does not own (seen in 6.12.0). Before Python
    # 3.12 that ends the process after some thousand calls.
    point, before = QPoint(), sys.getrefcount(None)
    for _ in range(64):
        point.setX(1)
    if before - sys.getrefcount(None) > 32:
        raise BackendUnavailable(
            f"PySide6 {PySide6.__version__} is faulty under Python {sys.version_info[0]}.{sys.version_info[1]}; "
            "take another: pip install 'PySide6-Essentials<6.12'"
        )


def _session(flags: dict[str, Any], given: set[str]) -> Session:
    from edgeinfer.cli.chat import session_of

    return session_of({**flags, "system": None}, given)


def _run(flags: dict[str, Any], session: Session) -> int:
    from PySide6.QtWidgets import QApplication

    from edgeinfer.desktop.window import Window
    from edgeinfer.llm import LLM

    application = QApplication.instance() or QApplication([sys.argv[0]])
    if not isinstance(application, QApplication):
        raise BackendUnavailable("this process has a Qt application already, without windows")
    application.setApplicationName("edgeinfer")
    application.setStyle("Fusion")
    window = Window(LLM, options.llm_arguments(flags), session)
    outcome: list[Answer | EdgeInferError] = []
    if flags["prompt"]:
        if flags["once"]:
            window.answered.connect(outcome.append)
            window.answered.connect(window.close)
        window.ask(flags["prompt"])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: window.close())  # heard within a second: Qt's loop runs a timer of ours
    window.show()
    application.exec()
    notices = window.llm.notices if window.llm is not None else ()
    window.finish()
    return _told(outcome[-1], notices, flags["as_json"]) if outcome else 0


def _told(outcome: Answer | EdgeInferError, notices: Sequence[str], as_json: bool) -> int:
    """Print the answer of ``--once``, where there is somewhere to print."""
    if isinstance(outcome, EdgeInferError):
        raise outcome
    if sys.stdout is not None:
        stats = dataclasses.asdict(outcome.stats)
        document = {"text": outcome.text, "finish_reason": outcome.finish_reason, "stats": stats, "notices": notices}
        print(json.dumps(document) if as_json else outcome.text, flush=True)
    return 0
