"""What a job is: written down when it begins, compared when it goes on. A job that is no longer the same is refused,
with what has changed; nothing of it is touched.

    {"format": "edgeinfer-batch", "version": 1, "input": {…}, "parameters": {…}, "model": {…}, "versions": {…}, …}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeinfer.batch.journal import WriteError
from edgeinfer.errors import FormatError, UsageError
from edgeinfer.files import atomic_write

__all__ = ["agree", "differences"]

_FORMAT, _VERSION = "edgeinfer-batch", 1
_MAX_BYTES = 64 << 20
_SHOWN = 60
_NOTHING = object()


def agree(path: Path, facts: Mapping[str, Any]) -> bool:
    """Write the manifest of a job that begins; true where there is one already, of the same job.

    Raises `UsageError` where it is another job's, `FormatError` for a file that is no manifest, `WriteError`."""
    document = {"format": _FORMAT, "version": _VERSION, **facts}
    before = _read(path)
    if before is None:
        try:
            atomic_write(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n", mode=0o644)
        except OSError as error:
            raise WriteError(path, error) from error
        return False
    changed = list(differences("", before, json.loads(json.dumps(document))))
    if changed:
        raise UsageError(
            f"this is not the job that {path} tells of: {'; '.join(changed)}; "
            "to go on, run it as it was; to start anew, add --restart or choose another output"
        )
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(_MAX_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not the manifest of a batch job: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise FormatError(f"{path} is not the manifest of a batch job; choose another output")
    return document


def differences(where: str, before: Any, now: Any) -> Iterator[str]:
    """Lines such as ``parameters.temperature was 0 and is 0.7``."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*before, *now)):
            yield from differences(
                f"{where}.{name}" if where else name, before.get(name, _NOTHING), now.get(name, _NOTHING)
            )
    elif before != now:
        yield f"{where} was {_shown(before)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "not given"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
