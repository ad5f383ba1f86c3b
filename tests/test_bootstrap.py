"""The set-up without its slow parts: what it decides to do, how it shows life, how it ends; and what make hands on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bootstrap
import pytest
import running

TOOLS = Path(__file__).resolve().parent.parent / "tools"

posix = pytest.mark.skipif(os.name == "nt", reason="process groups and make")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up clone with a virtual environment whose set-up is complete."""
    (tmp_path / "pyproject.toml").write_text('dependencies = ["llama-cpp-python==0.3.36"]\n')
    (tmp_path / "kernels_cpu").mkdir()
    (tmp_path / "kernels_cpu/CMakeLists.txt").write_text("project(x)\n")
    (tmp_path / "build").mkdir()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STATE", tmp_path / ".venv/edgeinfer-setup.json")
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / "build/setup.log")
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    python = bootstrap.venv_program("python")
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / ".venv/pyvenv.cfg").write_text("version = 3.12.1\n")
    bootstrap.write_state(bootstrap.wanted([]))
    return tmp_path


def steps(*extras: str) -> list[str]:
    return bootstrap.stale(bootstrap.read_state(), bootstrap.wanted(extras))


# ---- what is to be done


def test_a_complete_set_up_has_nothing_to_do(clone: Path) -> None:  # noqa: ARG001
    assert steps() == []


def test_only_what_changed_is_done_again(clone: Path) -> None:
    assert steps("dev") == ["project"]
    (clone / "kernels_cpu/new.cc").write_text("int x;")
    assert steps() == ["kernels"]
    (clone / "pyproject.toml").write_text('dependencies = ["llama-cpp-python==0.3.36", "numpy"]\n')
    assert steps() == ["project"]
    (clone / "pyproject.toml").write_text('dependencies = ["llama-cpp-python==0.3.37"]\n')
    assert steps() == ["llama", "project"]


def test_a_set_up_for_tests_does_for_chat_too(clone: Path) -> None:  # noqa: ARG001
    bootstrap.write_state(bootstrap.wanted(["dev"]))
    assert steps() == steps("dev") == []


def test_another_python_in_the_environment_means_all_of_it_again(clone: Path) -> None:
    (clone / ".venv/pyvenv.cfg").write_text("version_info = 3.13.0.final.0\n")
    assert steps() == ["llama", "project"]


@pytest.mark.parametrize("state", ["", "{", "[]", "null", '{"venv": 3}'])
def test_a_damaged_state_is_none(clone: Path, state: str) -> None:
    (clone / ".venv/edgeinfer-setup.json").write_text(state)
    assert steps() == ["venv", "llama", "project"]


