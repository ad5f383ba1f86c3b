"""The command line: one module a subcommand, loaded when asked for. `main` makes one line and a code of any error.

Exit codes: 0 done, 1 failed, 2 usage, 3 does not fit in memory, 4 model not found, 5 device or provider not available,
6 finished with failed rows, 130 interrupted, 143 terminated, 141 when whoever read the output has gone (what a shell
reports for SIGPIPE).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from edgeinfer import __version__, env
from edgeinfer.errors import EdgeInferError

__all__ = ["Terminated", "cli", "main", "run"]

COMMANDS: dict[str, tuple[str, str]] = {
    "chat": ("edgeinfer.cli.chat:command", "Chat with a model; with -p or a pipe, answer once."),
    "generate": ("edgeinfer.cli.generate:command", "Continue a text as it stands, without a chat template."),
    "batch": ("edgeinfer.cli.batch:command", "Answer the rows of a file; go on after anything."),
    "report": ("edgeinfer.cli.report:command", "Say what batch jobs cost; compare two."),
    "serve": ("edgeinfer.cli.serve:command", "Serve models over HTTP, as OpenAI's and Anthropic's APIs."),
    "models": ("edgeinfer.cli.models:command", "List, pull, show, verify and remove models."),
    "cache": ("edgeinfer.cli.cache:command", "List, measure and clear the saved states of conversations."),
    "bench": ("edgeinfer.cli.bench:command", "Measure prefill and decode speed."),
    "verify": ("edgeinfer.cli.verify:command", "Prove that two models, formats, devices or kernels agree."),
    "evaluate": ("edgeinfer.cli.evaluate:command", "Measure what builds of a model are worth, with gates for CI."),
    "tune": ("edgeinfer.cli.tune:command", "Find the best thread counts for this machine, and remember them."),
    "convert": ("edgeinfer.cli.convert:command", "Convert a model from one format to another."),
    "quantize": ("edgeinfer.cli.quantize:command", "Write a GGUF model with its weights in fewer bits."),
    "doctor": ("edgeinfer.cli.doctor:command", "Say what this machine is, what it can do, and what is missing."),
}
"""Subcommand -> (module:attribute, its line of help). The lines are here so that the list of commands loads none."""

CLOSED_PIPE = 141


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds like Ctrl-C, but nothing may carry on after it."""


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is used, and gives it the user's config file as defaults."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}", ctx)
        name, command, rest = super().resolve_command(ctx, args)
        if name and command and not ctx.resilient_parsing and not {"-h", "--help"} & set(rest):
            from edgeinfer.cli import config

            ctx.default_map = {name: config.defaults(name, command, tuple(COMMANDS))}
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def did_you_mean(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    """``; did you mean 'chat'?`` where something known is close, else what is known."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "; there are: " + ", ".join(known)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each flag has a variable EDGEINFER_… and a key in config.toml: flag > variable > file > default.",
)
@click.version_option(__version__, "--version", "-V", prog_name="edgeinfer", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails (EDGEINFER_DEBUG=1).")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Language models on the machines people own: chat, generate, measure; offline."""
    if debug:
        os.environ["EDGEINFER_DEBUG"] = "1"
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code. The only place that catches what goes wrong."""
    with _signals():
        code = run(cli, "edgeinfer", sys.argv[1:] if args is None else list(args))
        if args is None and code in (130, 143):
            # Whoever interrupts wants out now: nothing is left to tidy but threads that may be deep in a model's file.
            os._exit(_flush(code))
        return _flush(code)


def run(command: click.Command, name: str, args: list[str]) -> int:
    """Run a command under that name; returns its exit code, and says on one line whatever goes wrong."""
    try:
        _prepare_output()
        instruction = env.variable("_EDGEINFER_COMPLETE")
        if instruction:
            from click.shell_completion import shell_complete

            return shell_complete(cli, {}, "edgeinfer", "_EDGEINFER_COMPLETE", instruction)
        with command.make_context(name, args) as ctx:
            result = command.invoke(ctx)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leaving:
        return int(leaving.exit_code)
    except click.ClickException as wrong:
        return _fail(_click_message(wrong), wrong.exit_code, wrong)
    except EdgeInferError as failure:
        return _fail(str(failure), failure.exit_code, failure)
    except Terminated as ended:
        return _fail("terminated", 143, ended)
    except (KeyboardInterrupt, click.Abort) as stopped:
        return _fail("interrupted", 130, stopped)
    except BrokenPipeError:
        return CLOSED_PIPE
    except Exception as bug:
        return _fail(f"{_described(bug)} (run again with EDGEINFER_DEBUG=1 for the traceback)", 1, bug)


def _described(bug: Exception) -> str:
    if isinstance(bug, OSError) and bug.strerror:
        return f"{bug.strerror}: {bug.filename}" if bug.filename else bug.strerror
    if isinstance(bug, MemoryError):
        return "out of memory"
    return f"this is a bug in edgeinfer: {type(bug).__name__}: {bug}"


def _fail(message: str, code: int, error: BaseException) -> int:
    """Say on one line what went wrong; the traceback only where it was asked for."""
    from edgeinfer.text.printable import printable

    if env.debug() and not isinstance(error, KeyboardInterrupt):
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    line = printable(" ".join(message.split()))
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed too
        print(f"edgeinfer: error: {line}" if code not in (130, 143) else f"edgeinfer: {line}", file=sys.stderr)
    return code


def _click_message(wrong: click.ClickException) -> str:
    """click's message in our form, with where the value came from and where the help is."""
    ctx = getattr(wrong, "ctx", None)
    message = _unknown_option(wrong) if isinstance(wrong, click.NoSuchOption) else wrong.format_message().strip()
    message = (message[:1].lower() + message[1:]).rstrip(".")
    param = getattr(wrong, "param", None)
    if ctx is not None and param is not None and param.name:
        source = ctx.get_parameter_source(param.name)
        if source is ParameterSource.DEFAULT_MAP:
            message += f" (from {env.config_file()})"
        elif source is ParameterSource.ENVIRONMENT:
            message += f" (from the variable {param.envvar})"
    path = ctx.command_path if ctx is not None else "edgeinfer"
    return f"{message} (see '{path} --help')"


def _unknown_option(wrong: click.NoSuchOption) -> str:
    known = [name for param in wrong.ctx.command.get_params(wrong.ctx) for name in param.opts] if wrong.ctx else []
    close = did_you_mean(wrong.option_name, [name for name in known if name.startswith("--")])
    return f"no such option {wrong.option_name!r}" + (close if "did you mean" in close else "")


def _prepare_output() -> None:
    """UTF-8 in a pipe on every platform; a terminal that lacks a character gets an escape instead of a crash."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure and stream.isatty():
            reconfigure(errors="backslashreplace")
        elif reconfigure:
            reconfigure(encoding="utf-8", errors="backslashreplace")


def _flush(code: int) -> int:
    """Write out what is buffered, so that the interpreter does not complain at its end that the reader has gone."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
            continue
        except BrokenPipeError:
            code = code or CLOSED_PIPE
        except OSError as error:
            code = code or _fail(_described(error), 1, error)
        except ValueError:  # closed already
            continue
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return code


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM unwinds the program like Ctrl-C does. Only the main thread may say so; elsewhere nothing changes."""
    unraisable = sys.unraisablehook

    def terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        raise Terminated

    def again(lost: sys.UnraisableHookArgs) -> None:
        """The signal came inside a finalizer or a callback from C, where Python drops exceptions."""
        if isinstance(lost.exc_value, Terminated):
            threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGTERM]).start()
        else:
            unraisable(lost)

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:
        yield
        return
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGTERM, before)
