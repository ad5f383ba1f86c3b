"""Programs that tests need and pip does not have: packages of Debian and its kin, installed where we may.

Standard library only, readable for Python 3.8: bootstrap.py imports this.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["Unavailable", "browser", "install_commands", "missing_browser"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


class Unavailable(Exception):
    """This machine cannot do that for us: why, and what would help."""


def browser() -> str | None:
    """A Chromium that is installed, for the tests of the chat page."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def missing_browser() -> list[str]:
    """The package that it would come with, where it is missing."""
    return [] if browser() else ["chromium"]


def install_commands(packages: Sequence[str]) -> list[list[str]]:
    """What installs the packages without asking anyone anything; `Unavailable` where we may not."""
    wanted = f"apt-get install {' '.join(packages)}"
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        raise Unavailable(f"needs {' and '.join(packages)}, packages of Debian, and there is no apt-get")
    prefix = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if os.geteuid() != 0:
        sudo = shutil.which("sudo")
        if sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode != 0:
            raise Unavailable(f"needs root: sudo {wanted}")
        prefix = [sudo, "-n", *prefix]
    options = ["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20"]
    return [[*prefix, *options, "update"], [*prefix, *options, "install", "-y", *packages]]
