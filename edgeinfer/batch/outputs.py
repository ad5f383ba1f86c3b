"""The files of a job, all named after its output, and the right to work on them.

out.jsonl            a line for each row with a result
out.errors.jsonl     a line for each row that failed; there only if any did
out.manifest.json    what job this is
out.metrics.jsonl    what every run measured
.out.jsonl.lock      held while somebody works on the job
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeinfer import files
from edgeinfer.batch.journal import WriteError
from edgeinfer.errors import UsageError

__all__ = ["Outputs"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Paths only; nothing need exist but their folder."""

    results: Path
    errors: Path
    manifest: Path
    metrics: Path
    lock: Path

    @classmethod
    def of(cls, out: str | Path) -> Outputs:
        """Raises `UsageError` for an output that cannot be one."""
        path = Path(out)
        if path.is_dir() or not path.name:
            raise UsageError(f"the output {path} is a folder; give the name of a file in it")
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent} for the output; make it first")
        stem = path.name.removesuffix(".jsonl")
        errors, manifest, metrics = (
            path.with_name(f"{stem}.{what}") for what in ("errors.jsonl", "manifest.json", "metrics.jsonl")
        )
        return cls(path, errors, manifest, metrics, path.with_name(f".{path.name}.lock"))

    def refuse_input(self, source: object) -> None:
        """Raises `UsageError` where the file of rows ``source`` (anything else cannot be) is one of the job's own: it
        would be written to, and with ``restart`` removed."""
        for path in (self.results, self.errors, self.manifest, self.metrics, self.lock):
            if isinstance(source, str | Path) and files.is_same(path, source):
                raise UsageError(
                    f"{path} would be written by the job, but its rows come from there; choose another output"
                )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else works on the job meanwhile. Raises `UsageError` where somebody does."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.lock(self.lock, patience_s=0))
            except TimeoutError:
                raise UsageError(f"another process is working on {self.results}; wait for it, or stop it") from None
            except OSError as error:
                raise WriteError(self.lock, error) from error
            yield

    def prepare(self, *, restart: bool, retry_failed: bool) -> None:
        """Sweep up after runs that died, and remove what is to be made anew: of a ``restart`` everything. Raises
        `UsageError` where the output is a file that no job of ours has made."""
        if not restart and not self.manifest.exists() and _has_bytes(self.results):
            raise UsageError(
                f"{self.results} is there already and not the output of a batch job ({self.manifest.name} is missing); "
                "choose another output, or add --restart to replace it"
            )
        try:
            for path in (self.results, self.errors, self.manifest):
                for leftover in path.parent.glob(f".{_literal(path.name)}.*.tmp"):
                    leftover.unlink()
            # The manifest goes last: until then a death in between leaves a job that can be restarted.
            for path in (self.results, self.errors, self.metrics, self.manifest) if restart else ():
                path.unlink(missing_ok=True)
            if retry_failed:
                self.errors.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(Path(error.filename or self.results), error) from error


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _literal(name: str) -> str:
    """``name`` for a pattern, in which it means itself."""
    return "".join(f"[{mark}]" if mark in "[*?" else mark for mark in name)
