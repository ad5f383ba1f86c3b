"""``edgeinfer quantize``: a GGUF model in other types, by our quantizers or llama.cpp's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.calibrating import Calibration, calibration_flags
from edgeinfer.cli.options import Command, debug_flag, flag, json_flag
from edgeinfer.cli.pulling import download_progress, size
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.converters.quantize.ours import Quantized

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("quantize", cls=Command)
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--type", "quant", required=True, metavar="TYPE", help="q8_0, q4_k_m, q5_k_m, q6_k, iq4_nl, … .")
@flag(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="PATTERN=TYPE",
    help="A type of their own for tensors whose names match: attn_v=q6_k, 'blk.0.*=q8_0'. May be repeated.",
)
@flag("--imatrix", type=_FILE, metavar="FILE", help="Importance of weights, as llama.cpp's tools write it.")
@calibration_flags
@flag(
    "--with",
    "by",
    type=click.Choice(["auto", "edgeinfer", "llama.cpp"]),
    default="auto",
    show_default=True,
    help="Whose quantizer; auto takes ours for the types that it makes.",
)
@flag(
    "--method",
    type=click.Choice(["auto", "importance", "gptq"]),
    default="auto",
    show_default=True,
    help="What --calibrate is used for: the importance of columns, or that and what rounding a weight costs taken back "
    "by others, which takes a few minutes for a billion weights and is auto.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_flag
@debug_flag
def command(
    model: str,
    out: Path,
    quant: str,
    tensor_types: tuple[str, ...],
    imatrix: Path | None,
    calibration: Calibration,
    by: str,
    method: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write MODEL, a GGUF file or a catalogue name, to OUT with its weights in other types.

    OUT appears when it is whole and has been read back; an interrupted run leaves nothing by its name.
    """
    import time

    from edgeinfer import catalog
    from edgeinfer.converters.output import check_target
    from edgeinfer.converters.quantize.importance import read_importance
    from edgeinfer.converters.quantize.ours import to_be_fed_back
    from edgeinfer.converters.quantize.recipes import parse_override, parse_quant

    started = time.monotonic()
    name = parse_quant(quant)
    overrides = tuple(map(parse_override, tensor_types))
    quantizer = _quantizer(name, by, [each.type.name for each in overrides])
    calibration.check(imatrix)
    source = catalog.resolve(model)
    check_target(out, force)
    fed_back = _feeds_back(method, quantizer.__name__, calibration)
    known: dict[str, Any] = {"importance": read_importance(imatrix) if imatrix else None}
    with calibration.reader(str(source.path)) as calibrator:
        if calibrator is not None:
            known["importance"] = calibration.importance_of(calibrator)
        with download_progress(f"quantizing {printable(source.name)}") as progress:
            if calibrator is not None and fed_back:
                names = to_be_fed_back(calibrator.file, name, overrides)
                known["inputs"] = calibration.inputs(calibrator, names, progress.note)
            made = quantizer(source.path, out, name, overrides=overrides, force=force, progress=progress, **known)
    _report(made, quantizer.__name__, time.monotonic() - started, as_json)


def _quantizer(quant: str, by: str, types: list[str]) -> Any:
    """The function that does it. Raises `UsageError` for a type that ours does not make."""
    from edgeinfer import kernels
    from edgeinfer.converters.quantize.ours import quantize_ours
    from edgeinfer.converters.quantize.recipes import OUR_TYPES
    from edgeinfer.converters.quantize.theirs import quantize_theirs
    from edgeinfer.errors import UsageError
    from edgeinfer.kernels.formats import FORMATS

    possible = quant in OUR_TYPES and all(name in FORMATS or name == "F32" for name in types)
    if by == "edgeinfer" and not possible:
        raise UsageError(f"our quantizer makes {', '.join(OUR_TYPES)}; for {quant} say --with llama.cpp")
    ours = by == "edgeinfer" or (by == "auto" and possible and kernels.available())
    return quantize_ours if ours else quantize_theirs


def _feeds_back(method: str, quantizer: str, calibration: Calibration) -> bool:
    """Raises `UsageError` for GPTQ that cannot be."""
    from edgeinfer.errors import UsageError

    possible = quantizer == "quantize_ours" and calibration.text is not None
    if method == "gptq" and not possible:
        raise UsageError(
            "--method gptq is our quantizer's and learns from a text: give --calibrate, and a type of ours"
        )
    return possible and method != "importance"


def _report(made: Quantized, how: str, seconds: float, as_json: bool) -> None:
    import json

    by = "edgeinfer" if how == "quantize_ours" else "llama.cpp"
    for note in made.notes:
        click.echo(f"edgeinfer: note: {printable(note)}", err=True)
    if as_json:
        summary = {
            "path": str(made.written.path),
            "bytes": made.written.n_bytes,
            "sha256": made.written.sha256,
            "quant": made.quant,
            "by": by,
            "types": dict(made.types),
            "bits_per_weight": made.bits_per_weight,
            "relative_error": made.relative_error,
            "notes": list(made.notes),
            "seconds": round(seconds, 2),
        }
        click.echo(json.dumps(summary))
        return
    types = ", ".join(f"{count} {name}" for name, count in sorted(made.types.items()))
    click.echo(printable(str(made.written.path)))
    click.echo(f"{size(made.written.n_bytes)}, {made.bits_per_weight:.2f} bits a weight ({types}), by {by}", err=True)
    if made.relative_error:
        click.echo(f"rounding cost {100 * made.relative_error:.2f} % of the weights (root mean square)", err=True)