def test_a_moved_clone_or_a_lost_python_starts_over(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.venv_program("python").unlink()
    assert steps()[0] == "venv"
    monkeypatch.setattr(bootstrap, "VENV", clone / "elsewhere")
    assert steps()[0] == "venv"


def test_options_for_llama_count_when_given(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    assert steps() == ["llama"]
    bootstrap.write_state(bootstrap.wanted([]))
    assert steps() == []
    monkeypatch.delenv("CMAKE_ARGS")
    assert steps() == [], "without options, what was built with them stays"


def test_the_users_options_win_and_do_not_reach_our_kernels(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    ran: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(bootstrap, "step", lambda *argv, **more: ran.append((argv, more)))
    monkeypatch.setattr(bootstrap, "answer", lambda *_: "0.3.36")
    monkeypatch.setattr(bootstrap, "need_compiler", lambda: None)
    monkeypatch.setenv("CMAKE_ARGS", "-DLLAVA_BUILD=ON")
    bootstrap.install_llama()
    argv, more = ran.pop()
    assert more["CMAKE_ARGS"].index("LLAVA_BUILD=OFF") < more["CMAKE_ARGS"].index("LLAVA_BUILD=ON")
    assert "--no-cache-dir" in argv
    bootstrap.install_project(["dev"], kernels_only=False)
    argv, more = ran.pop()
    assert argv[-1] == ".[dev]"
    assert "CMAKE_ARGS" not in more
    assert "CMAKE_ARGS" not in bootstrap.setup_env()


def test_each_step_is_remembered_when_it_ends(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def fails(*_: Any, **__: Any) -> None:
        raise running.SetupError("no", "do")

    shutil.rmtree(clone / ".venv")
    monkeypatch.setattr(bootstrap, "make_venv", lambda **_: (clone / ".venv").mkdir())
    monkeypatch.setattr(bootstrap, "install_llama", lambda: done.append("llama"))
    monkeypatch.setattr(bootstrap, "install_project", fails)
    with pytest.raises(running.SetupError):
        bootstrap.set_up([])
    bootstrap.venv_program("python").parent.mkdir()
    bootstrap.venv_program("python").touch()
    assert done == ["llama"]
    assert steps() == ["project"], "the next run goes on where this one failed"


def test_somebody_elses_folder_is_left_alone(clone: Path) -> None:
    shutil.rmtree(clone / ".venv")
    (clone / ".venv").mkdir()
    (clone / ".venv/thesis.txt").write_text("years of work")
    with pytest.raises(running.SetupError, match="no virtual environment"):
        bootstrap.make_venv(moved=False)
    assert (clone / ".venv/thesis.txt").exists()


def test_a_half_made_environment_is_made_anew(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bootstrap, "step", lambda *argv, **_: made.append(argv))
    (clone / ".venv/pyvenv.cfg").unlink()
    bootstrap.make_venv(moved=False)
    assert "venv" in made[0]
    assert [path.name for path in (clone / ".venv").iterdir()] == ["edgeinfer-setup.json"]
    assert json.loads((clone / ".venv/edgeinfer-setup.json").read_text()) == {}


# ---- signs of life


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "  [12/83] /usr/bin/c++ -DX -o a/b.cpp.o -c '/tmp/my dir/llama-vocab.cpp'",
            "compiling 12 of 83, llama-vocab.cpp",
        ),
        ("  [2/140] Building CXX object src/CMakeFiles/llama.dir/llama.cpp.o", "linking 2 of 140"),
        (
            "  [ 40%] Building CXX object src/CMakeFiles/llama.dir/llama-arch.cpp.o",
            "compiling, 40% done, llama-arch.cpp",
        ),
        ("  [83/83] : && /usr/bin/c++ -shared -o bin/libllama.so a.o && :", "linking 83 of 83"),
        ("Collecting numpy>=1.26", "Collecting numpy>=1.26"),
        ("  Building wheel for llama-cpp-python (pyproject.toml): started", "wheel of llama-cpp-python"),
        ("hello", None),
        ("", None),
    ],
)
def test_a_line_of_a_build_tells_where_it_is(line: str, told: str | None) -> None:
    assert running.describe(line) == told


def test_progress_elsewhere_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    progress = running.Progress("[2/3] llama.cpp", every_s=0.05)
    progress.detail = "compiling 1 of 2, a.c"
    progress.tick()
    assert capsys.readouterr().err == ""
    time.sleep(0.06)
    progress.tick()
    progress.tick()
    progress.clear()
    assert capsys.readouterr().err == "[2/3] llama.cpp 0:00  compiling 1 of 2, a.c\n"


def run(tmp_path: Path, code: str, **more: Any) -> None:
    log = tmp_path / "log"
    running.run("step", [sys.executable, "-c", code], cwd=tmp_path, env=dict(os.environ), log=log, **more)


def test_output_goes_to_the_log_and_to_whoever_listens(tmp_path: Path) -> None:
    heard: list[str] = []
    run(tmp_path, "print('one'); import sys; print('two', file=sys.stderr)", on_line=lambda _, line: heard.append(line))
    assert sorted(heard) == ["one\n", "two\n"]
    assert "one\n" in (tmp_path / "log").read_text()


def test_a_failure_tells_its_lines_and_what_to_do(tmp_path: Path) -> None:
    code = "print('fine\\nERROR: x\\nbecause\\nmore'); print('OSError: No space left on device'); raise SystemExit(3)"
    with pytest.raises(running.SetupError, match="exit code 3") as failure:
        run(tmp_path, code)
    assert failure.value.lines == ["ERROR: x", "because", "OSError: No space left on device"]
    assert "disk is full" in failure.value.advice


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage", "compiler"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "memory"),
        ("Temporary failure in name resolution", "network"),
        ("No matching distribution found for x (from versions: none)", "network"),
        ("(from versions: 1.0, 2.0) ERROR: No matching distribution found for x>=3", "another"),
        ("The virtual environment was not created because ensurepip is not available", "venv"),
        ("something nobody foresaw", "log"),
    ],
)
def test_advice(output: str, advice: str) -> None:
    assert advice in running.advise(output)


