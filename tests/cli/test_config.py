from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import edgeinfer.cli
from edgeinfer import env
from edgeinfer.cli import main, options
from edgeinfer.cli.flags import Command, flag

SEEN: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that takes the shared flags and remembers them."""
    SEEN.clear()
    module = ModuleType("probe_command")
    module.command = probe  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probe_command", module)
    monkeypatch.setitem(edgeinfer.cli.COMMANDS, "probe", ("probe_command:command", "Probes."))


@click.command("probe", cls=Command)
@options.model_flags
@options.sampling_flags
@flag("--only-here")
def probe(**flags: Any) -> None:
    SEEN.update(flags)


def config(text: str | bytes) -> Path:
    path = env.config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_flag_over_variable_over_section_over_file_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    config(
        'temp = 0.1\ntop-k = 1\nmin_p = 0.2\nstop = ["a b", "c"]\nctx-size = 7\n[probe]\ntop-k = 2\nonly-here = "x"\n'
    )
    monkeypatch.setenv("EDGEINFER_TOP_K", "3")
    monkeypatch.setenv("EDGEINFER_CTX_SIZE", "8")
    assert main(["probe", "-c", "9"]) == 0
    assert (SEEN["temperature"], SEEN["top_k"], SEEN["min_p"], SEEN["ctx_size"]) == (0.1, 3, 0.2, 9)
    assert (SEEN["stop"], SEEN["only_here"], SEEN["top_p"]) == (("a b", "c"), "x", 0.95)
    monkeypatch.delenv("EDGEINFER_TOP_K")
    assert main(["probe"]) == 0
    assert SEEN["top_k"] == 2


def test_flags_of_other_commands_are_let_be() -> None:
    config('prompt = "x"\njson = true\n[chat]\nsystem = "y"\n')
    assert main(["probe"]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tempp = 1", "unknown key 'tempp' in {}; did you mean 'temp'"),
        ("[probe]\ntempp = 1", "unknown key 'tempp' in section [probe] of {}"),
        ("[chta]\ntemp = 1", "unknown section [chta] in {}; did you mean 'chat'"),
        ("probe = 1", "probe in {} must be a section: write [probe]"),
        ("temp = [1]", "temp in {} must be"),
        ("temp = 'hot'", "(from {})"),
        ("temp = ", "{} is not TOML"),
        (b"\xff\xfe", "{} is not TOML"),
        (b"a = 1\n" * 400_000, "is larger than"),
        ("temp = " + "[" * 5000, "{} is not TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_name(
    text: str | bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(text)
    assert main(["probe"]) == 2
    err = capsys.readouterr().err
    assert said.format(path) in err
    assert err.count("\n") == 1


def test_a_wrong_variable_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_TEMP", "hot")
    assert main(["probe"]) == 2
    assert "(from the variable EDGEINFER_TEMP)" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--help"], ["probe", "--help"], ["probe", "-h"]])
def test_help_does_not_need_a_good_file(args: list[str]) -> None:
    config("nonsense")
    assert main(args) == 0
