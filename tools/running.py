"""Running one command of the set-up: its output in a log, a sign of life on stderr, and advice when it fails.

Standard library only: bootstrap.py imports this before anything is installed. It knows how builds talk and how they go
wrong, not what is being built. The syntax stays readable for Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WINDOWS = os.name == "nt"


class SetupError(Exception):
    """A step that failed: what happened, what the user can do, and the lines of its output that tell."""

    def __init__(self, what: str, advice: str, lines: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.advice = advice
        self.lines = list(lines)


class Stopped(Exception):
    """The user, or the system, asked us to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.exit_code = 128 + signum


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- showing life

_SOURCE = r"[^/\\\s'\"]+\.(?:c|cc|cpp|m|mm|cu|metal)"
_STEPS = (
    (re.compile(rf"^\s*\[(\d+)/(\d+)\].*?({_SOURCE})(?:['\"]|\s|$)"), "compiling {} of {}, {}"),
    (re.compile(r"^\s*\[(\d+)/(\d+)\]"), "linking {} of {}"),
    (re.compile(r"^\s*\[\s*(\d+)%\] Building .*?([^/\\\s]+?)(?:\.o|\.obj)?\s*$"), "compiling, {}% done, {}"),
    (re.compile(r"^\s*(Collecting|Downloading|Using cached) ([^\s(;]+)"), "{} {}"),
    (re.compile(r"^\s*(?:Building|Created) wheel for ([^\s:]+)"), "wheel of {}"),
    (re.compile(r"^\s*(Installing collected packages|Installing build dependencies|Preparing metadata)"), "{}"),
)


def describe(line: str) -> str | None:
    """What a line of pip's, ninja's or make's output says about where the build is; None when it says nothing."""
    for pattern, form in _STEPS:
        match = pattern.match(line)
        if match:
            return form.format(*(group.rsplit("/", 1)[-1] for group in match.groups()))
    return None


class Progress:
    """One line on a terminal, rewritten in place with the time spent; elsewhere a line now and then."""

    def __init__(self, title: str, every_s: float = 20.0) -> None:
        self.title = title
        self.detail = ""
        self._live = sys.stderr.isatty()
        self._every_s = every_s
        self._start = self._said = time.monotonic()
        self._width = 0

    def line(self) -> str:
        seconds = int(time.monotonic() - self._start)
        clock = f"{seconds // 60}:{seconds % 60:02d}"
        return f"{self.title} {clock}" + (f"  {self.detail}" if self.detail else "")

    def tick(self) -> None:
        now = time.monotonic()
        if self._live:
            text = self.line()[: max(20, shutil.get_terminal_size().columns - 1)]
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = len(text)
        elif now - self._said >= self._every_s:
            say(self.line())
            self._said = now

    def clear(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0

    def note(self, text: str) -> None:
        self.clear()
        say(text)


# ---------------------------------------------------------------- running


def end(child: subprocess.Popen[str]) -> None:
    """Stop the child and everything it started; politely first, so that pip removes its temporary folders."""
    if WINDOWS:
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(child.pid)], capture_output=True, check=False)
        child.wait()
        return
    # The second signal always follows: a compiler that outlived pip is still of its group. macOS says EPERM of zombies.
    for name, patience_s in (("SIGINT", 5.0), ("SIGKILL", 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, getattr(signal, name))
        with contextlib.suppress(subprocess.TimeoutExpired, Stopped):  # Stopped: Ctrl-C again, so no more patience
            child.wait(patience_s)


def run(
    title: str,
    argv: Sequence[str],
    *,
    cwd: Path,
    env: dict[str, str],
    log: Path,
    on_line: Callable[[Progress, str], None] | None = None,
) -> None:
    """Run one command to its end; whatever it started is gone when this raises. `SetupError` when it fails."""
    tail: deque[str] = deque(maxlen=400)
    progress = Progress(title)
    own_group: dict[str, Any] = {"start_new_session": True}
    if WINDOWS:
        own_group = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with log.open("a", encoding="utf-8") as copy:
        copy.write(f"\n=== {title}: {' '.join(argv)}\n")
        child = subprocess.Popen(
            list(argv), cwd=cwd, env=env, text=True, encoding="utf-8", errors="replace", **pipes, **own_group
        )

        def read() -> None:
            with child.stdout or contextlib.nullcontext(()) as lines:
                for line in lines:
                    copy.write(line)
                    tail.append(line.rstrip())
                    progress.detail = describe(line) or progress.detail
                    if on_line:
                        on_line(progress, line)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while child.poll() is None:
                progress.tick()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.25)
        except BaseException:
            end(child)
            raise
        finally:
            reader.join(5.0)
            progress.clear()
    if child.returncode != 0:
        raise SetupError(f"{title} failed with exit code {child.returncode}", advise("\n".join(tail)), telling(tail))


