"""``edgeinfer convert --to gguf``: a checkpoint of Hugging Face's as a GGUF model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.pulling import download_progress, size
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.cli.calibrating import Calibration
    from edgeinfer.converters.quantize.importance import Importance
    from edgeinfer.converters.to_gguf import Converted

__all__ = ["convert_to_gguf"]


def convert_to_gguf(
    model: str,
    out: str,
    quant: str,
    tensor_types: Sequence[str],
    imatrix: Path | None,
    calibration: Calibration,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Convert the checkpoint ``model`` (a folder, or hf:owner/repo) to the file ``out`` and say what came of it."""
    from edgeinfer.converters.output import check_target
    from edgeinfer.converters.quantize.importance import read_importance
    from edgeinfer.converters.quantize.recipes import parse_override, parse_quant
    from edgeinfer.converters.to_gguf import Options, convert

    started = time.monotonic()
    options = Options(
        quant=parse_quant(quant),
        overrides=tuple(map(parse_override, tensor_types)),
        importance=read_importance(imatrix) if imatrix else None,
        force=force,
        source=model if model.startswith("hf:") else None,
    )
    target = Path(out).expanduser()
    check_target(target, force)
    with download_progress(f"converting {printable(model)}") as progress:
        if model.startswith("hf:"):
            from edgeinfer.converters.huggingface.fetching import fetch_checkpoint

            folder = fetch_checkpoint(model, progress)
        else:
            folder = Path(model).expanduser()
    if calibration.text:
        options = replace(options, importance=_importance(folder, target, calibration))
    with download_progress(f"converting {printable(model)}") as progress:
        made = convert(folder, target, options, progress)
    _report(made, time.monotonic() - started, as_json)


def _importance(folder: Path, target: Path, calibration: Calibration) -> Importance | None:
    """What the text says of a checkpoint's weights: read with a model of 16 bits, which is made for it beside the
    target and removed after."""
    from edgeinfer.converters.output import workspace
    from edgeinfer.converters.to_gguf import Options, convert

    with workspace(target, "calibrating") as place:
        whole = place / "whole.gguf"
        with download_progress("preparing to calibrate") as progress:
            convert(folder, whole, Options(quant="BF16"), progress)
        return calibration.importance(str(whole))


def _report(made: Converted, seconds: float, as_json: bool) -> None:
    import json

    for note in made.notes:
        click.echo(f"edgeinfer: note: {printable(note)}", err=True)
    if made.tokenizer_differs:
        click.echo(
            f"edgeinfer: note: {len(made.tokenizer_differs)} of the hard texts are split otherwise than by the "
            f"checkpoint's tokenizer, such as {printable(repr(made.tokenizer_differs[0]))}",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(_summary(made) | {"seconds": round(seconds, 2)}))
        return
    types = ", ".join(f"{count} {name}" for name, count in sorted(made.types.items()))
    click.echo(printable(str(made.written.path)))
    click.echo(f"{size(made.written.n_bytes)}, {made.bits_per_weight:.2f} bits a weight ({types})", err=True)
    if made.relative_error:
        click.echo(f"rounding cost {100 * made.relative_error:.2f} % of the weights (root mean square)", err=True)


def _summary(made: Converted) -> dict[str, Any]:
    return {
        "path": str(made.written.path),
        "bytes": made.written.n_bytes,
        "sha256": made.written.sha256,
        "architecture": made.architecture,
        "quant": made.quant,
        "types": dict(made.types),
        "bits_per_weight": made.bits_per_weight,
        "relative_error": made.relative_error,
        "tokenizer_differs": None if made.tokenizer_differs is None else list(made.tokenizer_differs),
        "notes": list(made.notes),
    }
