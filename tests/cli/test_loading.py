from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgeinfer import catalog
from edgeinfer.cli import loading, main
from edgeinfer.errors import FormatError, ModelNotFound


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "resolve", lambda name: name)


def test_the_model_is_opened_off_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C that was raised inside one of llama.cpp's log callbacks while it loaded was lost."""

    class Opened:
        notices = ()

        def __init__(self, name: str, *, said: Any, progress: Any, warned: Any, **arguments: Any) -> None:  # noqa: ARG002
            self.opened = name, arguments, threading.current_thread() is threading.main_thread()

    monkeypatch.setattr("edgeinfer.llm.LLM", Opened)
    llm: Any = loading.open_llm(None, {"n_ctx": 5}, spinner=True)
    assert llm.opened == ("smollm2-135m", {"n_ctx": 5}, False)


@pytest.mark.parametrize("command", ["chat", "generate"])
@pytest.mark.parametrize(
    ("flags", "variable", "ours"),
    [((), None, True), (("--no-kernels",), None, False), ((), "1", False), ((), "0", True)],
)
def test_no_kernels_reaches_the_model(
    monkeypatch: pytest.MonkeyPatch, command: str, flags: tuple[str, ...], variable: str | None, ours: bool
) -> None:
    seen = []

    def refuse(_name: str, **arguments: Any) -> None:
        seen.append(arguments["kernels"])
        raise FormatError("seen enough")

    monkeypatch.setattr("edgeinfer.llm.LLM", refuse)
    monkeypatch.setattr("sys.stdin", None)
    if variable is not None:
        monkeypatch.setenv("EDGEINFER_NO_KERNELS", variable)
    assert main([command, "-m", "m", "-p", "x", *flags]) == 1
    assert seen == [ours]


@pytest.mark.parametrize("error", [FormatError("damaged"), TimeoutError("slow")])
def test_what_fails_there_is_raised_here(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: str, **_arguments: Any) -> None:
        raise error

    monkeypatch.setattr("edgeinfer.llm.LLM", fail)
    with pytest.raises(type(error)):
        loading.open_llm("m", {})


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_does_not_wait_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = threading.Event()

    def slow(_: str, **_arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        going_on.wait(10)

    monkeypatch.setattr("edgeinfer.llm.LLM", slow)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loading.open_llm("m", {})
    going_on.set()
    assert time.monotonic() - begin < 2


def test_a_first_run_says_what_it_fetches_and_how_big_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolve(name: str) -> None:
        raise ModelNotFound(f"no {name}")

    pulled = []

    def ensure(name: str, *, progress: catalog.Progress) -> None:
        progress.note("on its way")
        pulled.append(name)

    monkeypatch.setattr(catalog, "resolve", resolve)
    monkeypatch.setattr(catalog, "ensure", ensure)
    loading.fetch("smollm2-135m")
    assert pulled == ["smollm2-135m"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "edgeinfer: fetching smollm2-135m once: 98 MB, licence apache-2.0\n" in err
    monkeypatch.setenv("EDGEINFER_OFFLINE", "1")
    loading.fetch("smollm2-135m")
    assert "fetching" not in capsys.readouterr().err


# ---- drafts


@pytest.mark.parametrize("command", ["chat", "generate"])
@pytest.mark.parametrize(
    ("flags", "variable", "draft"),
    [((), None, "auto"), (("-md", "ngram"), "off", "ngram"), (("--draft", "m2"), None, "m2"), ((), "off", "off")],
)
def test_who_drafts_reaches_the_model(
    monkeypatch: pytest.MonkeyPatch, command: str, flags: tuple[str, ...], variable: str | None, draft: str
) -> None:
    seen: list[str] = []
    fetched: list[str] = []

    def refuse(_name: str, **arguments: Any) -> None:
        seen.append(arguments["draft"])
        raise FormatError("seen enough")

    monkeypatch.setattr("edgeinfer.llm.LLM", refuse)
    monkeypatch.setattr(loading, "fetch", fetched.append)
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.delenv("EDGEINFER_DRAFT")
    if variable is not None:
        monkeypatch.setenv("EDGEINFER_DRAFT", variable)
    assert main([command, "-m", "m", "-p", "x", *flags]) == 1
    assert seen == [draft]
    assert fetched == (["m", "m2"] if draft == "m2" else ["m"]), "a draft model is fetched only when it is named"


def test_what_happens_once_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing of what every start does: scripts may keep standard error."""

    class Opened:
        notices = ("a notice",)

        def __init__(self, _name: str, *, said: Any, progress: catalog.Progress, **_others: Any) -> None:
            said("measuring m once")
            said("measuring m once: passes of 1 to 16 tokens at 32")
            said("preparing the draft model d")
            progress.note("making a draft of d, once")
            progress.update(1, 2)
            progress.update(2, 2)
            said("measuring d once")

    monkeypatch.setattr("edgeinfer.llm.LLM", Opened)
    loading.open_llm("m", {}, spinner=True)
    lines = ["measuring m once", "making a draft of d, once", "measuring d once", "a notice"]
    assert capsys.readouterr() == ("", "".join(f"edgeinfer: {line}\n" for line in lines))


def test_the_spinner_says_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    @contextlib.contextmanager
    def status(what: str) -> Iterator[Callable[[str], None]]:
        yield lambda detail: shown.append(f"{what}: {detail}")

    class Opened:
        notices = ()

        def __init__(self, _name: str, *, said: Any, progress: catalog.Progress, **_others: Any) -> None:
            said("preparing the draft model d")
            progress.note("making a draft of d, once")
            progress.update(1, 3)

    monkeypatch.setattr("edgeinfer.llm.LLM", Opened)
    monkeypatch.setattr("edgeinfer.cli.progress.status", status)
    monkeypatch.setattr("sys.stderr", Terminal())
    loading.open_llm("m", {}, spinner=True)
    details = ["preparing the draft model d", "making a draft of d, once", "making a draft of d, once: 33 %"]
    assert shown == [f"loading m: {detail}" for detail in details]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_notices_are_printable_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    loading.notice("a \x1b[31mmodel")
    assert capsys.readouterr() == ("", "edgeinfer: a \\x1b[31mmodel\n")
