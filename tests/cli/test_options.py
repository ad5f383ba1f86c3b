from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgeinfer.cli import options, settings
from edgeinfer.cli.flags import Command
from edgeinfer.core import Grammar, SamplingParams
from edgeinfer.errors import UsageError


def parsed(*args: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """The flags as a command receives them."""
    seen: dict[str, Any] = {}

    @click.command(cls=Command)
    @options.model_flags
    @options.sampling_flags
    @options.prompt_flags
    def command(**flags: Any) -> None:
        seen.update(flags)

    done = CliRunner().invoke(command, args, env=env)
    assert done.exit_code == 0, done.output
    return seen


def test_defaults_are_those_of_sampling_params() -> None:
    assert SamplingParams(**options.sampling_arguments(parsed())) == SamplingParams()


def test_llama_cpp_spellings() -> None:
    flags = parsed("-n", "-1", "-s", "-1", "-tb", "3", "-t4", "-c", "128", "--memory", "1.5G", "--temp", "0")
    arguments = options.llm_arguments(flags)
    assert (arguments["n_threads"], arguments["n_threads_batch"], arguments["n_ctx"]) == (4, 3, 128)
    assert arguments["memory"] == 3 << 29
    sampling = options.sampling_arguments(flags)
    assert (sampling["max_tokens"], sampling["seed"], sampling["temperature"]) == (None, None, 0.0)


@pytest.mark.parametrize(("given", "taken"), [("2G", "2g"), ("off", "off"), ("OFF", "off"), ("0", "0")])
def test_the_size_of_the_kv_cache(given: str, taken: str) -> None:
    assert options.llm_arguments(parsed("--kv-cache", given))["kv_cache"] == taken
    assert options.llm_arguments(parsed(env={"EDGEINFER_KV_CACHE": given}))["kv_cache"] == taken
    assert options.llm_arguments(parsed())["kv_cache"] == "4g"


def test_repeated_flags_and_their_variables() -> None:
    flags = parsed("--stop", "a b", "--stop", "\n", "--logit-bias", "5=-1.5", "--logit-bias", "6=2")
    sampling = options.sampling_arguments(flags)
    assert sampling["stop"] == ("a b", "\n")
    assert sampling["logit_bias"] == {5: -1.5, 6: 2.0}
    flags = parsed(env={"EDGEINFER_STOP": "User: x\nEnd", "EDGEINFER_LOGIT_BIAS": "5=1", "EDGEINFER_MODEL": "m"})
    assert flags["stop"] == ("User: x", "End")
    assert flags["logit_bias"] == ((5, 1.0),)
    assert flags["model"] == "m"


@pytest.mark.parametrize(
    ("name", "source", "kind"),
    [
        ("g.gbnf", 'root ::= "a"', "gbnf"),
        ("g.lark", 'start: "a"', "lark"),
        ("g.txt", 'root ::= "a"', "gbnf"),
        ("g.txt", 'start: "a"', "lark"),
    ],
)
def test_a_grammar_is_known_by_its_name_or_else_its_content(tmp_path: Path, name: str, source: str, kind: Any) -> None:
    path = tmp_path / name
    path.write_text(source)
    assert options.sampling_arguments(parsed("--grammar", str(path)))["grammar"] == Grammar(kind, source)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"ab\xff")
    with pytest.raises(UsageError, match=r"not UTF-8 text: byte 2 is 0xff"):
        options.read_text(path, "grammar", 10)
    with pytest.raises(UsageError, match="larger than"):
        options.read_text(path, "grammar", 2)
    with pytest.raises(UsageError, match="cannot read"):
        options.read_text(tmp_path, "grammar", 2)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("temp", "0.2", ("temperature", 0.2)),
        ("temperature", "0.2", ("temperature", 0.2)),
        ("top_k", "5", ("top_k", 5)),
        ("max-tokens", "-1", ("max_tokens", None)),
        ("stop", "a b", ("stop", ("a b",))),
        ("logit-bias", "5=1", ("logit_bias", {5: 1.0})),
        ("regex", "a+", ("grammar", Grammar("regex", "a+"))),
        ("regex", "default", ("grammar", None)),
        ("temp", "default", ("temperature", 0.8)),
        ("on-overflow", "compact", ("on_overflow", "compact")),
        ("on-overflow", "default", ("on_overflow", "error")),
    ],
)
def test_settings_by_name(name: str, text: str, expected: tuple[str, Any]) -> None:
    assert settings.setting(name, text) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tmp", "1", "did you mean 'temp'"),
        ("temp", "hot", "temp: 'hot' is not a valid number"),
        ("top-k", "2.5", "top-k: '2.5' is not a valid whole number"),
        ("temp", "nan", "finite"),
        ("ctx-size", "1", "no setting"),
    ],
)
def test_settings_that_cannot_be(name: str, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings.setting(name, text)
