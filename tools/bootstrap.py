#!/usr/bin/env python3
"""From a fresh clone to a running edgeinfer: virtual environment, llama.cpp compiled for this machine, the project.

    python tools/bootstrap.py chat [ARGUMENT...]    set up what is missing, then `edgeinfer chat ARGUMENT...`
    python tools/bootstrap.py test                  the same with the developers' tools, then every check and test
    python tools/bootstrap.py setup                 set up only

`make chat` and `make test` call this; on Windows it is called directly. Standard library only; what is to be installed
stands in pyproject.toml. What was done is remembered in .venv/edgeinfer-setup.json, one stamp a step, each written when
its step has ended well: an interrupted set-up goes on at the step it was in, a complete one costs a few milliseconds.
The syntax stays readable for Python 3.8, so that an old interpreter gets a sentence rather than a traceback.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cross_test
import debian
from running import WINDOWS, Progress, SetupError, Stopped, compiler_advice, follow, run, say

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STATE = VENV / "edgeinfer-setup.json"
LOG = ROOT / "build" / "setup.log"
OLDEST = (3, 10)

# The binding loads libllama and ggml. The rest of llama.cpp (vision, tools, and through the include file its common
# library, which the binding's build otherwise insists on) would be more than half of the compile and never loaded.
CMAKE_ARGS = (
    "-DGGML_NATIVE=ON",
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    shlex.quote(f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={(ROOT / 'tools' / 'llama_lean.cmake').as_posix()}"),
)
BYTES_A_COMPILER = 800 << 20  # the largest translation units of llama.cpp, at -O3

# Variables of make and of an outer Python that would lead the children astray.
FOREIGN = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHONHOME", "__PYVENV_LAUNCHER__")
# Set-up only. CMAKE_ARGS of the user's are for llama.cpp; scikit-build-core would hand them to our own kernels as well.
FOREIGN_TO_PIP = ("CMAKE_ARGS", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")


def clean_env() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE_CHAT_") and name not in FOREIGN
    }


def setup_env(**more: str) -> dict[str, str]:
    env = {name: value for name, value in clean_env().items() if name not in FOREIGN_TO_PIP}
    return {**env, "PYTHONUTF8": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", **more}


# ---------------------------------------------------------------- what is there, what is wanted


def venv_program(name: str) -> Path:
    return VENV / ("Scripts" if WINDOWS else "bin") / (f"{name}.exe" if WINDOWS else name)


def read_state() -> dict[str, Any]:
    try:
        state = json.loads(STATE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(state: dict[str, Any]) -> None:
    fresh = STATE.with_suffix(".new")
    fresh.write_text(json.dumps(state, indent=1), encoding="utf-8")
    fresh.replace(STATE)


def digest(paths: Sequence[Path], *words: str) -> str:
    """A hash of some words and of the files' names and contents."""
    total = hashlib.sha256("\0".join(words).encode())
    for path in paths:
        total.update(f"\0{path.relative_to(ROOT).as_posix()}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def venv_version() -> str:
    """The version in .venv/pyvenv.cfg, without starting anything; empty when there is none."""
    with contextlib.suppress(OSError):
        text = (VENV / "pyvenv.cfg").read_text(encoding="utf-8")
        match = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", text, re.MULTILINE)
        if match:
            return match[1]
    return ""


def kernel_sources() -> list[Path]:
    return sorted(path for path in (ROOT / "kernels_cpu").rglob("*") if path.is_file() and path.name[0] != ".")


def llama_pin() -> str:
    """The requirement on llama-cpp-python as pyproject.toml has it, the one place that names the version."""
    match = re.search(r'"(llama-cpp-python==[^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if not match:
        raise SetupError("pyproject.toml pins no llama-cpp-python", "restore the file: git checkout pyproject.toml")
    return match[1]


def wanted(extras: Sequence[str]) -> dict[str, Any]:
    """The state that a complete set-up would have written."""
    version = venv_version()
    return {
        "venv": str(VENV),
        "llama": digest([], llama_pin(), version),
        "project": digest([ROOT / "pyproject.toml"], version),
        "kernels": digest(kernel_sources(), version),
        "extras": sorted(extras),
        "cmake_args": os.environ.get("CMAKE_ARGS", ""),
    }


def stale(have: dict[str, Any], want: dict[str, Any]) -> list[str]:
    """The steps to take, in order. The user's CMAKE_ARGS count only when given: without them, what is there stays."""
    if have.get("venv") != want["venv"] or not venv_program("python").exists():
        return ["venv", "llama", "project"]
    steps = []
    if have.get("llama") != want["llama"] or want["cmake_args"] not in ("", have.get("cmake_args")):
        steps.append("llama")
    if have.get("project") != want["project"] or not set(want["extras"]) <= set(have.get("extras", [])):
        steps.append("project")
    elif have.get("kernels") != want["kernels"]:
        steps.append("kernels")
    return steps


# ---------------------------------------------------------------- the steps


def step(title: str, *argv: str | Path, on_line: Callable[[Progress, str], None] | None = None, **env: str) -> None:
    run(title, [str(word) for word in argv], cwd=ROOT, env=setup_env(**env), log=LOG, on_line=on_line)


def answer(python: Path, code: str) -> str | None:
    """What a few lines of Python print in the virtual environment; None when they fail."""
    argv = [str(python), "-c", code]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, env=setup_env(), cwd=VENV, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def n_jobs() -> int:
    """Compilers at once: the cores we may use, fewer where memory is short."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return cores
    return max(1, min(cores, memory // BYTES_A_COMPILER))


def need_compiler() -> None:
    """Fail before a download of many megabytes where it is plain that nothing can be compiled."""
    if WINDOWS:
        return  # CMake finds Visual Studio by itself, and says so where it does not
    named = os.environ.get("CXX", "").split()
    names = named[:1] or ["c++", "g++", "clang++"]
    found = any(shutil.which(name) for name in names)
    if found and sys.platform == "darwin":  # /usr/bin/c++ is there even without the tools
        found = subprocess.run(["xcode-select", "-p"], capture_output=True, check=False).returncode == 0
    if not found:
        raise SetupError(f"no C++ compiler (looked for {', '.join(names)})", compiler_advice())


def make_venv(*, moved: bool) -> None:
    """A working .venv with pip: the one that is there if it answers and was not made elsewhere, else a new one."""
    python = venv_program("python")
    if VENV.exists() and not (VENV / "pyvenv.cfg").exists() and not STATE.exists() and any(VENV.iterdir()):
        raise SetupError(f"{VENV} is there but is no virtual environment", "move it away, then run this again")
    version = None
    if python.exists() and not moved:
        version = answer(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    if version is None:
        VENV.mkdir(exist_ok=True)
        write_state({})  # marks the folder as ours and incomplete, should we be killed now
        for path in VENV.iterdir():  # venv's own --clear would remove the mark
            if path != STATE:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        step("[1/3] virtual environment", sys.executable, "-m", "venv", VENV)
    elif tuple(map(int, version.split("."))) < OLDEST:
        raise SetupError(f"{VENV} holds Python {version}, not 3.10 or newer", "remove the folder, then run this again")
    elif answer(python, "import pip") is None:
        step("[1/3] pip", python, "-m", "ensurepip", "--default-pip")


def install_llama() -> None:
    """llama-cpp-python, compiled for this machine or taken from pip's cache, and seen to load."""
    pin, users, python = llama_pin(), os.environ.get("CMAKE_ARGS", ""), venv_program("python")
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(n_jobs())
    env = {
        "CMAKE_ARGS": " ".join([*CMAKE_ARGS, users]),
        "CMAKE_BUILD_PARALLEL_LEVEL": jobs,
    }  # of CMAKE_ARGS the last win
    probe = "import llama_cpp; llama_cpp.llama_print_system_info(); print(llama_cpp.__version__)"
    announced: list[str] = []

    def announce(progress: Progress, line: str) -> None:
        if not announced and re.search(r"Building wheel for llama.cpp.python", line):
            announced.append(line)
            log = LOG.relative_to(ROOT)
            progress.note(f"compiling llama.cpp for this machine, once: about three minutes on two cores (log: {log})")

    def works() -> bool:
        return answer(python, probe) == pin.split("==")[1]

    install = ("[2/3] llama.cpp", python, "-m", "pip", "install", "-v")
    if users or not works():
        need_compiler()
        # A wheel in pip's cache was built without the user's own options.
        step(
            *install,
            *(["--no-cache-dir", "--force-reinstall", "--no-deps"] if users else []),
            pin,
            on_line=announce,
            **env,
        )
    if not works():  # its files were half there, from a run that was killed, and pip took them for whole
        step(*install, "--force-reinstall", "--no-deps", pin, on_line=announce, **env)
    if not works():
        advice = (
            f"if this pip cache is shared with another kind of machine: {python} -m pip cache remove llama_cpp_python"
        )
        raise SetupError(f"{pin} was installed but does not load", f"{advice}, then run this again")


def install_project(extras: Sequence[str], *, kernels_only: bool) -> None:
    """The project, editable, with its libraries; or only its kernels again."""
    need_compiler()
    target = "." + (f"[{','.join(sorted(extras))}]" if extras else "")
    title = "[3/3] kernels" if kernels_only else "[3/3] edgeinfer and its libraries"
    options = ["--no-deps"] if kernels_only else []
    python = venv_program("python")
    jobs = str(n_jobs())
    options += ["--editable", target]
    step(title, python, "-m", "pip", "install", "-v", *options, CMAKE_BUILD_PARALLEL_LEVEL=jobs)
    if answer(python, "import edgeinfer") is None:
        raise SetupError(
            "edgeinfer was installed but cannot be imported", "remove the folder .venv, then run this again"
        )


def install_emulator() -> None:
    """The packages that test ARM kernels on other machines, if we may. Without them that test is skipped."""
    packages = cross_test.missing_packages()
    if not packages:
        return
    try:
        LOG.parent.mkdir(exist_ok=True)
        for command in cross_test.install_commands(packages):
            step(f"installing {' and '.join(packages)}", *command)
    except (cross_test.Unavailable, SetupError) as error:
        say(f"ARM is not emulated here: {error}")


def install_browser() -> None:
    """The browser that the chat page is tested in, if we may. Without it those tests are skipped."""
    packages = debian.missing_browser()
    if not packages:
        return
    try:
        LOG.parent.mkdir(exist_ok=True)
        for command in debian.install_commands(packages):
            step(f"installing {' and '.join(packages)}", *command)
    except (debian.Unavailable, SetupError) as error:
        say(f"the chat page is not tested in a browser here: {error}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One set-up at a time in this clone; a second waits. The lock ends with the process, however that ends."""
    LOG.parent.mkdir(exist_ok=True)
    with (LOG.parent / "setup.lock").open("a") as file:
        if not lock(file.fileno(), wait=False):
            say("another set-up is at work in this folder; waiting for it")
            while not lock(file.fileno(), wait=True):
                pass
        yield


def lock(handle: int, *, wait: bool) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # LK_LOCK gives up after ten seconds
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def set_up(extras: Sequence[str]) -> None:
    """Bring .venv to what pyproject.toml and kernels_cpu/ ask for, doing only what is missing."""
    if not stale(read_state(), wanted(extras)):
        return
    with alone():
        start = time.monotonic()
        have = read_state()
        steps = stale(have, wanted(extras))
        LOG.write_text(f"{time.ctime()}, Python {sys.version}, {sys.platform}: {' '.join(steps)}\n", encoding="utf-8")
        extras = sorted({*extras, *have.get("extras", [])})
        if "venv" in steps:
            make_venv(moved=have.get("venv") not in (None, str(VENV)))
            have = {"venv": str(VENV)}
            write_state(have)
        want = wanted(extras)  # the version of Python is known only now
        if "llama" in steps:
            install_llama()
            have.update({name: want[name] for name in ("llama", "cmake_args")})
            write_state(have)
        if "project" in steps or "kernels" in steps:
            install_project(extras, kernels_only="kernels" in steps)
            have.update({name: want[name] for name in ("project", "kernels", "extras")})
            write_state(have)
        if steps:
            say(f"set-up complete in {time.monotonic() - start:.0f} s")


# ---------------------------------------------------------------- commands


def chat(arguments: Sequence[str]) -> NoReturn:
    """Become `edgeinfer chat`. Prompt and model may come in variables, untouched by any shell or by make."""
    argv = [str(venv_program("edgeinfer")), "chat"]
    for variable, flag in (("MAKE_CHAT_MODEL", "--model"), ("MAKE_CHAT_PROMPT", "--prompt")):
        value = os.environ.get(variable)
        if value:
            argv.append(f"{flag}={value}")
    argv += arguments
    if WINDOWS:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the chat decides what Ctrl-C means
        sys.exit(subprocess.run(argv, env=clean_env(), check=False).returncode)
    os.execve(argv[0], argv, clean_env())


def test() -> int:
    """Every check, whichever fail; 1 when any did."""
    python = venv_program("python")
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])  # for what tests start by name
    failed = []
    checks = {"ruff check": ["-m", "ruff", "check"], "ruff format": ["-m", "ruff", "format", "--check"]}
    checks |= {"mypy": [str(ROOT / "tools" / "type_check.py")], "pytest": ["-m", "pytest"]}
    for check, arguments in checks.items():
        print(f"== {check}", flush=True)
        if follow([str(python), *arguments], cwd=ROOT, env={**clean_env(), "PATH": path}) != 0:
            failed.append(check)
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def newer_python() -> str | None:
    """A Python of a fitting version beside this old one, as on a Mac whose own is 3.9."""
    for minor in range(14, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    return None


def main(argv: Sequence[str]) -> int:
    command = argv[0] if argv else ""
    if command not in ("chat", "test", "setup") or (argv[1:] and command != "chat"):
        say("usage: python tools/bootstrap.py chat [ARGUMENT...] | test | setup")
        return 2
    if sys.version_info < OLDEST:
        other = newer_python()
        if other is not None:
            return subprocess.run([other, __file__, *argv], check=False).returncode
        say(
            f"Python 3.10 or newer is needed, but {sys.executable} is {sys.version.split()[0]}: see https://www.python.org"
        )
        return 1

    def stop(signum: int, _frame: object) -> NoReturn:
        raise Stopped(signum)

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {signum: signal.signal(signum, stop) for signum in signals}
    try:
        set_up(["dev"] if command == "test" else [])
        if command == "test":
            install_emulator()
            install_browser()
            return test()
    except Stopped as stopped:
        say("stopped; run the same command again to go on from here")
        return stopped.exit_code
    except SetupError as error:
        say("\n".join([*(f"    {line}" for line in error.lines), f"{error}; {error.advice}", f"full log: {LOG}"]))
        return 1
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return chat(argv[1:]) if command == "chat" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
