"""What PyInstaller needs to know to put edgeinfer into somebody's program. It finds this by the entry point
``pyinstaller40`` of our package: whoever freezes a program that imports edgeinfer has nothing to do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Where the hooks lie."""
    return [str(Path(__file__).parent)]
