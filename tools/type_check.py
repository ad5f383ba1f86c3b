#!/usr/bin/env python3
"""mypy over the whole project, laid out as it is installed.

    python tools/type_check.py [MYPY ARGUMENT...]

``converters/`` is installed as ``edgeinfer.converters``, which no type checker can see from the folders of a clone. So
this copies them to build/types as they are installed (times of files are kept, so that what mypy remembers stays good)
and runs mypy there; the paths that it prints begin at that folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VIEW = ROOT / "build" / "types"
FOLDERS = {"edgeinfer": "edgeinfer", "converters": "edgeinfer/converters", "tests": "tests", "tools": "tools"}


def lay_out() -> None:
    """The sources as installed, and nothing of what an earlier run has left but mypy's memory."""
    for folder in ("edgeinfer", "tests", "tools"):
        shutil.rmtree(VIEW / folder, ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__", "converters")
    for source, target in FOLDERS.items():
        ignored = skipped if source == "edgeinfer" else shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / source, VIEW / target, ignore=ignored)
    shutil.copy2(ROOT / "pyproject.toml", VIEW)


def main() -> int:
    lay_out()
    return subprocess.call([sys.executable, "-m", "mypy", *sys.argv[1:]], cwd=VIEW)


if __name__ == "__main__":
    sys.exit(main())
