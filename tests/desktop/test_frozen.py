"""The chat window as a folder for machines without Python: built here, run with an empty PATH, asked a question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer import LLM, kernels
from edgeinfer.pyinstaller import hook_dirs

pytest.importorskip("PyInstaller", reason="needs the extra [dev]")
pytest.importorskip("huggingface_hub", reason="needs the extra [dev]")
pytestmark = [pytest.mark.model, pytest.mark.frozen]

TOOL = Path(__file__).resolve().parents[2] / "tools" / "freeze.py"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frozen")
    done = subprocess.run([sys.executable, str(TOOL), "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.splitlines()[-1].partition(": ")[0])


def ask(program: Path, model: str, home: Path) -> subprocess.CompletedProcess[str]:
    """From nowhere, with nothing: no PATH, no variables of a Python, another folder to be in."""
    bare = {name: os.environ[name] for name in ("SYSTEMROOT", "TEMP", "TMP") if name in os.environ}
    bare |= {"PATH": "", "HOME": str(home), "LC_ALL": "C.UTF-8", "EDGEINFER_HOME": str(home)}
    bare |= {
        "HF_ENDPOINT": "http://127.0.0.1:1",
        "QT_QPA_PLATFORM": "offscreen",
        "QT_LOGGING_RULES": "*=false",
        "EDGEINFER_PACKED_CACHE": "0",
    }
    command = [str(program), "-m", model, "-p", "Say hello", "--once", "--json", "-n", "12", "--temp", "0"]
    command += ["--draft", "off"]
    return subprocess.run(command, capture_output=True, text=True, env=bare, cwd=home, timeout=600)


def test_it_answers_without_python(program: Path, smollm2: Path, tmp_path: Path) -> None:
    """As the same question is answered here, and by the same kernels."""
    done = ask(program, str(smollm2), tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    with LLM(str(smollm2), kernels=kernels.expected().active) as llm:
        wanted = llm.chat([{"role": "user", "content": "Say hello"}], max_tokens=12, temperature=0)
    assert answer["text"] == wanted.text
    if kernels.expected().active:
        assert not [line for line in answer["notices"] if "llama.cpp's own kernels" in line]


def test_it_knows_the_catalogue_and_fetches_nothing_with_itself(program: Path, tmp_path: Path) -> None:
    """What looks like Python's own program is ours: pip must not be looked for there, again and again."""
    done = ask(program, "smollm2-135m", tmp_path)
    assert done.returncode == 1
    assert "need Python with pip, which a bundled program has not" in done.stderr
    assert "need huggingface_hub" not in done.stderr  # the other source, which is bundled
    done = ask(program, "no-such-model", tmp_path)
    assert done.returncode == 4
    assert "the catalogue has smollm2-135m" in done.stderr


def test_the_hooks_are_announced() -> None:
    text = (TOOL.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'hook-dirs = "edgeinfer.pyinstaller:hook_dirs"' in text
    (folder,) = hook_dirs()
    assert (Path(folder) / "hook-edgeinfer.py").is_file()
    assert (Path(folder) / "hook-llama_cpp.py").is_file()
