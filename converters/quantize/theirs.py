"""A GGUF model in other types, by llama.cpp's own quantizer: every type that it has, in a process of its own.

A process, because it holds whole tensors, stops on what it does not expect (GGML_ASSERT), and cannot be interrupted.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeinfer import gguf
from edgeinfer.catalog.store import Progress, Quiet, file_sha256
from edgeinfer.converters.output import Written, check_target, need_room, workspace
from edgeinfer.converters.quantize.importance import Importance, write_importance
from edgeinfer.converters.quantize.ours import Quantized
from edgeinfer.converters.quantize.recipes import FILE_TYPES, Override
from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.files import sync_dir

__all__ = ["quantize_theirs"]

_STEP = re.compile(rb"\[ *(\d+)/ *(\d+)\]")
_NEEDS_IMPORTANCE = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M", "IQ3_XXS", "Q2_K_S")


def quantize_theirs(
    source: Path,
    target: Path,
    quant: str,
    *,
    overrides: Sequence[Override] = (),
    importance: Importance | None = None,
    force: bool = False,
    progress: Progress | None = None,
    n_threads: int = 0,
) -> Quantized:
    """As `quantize_ours`; ``relative_error`` is not measured. Raises `EdgeInferError` with what llama.cpp said where it
    fails, `UsageError` for a type that needs importance and has none."""
    check_target(target, force)
    file = gguf.read(source)
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the file to be read; give another name")
    if quant in _NEEDS_IMPORTANCE and importance is None:
        raise UsageError(f"{quant} needs an importance matrix; give one with --imatrix, or a text with --calibrate")
    need_room(target, file.file_bytes)
    progress = progress or Quiet()
    with workspace(target, "quantized") as folder:
        made = folder / "made.gguf"
        order = {
            "source": str(source),
            "target": str(made),
            "ftype": FILE_TYPES[quant],
            "overrides": [[_expression(each), each.type.id] for each in overrides],
            "n_threads": n_threads,
        }
        if importance:
            order["importance"] = str(folder / "importance.gguf")
            write_importance(Path(order["importance"]), importance)  # type: ignore[arg-type]
        _run(order, quant, file.file_bytes, progress)
        return _named(made, target, quant)


def _expression(override: Override) -> str:
    """llama.cpp searches names for regular expressions."""
    if not any(sign in override.pattern for sign in "*?["):
        return re.escape(override.pattern)
    return "^" + re.escape(override.pattern).replace(r"\*", ".*").replace(r"\?", ".") + "$"


def _run(order: dict[str, object], quant: str, n_bytes: int, progress: Progress) -> None:
    command = [sys.executable, "-m", "edgeinfer.converters.quantize.child"]
    said: list[bytes] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        try:
            child.stdin.write(json.dumps(order).encode())  # type: ignore[union-attr]
            child.stdin.close()  # type: ignore[union-attr]
            for line in child.stderr or ():
                step = _STEP.search(line)
                if step:
                    progress.update(n_bytes * int(step[1]) // max(1, int(step[2])), n_bytes)
                elif line.strip():
                    said = [*said[-20:], line]
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        reasons = [line for line in said if re.search(rb"(?i)error|fail|assert|invalid|missing|abort", line)] or said[
            -1:
        ]
        reason = " ".join(line.decode("utf-8", "replace").strip() for line in reasons[-2:])
        how = f"signal {signal.Signals(-child.returncode).name}" if child.returncode < 0 else "an error"
        raise EdgeInferError(f"llama.cpp's quantizer ended with {how} on {quant}: {reason or 'no reason given'}")


def _named(made: Path, target: Path, quant: str) -> Quantized:
    """Give a finished file its name when it is on disk and sound."""
    with made.open("rb+") as stream:
        os.fsync(stream.fileno())
    file = gguf.read(made)
    sha256 = file_sha256(made)
    types: dict[str, int] = {}
    for tensor in file.tensors.values():
        types[tensor.type.name] = types.get(tensor.type.name, 0) + 1
    os.chmod(made, 0o644)
    os.replace(made, target)
    sync_dir(target.parent)
    info = gguf.model_info(target)
    return Quantized(Written(target, file.file_bytes, sha256), quant, types, info.bits_per_weight, None)