def follow(argv: Sequence[str], *, cwd: Path, env: dict[str, str]) -> int:
    """Run a developer's command in the foreground and return its exit code; asked to stop, it gets time to end."""
    child = subprocess.Popen(list(argv), cwd=cwd, env=env)
    try:
        return child.wait()
    except Stopped as stopped:
        if stopped.signum != signal.SIGINT or not sys.stdin.isatty():  # a terminal has sent the interrupt to both of us
            child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired, Stopped):
            child.wait(10.0)
        child.kill()
        raise


# ---------------------------------------------------------------- what went wrong

_TELLING = re.compile(r"error|fatal|failed|killed|no space|not found|unable|could not|cannot", re.IGNORECASE)
_EMPTY_TALK = re.compile(r"subprocess-exited-with-error|This error originates|finished with status|^\s*(note|hint):")


def telling(tail: Sequence[str], n_lines: int = 12) -> list[str]:
    """The lines of a failed step that a person should see: those that speak of errors, with the next; else the last."""
    lines = [line[:300] for line in tail if line.strip() and not _EMPTY_TALK.search(line)]
    speaking = {at for at, line in enumerate(lines) if _TELLING.search(line)}
    chosen = sorted(speaking | {at + 1 for at in speaking if at + 1 < len(lines)}) or range(len(lines))
    return [lines[at] for at in chosen][-n_lines:]


def compiler_advice() -> str:
    if WINDOWS:
        return (
            "a C++ compiler is needed: winget install Microsoft.VisualStudio.2022.BuildTools, with the workload "
            "'Desktop development with C++', then open a new terminal and run this again"
        )
    if sys.platform == "darwin":
        return "a C++ compiler is needed: xcode-select --install, then run this again"
    return (
        "a C++ compiler is needed: sudo apt install build-essential (Debian, Ubuntu, Raspberry Pi OS), "
        "sudo dnf install gcc-c++ (Fedora) or sudo pacman -S base-devel (Arch), then run this again"
    )


def venv_advice() -> str:
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    return f"Python's venv module is incomplete: sudo apt install {package} (Debian, Ubuntu), then run this again"


_NETWORK = (
    r"name resolution|name or service not known|newconnectionerror|getaddrinfo failed|network is unreachable"
    r"|connection refused|timed out|proxyerror|sslerror|nodename nor servname|from versions: none"
)
_ADVICE: Sequence[tuple[str, Callable[[], str]]] = (
    (
        r"no space left|disk quota",
        lambda: "the disk is full: set-up needs about 2 GB here and 1 GB in the folder for temporary files (TMPDIR)",
    ),
    (
        r"signal terminated program|compiler error: killed|killed signal|out of memory|cannot allocate memory",
        lambda: (
            "memory ran out while compiling: close programs, or set CMAKE_BUILD_PARALLEL_LEVEL=1 and run this again"
        ),
    ),
    (r"CMAKE_C(XX)?_COMPILER|could not find any instance of visual studio|nmake|xcrun: error", compiler_advice),
    (
        _NETWORK,
        lambda: (
            "the package index was not reached: check the network (or HTTPS_PROXY), then run this again; "
            "what was fetched is kept"
        ),
    ),
    (
        r"no matching distribution|requires a different python",
        lambda: "a library is not to be had for this Python: try another with PYTHON=python3.12, after removing .venv",
    ),
    (r"ensurepip", venv_advice),
    (
        r"permission denied|access is denied",
        lambda: "a file could not be written: check who owns this folder and .venv",
    ),
)


def advise(output: str) -> str:
    """What to do about a failed step, told by its output."""
    for pattern, advice in _ADVICE:
        if re.search(pattern, output, re.IGNORECASE):
            return advice()
    return "run this again to go on from here; if it fails once more, the log says why"
