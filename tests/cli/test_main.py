"""The command line as a whole: exit codes, one line for every error, nothing heavy for help."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

import edgeinfer.cli
from edgeinfer.cli import main
from edgeinfer.errors import BackendUnavailable, EdgeInferError, InsufficientMemory, ModelNotFound

EDGEINFER = [sys.executable, "-m", "edgeinfer"]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    """A subcommand ``fail`` that raises what `failing.error` holds."""

    class Holder(Exception):
        error: BaseException = RuntimeError()

    @click.command()
    def command() -> None:
        raise Holder.error

    module = ModuleType("failing_command")
    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "failing_command", module)
    monkeypatch.setitem(edgeinfer.cli.COMMANDS, "fail", ("failing_command:command", "Fails."))
    return Holder


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelNotFound("no model 'x'"), 4, "edgeinfer: error: no model 'x'"),
        (InsufficientMemory("too big"), 3, "edgeinfer: error: too big"),
        (BackendUnavailable("no CUDA"), 5, "edgeinfer: error: no CUDA"),
        (EdgeInferError("two\nlines \x1b[31m"), 1, "edgeinfer: error: two lines \\x1b[31m"),
        (KeyboardInterrupt(), 130, "edgeinfer: interrupted"),
        (edgeinfer.cli.Terminated(), 143, "edgeinfer: terminated"),
        (OSError(28, "No space left on device", "/x"), 1, "edgeinfer: error: No space left on device: /x (run again"),
        (
            KeyError("k"),
            1,
            "edgeinfer: error: this is a bug in edgeinfer: KeyError: 'k' (run again with EDGEINFER_DEBUG=1",
        ),
        (MemoryError(), 1, "edgeinfer: error: out of memory"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_an_error_is_one_line_and_a_code(
    failing: type[BaseException], capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    failing.error = error  # type: ignore[attr-defined]
    assert main(["fail"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == (1 if line else 0)


def test_debug_shows_the_traceback(
    failing: type[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing.error = ValueError("odd")  # type: ignore[attr-defined]
    monkeypatch.setenv("EDGEINFER_DEBUG", "0")
    assert main(["--debug", "fail"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["caht"], "no command 'caht'; did you mean 'chat'"),
        (["chat", "--tempp", "1"], "no such option '--tempp'; did you mean '--temp'"),
        (["chat", "--xyzzy"], "no such option '--xyzzy' (see 'edgeinfer chat --help')"),
        (["chat", "-c", "x"], "invalid value for '-c' / '--ctx-size': 'x' is not a valid whole number (see"),
        (["chat", "-c", "0"], "0 is not in the range x>=1"),
        (["chat", "-n", "0"], "0 must be at least 1 (-1: no limit)"),
        (["chat", "--top-p", "1.5"], "1.5"),
        (["chat", "-p", "x", "--temp", "nan"], "temperature is nan"),
        (["chat", "--memory", "2Q"], "write it like 2G"),
        (["chat", "--logit-bias", "x"], "123=-4.5"),
        (["chat", "--kv-type", "f8"], "'f8' is not one of"),
        (["chat", "--seed", "18446744073709551616"], "18446744073709551615"),
        (["chat", "--json-schema", "/nonexistent"], "does not exist"),
        (["chat", "-p", "x", "--regex", "a", "--grammar", __file__], "only one of"),
        (["chat", "-p", "x", "--session", "../x"], "session name '../x' is not usable"),
        (["chat", "-p", "x", "--continue", "--session", "x"], "cannot be used together"),
        (["chat", "-p", "x", "--continue"], "no conversation to go on with"),
        (["chat", "-p", ""], "the prompt is empty"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.startswith("edgeinfer: error: ")
    assert err.count("\n") == 1
    assert out == ""


def test_no_arguments_show_the_help() -> None:
    done = subprocess.run(EDGEINFER, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize("group", ["models", "cache"])
def test_a_group_alone_shows_its_help(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It was one line of error with the whole help in it; and no line of the help is cut."""
    assert main([group]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "\nCommands:\n" in err
    assert "error" not in err
    assert "..." not in err.partition("Commands:")[2]


@pytest.mark.parametrize("name", ["chat", "bench", "verify"])
def test_what_all_commands_have_comes_last_in_the_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """bench showed --help in the middle."""
    assert main([name, "--help"]) == 0
    headings = [line for line in capsys.readouterr().out.splitlines() if line[:1].isalpha() and line.endswith(":")]
    assert len(headings) > 1
    assert headings[-1] == "Options:"


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["chat", "-h"], ["generate", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    heavy = "'numpy', 'rich', 'prompt_toolkit', 'jinja2', 'llama_cpp', 'llguidance', 'asyncio'"
    program = f"import sys, edgeinfer.cli as c; c.main({args}); print([m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(os.name != "posix", reason="measures processor time, for the wall clock is everybody's")
def test_help_is_quick() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(3):
        subprocess.run([*EDGEINFER, "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 3 < 0.3


def test_every_listed_command_has_its_module() -> None:
    listed = subprocess.run([*EDGEINFER, "--help"], capture_output=True, text=True, check=True).stdout
    for name, (target, help_text) in edgeinfer.cli.COMMANDS.items():
        assert f"{name} " in listed
        assert help_text.split()[0] in listed
        module = target.partition(":")[0].rpartition(".")[2]
        assert (Path(edgeinfer.cli.__file__).parent / f"{module}.py").is_file()


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals")
class TestProcess:
    @pytest.mark.parametrize("args", [["--version"], ["--help"], ["chat", "--help"]])
    def test_a_reader_that_has_gone(self, args: list[str]) -> None:
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            done = subprocess.run([*EDGEINFER, *args], stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
        finally:
            os.close(write_end)
        assert (done.returncode, done.stderr) == (141, "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    def test_a_full_disk_is_said_once(self) -> None:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*EDGEINFER, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "No space left on device" in done.stderr

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_a_signal_while_waiting_for_a_prompt(self, number: signal.Signals, code: int) -> None:
        command = [*EDGEINFER, "generate", "-p", "x"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "waiting for the end of standard input" in process.stderr.readline()
            process.send_signal(number)
            assert process.wait(10) == code
            assert process.stderr.read().count("\n") == 1

    def test_a_termination_inside_a_finalizer_is_not_lost(self) -> None:
        """Python drops what is raised there."""
        program = """
import os, signal, sys, time
import edgeinfer.cli as cli

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

def run(*_args):
    try:
        Ends()
        time.sleep(30)
    except cli.Terminated:
        return 143

cli.run = run
sys.exit(cli.main([]))
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=20)
        assert (done.returncode, done.stderr) == (143, "")
