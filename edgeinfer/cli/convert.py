"""``edgeinfer convert``: models from one format to another."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.building import block_flags, type_flags
from edgeinfer.cli.calibrating import Calibration, activations_flag, calibration_flags
from edgeinfer.cli.convert_gguf import convert_to_gguf
from edgeinfer.cli.convert_static import activation_lines
from edgeinfer.cli.flags import Command, flag
from edgeinfer.cli.options import debug_flag, json_flag
from edgeinfer.cli.pulling import download_progress, size
from edgeinfer.cli.rounding import Rounded
from edgeinfer.errors import UsageError
from edgeinfer.onnx.package import MODES, STATIC_MODES
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.catalog import Progress
    from edgeinfer.converters.to_onnx.rounding import Rounding
    from edgeinfer.onnx.package import Package

__all__ = ["command", "need_converter", "say_package", "say_unknown"]

_VARIANTS = ("cpu", "npu", "cuda")


@click.command("convert", cls=Command)
@click.argument("model")
@click.argument("out")
@click.option("--to", "target", type=click.Choice(["gguf", "onnx"]), required=True, help="The format to write.")
@flag(
    "--quant",
    metavar="TYPE",
    help="For gguf: f32, f16, bf16, q8_0, q4_k_m, … (all of llama.cpp's; default f16). For onnx: keep (default: "
    "weights as they are), f32, f16, bf16, int4, int8 or int8-dynamic (inputs in 8 bits too: "
    "faster), rounded, with the error measured; for NPUs int8-static or int4-static, whose products take integers in "
    "ranges found on a text.",
)
@type_flags("For gguf: ")
@calibration_flags
@flag(
    "--method",
    type=click.Choice(["auto", "rtn", "search", "hqq", "gptq"]),
    default="auto",
    show_default=True,
    help="For onnx int4: to the nearest, with scales of least error, by HQQ (with --zero-points), or by GPTQ, which is "
    "auto with --calibrate.",
)
@block_flags("onnx int4")
@activations_flag("For onnx int8-static and int4-static")
@flag(
    "--variant",
    type=click.Choice([*_VARIANTS, "all"]),
    multiple=True,
    default=("cpu",),
    show_default=True,
    help="For onnx, for what: cpu and cuda share a graph, npu has graphs of fixed shapes. May be repeated.",
)
@flag(
    "-c",
    "--ctx-size",
    "n_ctx",
    type=click.IntRange(min=1),
    metavar="N",
    help="For onnx: context of variant npu, whose graphs have it built in.  [default: 2048]",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_flag
@debug_flag
def command(
    model: str,
    out: str,
    target: str,
    quant: str | None,
    tensor_types: tuple[str, ...],
    imatrix: Path | None,
    calibration: Calibration,
    method: str,
    block_size: str,
    zero_points: bool,
    activations: str | None,
    variant: tuple[str, ...],
    n_ctx: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert MODEL and write it to OUT.

    MODEL is the folder of a Hugging Face checkpoint with safetensors, or hf:owner/repo; to onnx also a GGUF file or a
    catalogue name. OUT is a file for gguf and a new folder for onnx. It appears when it is whole; an interrupted run
    leaves nothing by its name.
    """
    calibration.check(imatrix, model, out, force=force)
    if activations and quant not in STATIC_MODES:
        raise UsageError(f"--activations is for --to onnx --quant {' or '.join(STATIC_MODES)}, with --calibrate")
    if target == "gguf":
        if method != "auto" or zero_points:
            raise UsageError("--method and --zero-points are for --to onnx")
        convert_to_gguf(model, out, quant or "f16", tensor_types, imatrix, calibration, force=force, as_json=as_json)
        return
    if imatrix:
        raise UsageError("--imatrix is for --to gguf")
    if quant not in (None, *MODES):
        raise UsageError(f"--quant {quant} is not one of ONNX's: {', '.join(MODES)}")
    bits = int(activations) if activations else None
    rounded = Rounded(quant or "keep", tensor_types, method, int(block_size), zero_points, calibration, bits)
    rounded.check("--quant ")
    _to_onnx(model, out, variant, rounded, n_ctx=n_ctx, force=force, as_json=as_json)


