"""Putting lines into the order of the input, once all are there: twenty bytes a row in memory, the lines on disk."""

from __future__ import annotations

import json
import stat
from array import array
from pathlib import Path

import numpy as np

from edgeinfer.batch.journal import WriteError
from edgeinfer.batch.rows import parse_name
from edgeinfer.files import open_atomic

__all__ = ["restore"]


def restore(path: Path) -> bool:
    """Rewrite a finished file of results or errors in the order of its rows, whole or not at all; false where it is in
    order already, or is not there. Raises `WriteError`."""
    try:
        with path.open("rb") as stream:
            indexes, offsets = array("q"), array("q", [0])
            for line in stream:
                name = parse_name(json.loads(line)["id"])
                indexes.append(name[0] if name else -1)
                offsets.append(offsets[-1] + len(line))
            wanted = np.argsort(np.frombuffer(indexes, np.int64), kind="stable")
            if (np.diff(wanted) == 1).all():
                return False
            with open_atomic(path, mode=stat.S_IMODE(path.stat().st_mode)) as out:
                for at in wanted:
                    stream.seek(offsets[at])
                    out.write(stream.read(offsets[at + 1] - offsets[at]))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise WriteError(path, error) from error
    return True