@posix
def test_stopping_leaves_no_process_behind(tmp_path: Path) -> None:
    """pip starts cmake starts ninja starts compilers; all of them have to go."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    pids: list[int] = []

    def interrupt(_: object, line: str) -> None:
        if not pids:
            pids.append(int(line))
            os.kill(os.getpid(), signal.SIGUSR1)

    def stop(signum: int, _: object) -> None:
        raise running.Stopped(signum)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(running.Stopped):
            run(tmp_path, code, on_line=interrupt)
    finally:
        signal.signal(signal.SIGUSR1, before)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pids[0], 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pids[0]}/stat").exists() and ") Z " in Path(f"/proc/{pids[0]}/stat").read_text():
            return  # dead; whoever adopted it has yet to look
        time.sleep(0.02)
    pytest.fail("a grandchild lives on")


# ---- the way in


def bare(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **variables}
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize("arguments", [(), ("fly",), ("test", "-k", "x")])
def test_usage(arguments: tuple[str, ...]) -> None:
    done = bare(str(TOOLS / "bootstrap.py"), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


NASTY = [
    """it's "quoted" $HOME ${HOME} $(HOME) $$ `id` $(shell exit 1) 100% %d \\ \\n # ; | & < > * ? ~ !x""",
    "two\nlines\n\nand a third",
    "-n --json",
    "日本語 é 🎉 \u202e",
    "trailing backslash \\",
    "a=b:=c",
    "$(error boom)",
]


@posix
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("prompt", NASTY)
def test_make_hands_a_prompt_on_unharmed(tmp_path: Path, prompt: str) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(TOOLS.parent / "Makefile", tmp_path)
    (tmp_path / "tools/bootstrap.py").write_text(
        "import json, os, sys\n"
        "names = ('MAKE_CHAT_PROMPT', 'MAKE_CHAT_MODEL', 'PROMPT')\n"
        "print(json.dumps([sys.argv[1:], *map(os.environ.get, names)]))\n"
    )
    argv = [
        "make",
        "--no-print-directory",
        f"PYTHON={sys.executable}",
        "chat",
        f"PROMPT={prompt}",
        "MODEL=./my model$.gguf",
    ]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["chat"], prompt, "./my model$.gguf", None]
    # The shell's own PROMPT, which Windows always has, is no question.
    done = subprocess.run(
        argv[:4], cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ, "PROMPT": "$P$G"}
    )
    assert json.loads(done.stdout)[1] is None


@posix
def test_chat_gets_prompt_and_model_as_they_came(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    became: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: became.append(arguments))
    monkeypatch.setenv("MAKE_CHAT_PROMPT", NASTY[0])
    monkeypatch.setenv("MAKE_CHAT_MODEL", "-m")
    monkeypatch.setenv("MAKEFLAGS", "x")
    bootstrap.chat(["--temp", "0"])
    _, argv, env = became[0]
    assert argv[1:] == ["chat", "--model=-m", f"--prompt={NASTY[0]}", "--temp", "0"]
    assert not {"MAKE_CHAT_PROMPT", "MAKEFLAGS"} & set(env)


def test_the_repository_pins_what_the_set_up_compiles() -> None:
    assert bootstrap.llama_pin() == "llama-cpp-python==0.3.36"
    assert (TOOLS / "llama_lean.cmake").is_file()