def _to_onnx(
    model: str,
    folder: str,
    variant: tuple[str, ...],
    rounded: Rounded,
    *,
    n_ctx: int | None,
    force: bool,
    as_json: bool,
) -> None:
    import time

    need_converter()
    from edgeinfer.converters.to_onnx.export import export
    from edgeinfer.converters.to_onnx.folder import check_target
    from edgeinfer.converters.to_onnx.options import Options

    static, mixture = rounded.static(), rounded.mixture()
    started, target = time.monotonic(), Path(folder).expanduser()
    names: Any = _VARIANTS if "all" in variant else variant
    called = Path(model).stem if Path(model).is_file() else model
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(download_progress(f"converting {printable(called)}"))
        path, name, reference = _source(model, progress)
        check_target(target, force)
        rounding = stack.enter_context(rounded.rounding(static, Path(path), target, progress))
        options = Options(mixture=mixture, variant=names, rounding=rounding, name=name, n_ctx=n_ctx, force=force)
        made = (static.export if static else export)(path, target, options, progress, reference)
    say_unknown(rounding)
    say_package(made, time.monotonic() - started, as_json)


def say_unknown(rounding: Rounding) -> None:
    """Of matrices that a text said nothing of."""
    if rounding.unknown:
        click.echo(
            f"edgeinfer: note: nothing is known of what {len(rounding.unknown)} matrices are fed, such as "
            f"{printable(rounding.unknown[0])}; they were rounded by --method search",
            err=True,
        )


def say_package(made: Package, seconds: float, as_json: bool) -> None:
    """Print what came of it, or all of it as JSON."""
    import json

    if as_json:
        click.echo(json.dumps(_summary(made) | {"seconds": round(seconds, 2)}))
        return
    for line in _lines(made):
        click.echo(printable(line))


def _source(model: str, progress: Progress) -> tuple[Path, str, str | None]:
    """Where the model lies, what to call it, and what a checkpoint is to be called in what is made of it. Without a
    quantization hf:owner/repo is the GGUF file of it that is here, else the checkpoint, which is fetched."""
    from edgeinfer import catalog
    from edgeinfer.errors import ModelNotFound

    folder = Path(model).expanduser()
    if folder.is_dir() and not model.startswith("hf:"):
        if (folder / "edgeinfer.json").is_file():
            raise UsageError(
                f"{folder} is an ONNX package already; give the model that it was made from, or see: "
                "edgeinfer quantize --help"
            )
        return folder, folder.resolve().name, None
    try:
        found = catalog.resolve(model)
    except ModelNotFound:
        if not model.startswith("hf:") or model.count(":") > 1:
            raise
        from edgeinfer.converters.huggingface.fetching import fetch_checkpoint

        return fetch_checkpoint(model, progress), model.rpartition("/")[2], model
    return found.path, found.name, None


def need_converter() -> None:
    """Raises `BackendUnavailable` where the converter's libraries are missing."""
    from edgeinfer.errors import BackendUnavailable

    try:
        import edgeinfer.converters.to_onnx.export  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnx_ir", "ml_dtypes"):
            raise
        raise BackendUnavailable(f"converting needs {error.name}: pip install 'edgeinfer[convert]'") from error


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
        "forms": _forms(made),
        "measured": dict(made.measured),
        **({"calibration": asdict(made.calibration)} if made.calibration else {}),
    }


def _forms(made: Package) -> dict[str, int]:
    """How many matrices and vectors have which form."""
    counts: dict[str, int] = {}
    for form in made.tensors.values():
        bits = {"nbits4": "int4", "nbits8": "int8"}.get(form.form, form.form)
        name = (f"{bits}/{form.block}" if form.block else bits) + ("+zeros" if form.zero_points else "")
        counts[name] = counts.get(name, 0) + 1
    return counts


def _lines(made: Package) -> list[str]:
    measured = made.measured
    lines = [f"{made.folder}: {size(_n_bytes(made))}, {measured['bits_per_weight']:.2f} bits a weight"]
    if "relative_error" in measured:
        what = "rounding" if made.mode == "keep" else f"rounding to {made.mode}"
        lines.append(f"{what} cost {100 * measured['relative_error']:.2g} % of the weights (root mean square)")
    elif measured["max_error"]:
        lines.append(
            f"blocks are kept; their least values are rounded by at most {measured['max_error']:.3g} "
            f"({measured['rms_error']:.2g} root mean square) at {measured['correction_bits_per_weight']:.2f} bits each"
        )
    elif made.mode == "keep":
        lines.append("blocks are kept, every weight exactly")
    if "unfit_matrices" in measured:
        lines.append(
            f"{measured['unfit_matrices']:.0f} matrices stay floats: their rows are no whole blocks of 32 weights"
        )
    return [*lines, *activation_lines(made)]
