"""``edgeinfer convert``: models from one format to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.options import Command, debug_flag, flag, json_flag
from edgeinfer.cli.pulling import download_progress, size
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.onnx.package import Package

__all__ = ["command"]

_VARIANTS = ("cpu", "npu", "cuda")


@click.command("convert", cls=Command)
@click.argument("model")
@click.argument("folder", metavar="DIR")
@click.option("--to", "target", type=click.Choice(["onnx"]), required=True, help="The format to write.")
@flag(
    "--variant",
    type=click.Choice([*_VARIANTS, "all"]),
    multiple=True,
    default=("cpu",),
    show_default=True,
    help="For what: cpu and cuda share a graph, npu has graphs of fixed shapes. May be repeated.",
)
@flag(
    "--quant",
    type=click.Choice(["keep", "int4", "int8"]),
    default="keep",
    show_default=True,
    help="keep: weights as they are. int4, int8: rounded once more, with the error measured.",
)
@flag(
    "-c",
    "--ctx-size",
    "n_ctx",
    type=click.IntRange(min=1),
    metavar="N",
    help="Context of variant npu, whose graphs have it built in.  [default: 2048]",
)
@click.option("--force", is_flag=True, help="Replace an older package.")
@json_flag
@debug_flag
def command(
    model: str,
    folder: str,
    target: str,  # noqa: ARG001
    variant: tuple[str, ...],
    quant: str,
    n_ctx: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert MODEL into a new folder DIR.

    MODEL is a GGUF file or a catalogue name. The folder appears when it is whole; an interrupted run leaves nothing.
    """
    import json
    import time

    export = _converter()
    from edgeinfer import catalog

    started = time.monotonic()
    source = catalog.resolve(model)
    names: Any = _VARIANTS if "all" in variant else variant
    with download_progress(f"converting {printable(source.name)}") as progress:
        made = export(
            source.path,
            folder,
            variant=names,
            quant=quant,
            name=source.name,
            n_ctx=n_ctx,
            force=force,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(_summary(made) | {"seconds": round(time.monotonic() - started, 2)}))
        return
    for line in _lines(made):
        click.echo(printable(line))


def _converter() -> Any:
    """The converter. Raises `BackendUnavailable` where its libraries are missing."""
    from edgeinfer.errors import BackendUnavailable

    try:
        from edgeinfer.converters.to_onnx.export import export
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnx_ir", "ml_dtypes"):
            raise
        raise BackendUnavailable(f"converting needs {error.name}: pip install 'edgeinfer[convert]'") from error
    return export


def _n_bytes(made: Package) -> int:
    files = dict(made.files)
    for variant in made.variants.values():
        files |= variant.files
    return sum(file.bytes for file in files.values())


def _summary(made: Package) -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "name": made.name,
        "architecture": made.architecture,
        "quant": made.mode,
        "variants": sorted(made.variants),
        "bytes": _n_bytes(made),
        "measured": dict(made.measured),
    }


def _lines(made: Package) -> list[str]:
    measured = made.measured
    lines = [f"{made.folder}: {size(_n_bytes(made))}, {measured['bits_per_weight']:.2f} bits a weight"]
    if "relative_error" in measured:
        lines.append(
            f"rounding to {made.mode} cost {100 * measured['relative_error']:.2f} % of the weights (root mean square); "
            f"the largest error is {measured['max_error']:.3g}"
        )
    elif measured["max_error"]:
        lines.append(
            f"blocks are kept; their least values are rounded by at most {measured['max_error']:.3g} "
            f"({measured['rms_error']:.2g} root mean square) at {measured['correction_bits_per_weight']:.2f} bits each"
        )
    else:
        lines.append("blocks are kept, every weight exactly")
    return lines
