"""The chat as a person uses it: SmolLM2, a real pseudo-terminal, keys and what the screen shows."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeinfer import sessions

if os.name != "posix":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

import pexpect

pytestmark = pytest.mark.model

LEFT, UP, ALT_ENTER, PASTE, PASTED = "\x1b[D", "\x1b[A", "\x1b\r", "\x1b[200~", "\x1b[201~"
ANSWERED = r"reused (\d+) .*context (\d+)/\d+"
READY = "\x1b\\[[?]2004h[^>]*> "  # the line editor asks for pastes to be marked, then shows its prompt
Terminal = Callable[..., Any]


@pytest.fixture
def chat(smollm2: Path, tmp_path: Path) -> Iterator[Terminal]:
    """Starts chats on a terminal of 80 columns, up to their first prompt."""
    running: list[Any] = []

    def start(*args: str) -> Any:
        env = {
            **os.environ,
            "TERM": "xterm-256color",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody answers questions about the cursor here
            "EDGEINFER_MODEL": str(smollm2),
            "EDGEINFER_THREADS": "1",  # several threads wait for each other where other tests keep the cores busy
        }
        command = ["-m", "edgeinfer", "chat", *args]
        child = pexpect.spawn(
            sys.executable, command, env=env, cwd=str(tmp_path), dimensions=(24, 80), encoding="utf-8", timeout=60
        )
        child.delaybeforesend = None
        running.append(child)
        child.expect("/help for commands")
        child.expect(READY)
        return child

    yield start
    for child in running:
        child.close(force=True)


def ask(child: Any, keys: str) -> tuple[int, int]:
    """Send a message; returns (reused, used) of the timing line."""
    child.send(keys + "\r")
    child.expect(ANSWERED)
    reused, used = int(child.match[1]), int(child.match[2])
    child.expect(READY)
    return reused, used


def long_answer(child: Any) -> None:
    """Get into the middle of an answer."""
    child.send("Write a story about the sea and its many islands, as long as you can.\r")
    child.expect("\x1b\\[2m…")
    for _ in range(6):
        child.expect("\x1b\\[K")  # the end of a redraw


def leave(child: Any, keys: str = "\x04") -> int:
    child.send(keys)
    child.expect(pexpect.EOF)
    child.wait()
    return int(child.exitstatus if child.exitstatus is not None else -child.signalstatus)


def questions(name: str) -> list[str]:
    return [turn.content for turn in sessions.load(name).turns if turn.role == "user"]


def test_editing_history_and_several_lines(chat: Terminal) -> None:
    child = chat("--session", "talk", "-n", "4", "--temp", "0")
    child.send("What is 2+?")
    child.send(LEFT + "2\r")
    child.expect(ANSWERED)
    used = int(child.match[2])
    child.expect(READY)
    reused, used_next = ask(child, UP)  # the last message again
    assert used - 1 <= reused <= used  # the last token that was chosen need not have been computed
    assert used_next > used
    child.send('"""first\r')
    child.expect("… ")
    assert ask(child, 'second"""')[0] > 0
    child.send("third\\\r")
    child.expect("… ")
    ask(child, "fourth")
    child.send("fifth" + ALT_ENTER)
    child.expect("… ")
    ask(child, "sixth")
    ask(child, f"{PASTE}seventh\neighth\n\nninth{PASTED}")
    assert leave(child) == 0
    assert questions("talk") == [
        "What is 2+2?",
        "What is 2+2?",
        "first\nsecond",
        "third\nfourth",
        "fifth\nsixth",
        "seventh\neighth\n\nninth",
    ]
    again = chat("--session", "other", "-n", "2")  # what was typed is remembered across chats
    ask(again, UP)
    leave(again)
    assert questions("other") == ["seventh\neighth\n\nninth"]


def test_stopping_undoing_saving_and_coming_back(chat: Terminal, tmp_path: Path) -> None:
    child = chat("--temp", "0", "-sys", "You write long stories.")
    long_answer(child)
    begin = time.monotonic()
    child.sendintr()
    child.expect(r"\[stopped\]")
    assert time.monotonic() - begin < 2
    child.expect(READY)
    child.send("/set max-tokens 5\r")
    child.expect("max-tokens is now 5")
    child.expect(READY)
    ask(child, "And now?")
    child.send("/undo\r")
    child.expect("taken back: And now")
    child.expect(READY)
    ask(child, "What else?")
    ask(child, "/regen")
    child.send("/save islands\r")
    child.expect("saved as islands")
    child.send("/export story.md\r")
    child.expect("written to story.md")
    child.send("/load nothing\r")
    child.expect("there is no session 'nothing'")
    child.expect(READY)
    assert leave(child, "/exit\r") == 0
    saved = sessions.load("islands").turns
    assert [turn.role for turn in saved] == ["system", "user", "assistant", "user", "assistant"]
    assert saved[2].finish == "cancelled"
    assert len(saved[2].content) > 10
    assert saved[4].finish == "length"
    assert saved[2].content in (tmp_path / "story.md").read_text()

    child = chat("--continue")
    assert "session islands, 4 messages" in child.before
    assert "What else?" in child.before
    ask(child, "Go on.")
    child.send("/load islands\r")
    child.expect("session islands, 6 messages")
    child.expect(READY)
    assert leave(child, "\x03") == 0  # Ctrl-C at an empty prompt
    assert questions("islands")[-1] == "Go on."


def test_two_interrupts_leave_with_130_and_nothing_is_lost(chat: Terminal) -> None:
    child = chat("--session", "s", "--temp", "0")
    long_answer(child)
    for _ in range(20):  # two that come at once are one
        child.sendintr()
        if child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=0.3) == 0:
            break
    child.wait()
    # the second comes while the answer ends, or finds the empty prompt; a third ends what is still being freed
    assert child.exitstatus in (0, 130) or child.signalstatus == signal.SIGINT
    assert "Traceback" not in child.before
    assert sessions.load("s").turns[-1].finish == "cancelled"


@pytest.mark.parametrize("answering", [False, True])
def test_a_termination_leaves_the_terminal_as_it_was(chat: Terminal, answering: bool) -> None:
    child = chat("--session", "s", "--temp", "0")
    if answering:
        long_answer(child)
        assert not child.getecho()
    child.kill(signal.SIGTERM)
    child.expect("edgeinfer: terminated")
    child.expect(pexpect.EOF)
    assert child.getecho()
    child.wait()
    assert child.exitstatus == 143
    assert "Traceback" not in child.before
    if answering:
        assert sessions.load("s").turns[-1].finish == "cancelled"


def test_the_screen_gets_markdown_and_no_controls(chat: Terminal) -> None:
    child = chat("--session", "s", "-n", "60", "--temp", "0")
    child.send("Write a Python function that reverses a string.\r")
    child.expect(ANSWERED)
    shown = child.before
    child.expect(READY)
    assert "```python" in shown
    assert re.search(r"\x1b\[[0-9;]*mdef", shown)  # highlighted
    ours = re.sub(r"\x1b\[([0-9;?]*[a-zA-Z])|\x1b\][^\x07]*\x07|\r", "", shown)
    assert "\x1b" not in ours
    leave(child)
