"""``edgeinfer convert --to gguf``: a checkpoint of Hugging Face's as a GGUF model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeinfer.cli.building import report
from edgeinfer.cli.pulling import download_progress
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
    _say(made, time.monotonic() - started, as_json)


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


def _say(made: Converted, seconds: float, as_json: bool) -> None:
    differs = made.tokenizer_differs
    if differs:
        click.echo(
            f"edgeinfer: note: {len(differs)} of the hard texts are split otherwise than by the checkpoint's "
            f"tokenizer, such as {printable(repr(differs[0]))}",
            err=True,
        )
    more = {"architecture": made.architecture, "tokenizer_differs": None if differs is None else list(differs)}
    report(made, seconds, as_json, more)
