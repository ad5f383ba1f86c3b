"""``edgeinfer quantize``: a GGUF model in other types, by our quantizers or llama.cpp's; an ONNX package in other
forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeinfer.cli.building import block_flags, report, type_flags
from edgeinfer.cli.calibrating import Calibration, activations_flag, calibration_flags
from edgeinfer.cli.flags import Command, flag
from edgeinfer.cli.options import debug_flag, json_flag
from edgeinfer.cli.pulling import download_progress
from edgeinfer.cli.quantize_onnx import package_of, quantize_onnx
from edgeinfer.cli.rounding import Rounded
from edgeinfer.errors import UsageError
from edgeinfer.text.printable import printable

__all__ = ["command"]

_ONLY_GGUF = "--imatrix and --with are for GGUF models; of packages --calibrate finds what their weights are fed"


@click.command("quantize", cls=Command)
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--type", "quant", required=True, metavar="TYPE", help="q8_0, q4_k_m, q5_k_m, …; of packages int8, int4, …."
)
@type_flags()
@calibration_flags
@flag(
    "--with",
    "by",
    type=click.Choice(["auto", "edgeinfer", "llama.cpp"]),
    default="auto",
    show_default=True,
    help="Whose quantizer, for GGUF; auto takes ours for the types that it makes.",
)
@flag(
    "--method",
    type=click.Choice(["auto", "importance", "gptq", "rtn", "search", "hqq"]),
    default="auto",
    show_default=True,
    help="For GGUF what --calibrate is used for: the importance of columns, or that and what rounding a weight costs "
    "taken back by others (gptq), which takes a few minutes for a billion weights and is auto. For int4 of packages: "
    "rtn, to the nearest (auto), search, with scales of least error, hqq, with --zero-points, or gptq, which is auto "
    "with --calibrate.",
)
@block_flags("int4 of packages")
@activations_flag("For int8-static and int4-static of packages")
@flag(
    "-c",
    "--ctx-size",
    "n_ctx",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of packages: context of variant npu, whose graphs have it built in.  [default: as it is]",
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
    block_size: str,
    zero_points: bool,
    activations: str | None,
    n_ctx: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write MODEL, a GGUF file or a catalogue name, to OUT with its weights in other types: as --type says, such as
    q8_0, q4_k_m, q5_k_m, q6_k or iq4_nl.

    MODEL may also be the folder of an ONNX package; OUT is a new folder then, with the same variants, and TYPE one of
    int8, int8-dynamic (inputs in 8 bits too), int4, f16, bf16 and f32, or int8-static and int4-static, whose only
    variant is npu and whose products take integers in ranges found on the text that --calibrate gives.

    OUT appears when it is whole and has been read back; an interrupted run leaves nothing by its name.
    """
    import time

    from edgeinfer import catalog
    from edgeinfer.converters.output import check_target
    from edgeinfer.converters.quantize.importance import read_importance
    from edgeinfer.converters.quantize.ours import to_be_fed_back
    from edgeinfer.converters.quantize.recipes import parse_override, parse_quant

    started = time.monotonic()
    calibration.check(imatrix, model, out, force=force)
    package = package_of(model)
    if package is not None:
        if imatrix or by != "auto":
            raise UsageError(_ONLY_GGUF)
        bits = int(activations) if activations else None
        rounded = Rounded(quant.lower(), tensor_types, method, int(block_size), zero_points, calibration, bits)
        quantize_onnx(package, out, rounded, n_ctx, force=force, as_json=as_json)
        return
    if method in ("rtn", "search", "hqq") or block_size != "32" or zero_points or activations or n_ctx:
        raise UsageError(
            "--method rtn, search and hqq, --block-size, --zero-points, --activations and --ctx-size are for ONNX "
            "packages"
        )
    name = parse_quant(quant)
    overrides = tuple(map(parse_override, tensor_types))
    quantizer = _quantizer(name, by, [each.type.name for each in overrides])
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
    who = "edgeinfer" if quantizer.__name__ == "quantize_ours" else "llama.cpp"
    report(made, time.monotonic() - started, as_json, {"by": who}, by=f", by {who}")


def _quantizer(quant: str, by: str, types: list[str]) -> Any:
    """The function that does it. Raises `UsageError` for a type that ours does not make."""
    from edgeinfer import kernels
    from edgeinfer.converters.quantize.ours import quantize_ours
    from edgeinfer.converters.quantize.recipes import OUR_TYPES
    from edgeinfer.converters.quantize.theirs import quantize_theirs
    from edgeinfer.kernels.formats import FORMATS

    possible = quant in OUR_TYPES and all(name in FORMATS or name == "F32" for name in types)
    if by == "edgeinfer" and not possible:
        raise UsageError(f"our quantizer makes {', '.join(OUR_TYPES)}; for {quant} say --with llama.cpp")
    ours = by == "edgeinfer" or (by == "auto" and possible and kernels.available())
    return quantize_ours if ours else quantize_theirs


def _feeds_back(method: str, quantizer: str, calibration: Calibration) -> bool:
    """Raises `UsageError` for GPTQ that cannot be."""
    possible = quantizer == "quantize_ours" and calibration.text is not None
    if method == "gptq" and not possible:
        raise UsageError(
            "--method gptq is our quantizer's and learns from a text: give --calibrate, and a type of ours"
        )
    return possible and method != "importance"
