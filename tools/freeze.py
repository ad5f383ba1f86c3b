#!/usr/bin/env python3
"""The chat window as a folder that runs on a machine without Python: PyInstaller, one folder.

    python tools/freeze.py [--out FOLDER]    writes FOLDER/edgeinfer-desktop; default: dist

Needs the extras [desktop] and [dev]. What goes in is said by the hooks in edgeinfer/pyinstaller, which any program that
imports edgeinfer gets; this adds what an application decides for itself: what stays out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "edgeinfer-desktop"

# Optional imports of what we need, and packages of other extras that may lie in the same environment.
LEFT_OUT = (
    *("torch", "transformers", "onnx_ir", "tokenizers", "safetensors", "ray", "pyarrow", "pandas", "scipy"),
    *("matplotlib", "PIL", "fastapi", "uvicorn", "openai", "anthropic", "playwright"),
    *("pytest", "hypothesis", "mypy", "IPython", "tkinter", "setuptools", "pip", "prompt_toolkit"),
)


def arguments(out: Path, work: Path) -> list[str]:
    """PyInstaller's command line."""
    given = ["--onedir", "--windowed", "--noconfirm", "--log-level", "WARN", "--name", NAME]
    given += ["--distpath", str(out), "--workpath", str(work), "--specpath", str(work), "--paths", str(ROOT)]
    given += ["--additional-hooks-dir", str(ROOT / "edgeinfer" / "pyinstaller")]
    for name in LEFT_OUT:
        given += ["--exclude-module", name]
    return [*given, str(ROOT / "edgeinfer" / "desktop" / "__main__.py")]


def freeze(out: Path) -> Path:
    """Build; returns the program. Raises `SystemExit` where PyInstaller fails."""
    from PyInstaller.__main__ import run

    out = out.resolve()
    run(arguments(out, ROOT / "build" / "frozen"))
    program = out / NAME / (f"{NAME}.exe" if sys.platform == "win32" else NAME)
    if not program.is_file():
        raise SystemExit(f"PyInstaller ended well, but there is no {program}")
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    chosen = parser.parse_args()
    program = freeze(chosen.out)
    n_bytes = sum(path.stat().st_size for path in program.parent.rglob("*") if path.is_file() and not path.is_symlink())
    free = shutil.disk_usage(program.parent).free
    print(f"{program}: {n_bytes / 2**20:.0f} MiB in its folder ({free / 2**30:.0f} GiB free)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
