"""What the commands that write a model share: flags on the types of its tensors, and what is said of a GGUF one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from edgeinfer.cli.flags import flag, together
from edgeinfer.cli.pulling import size
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.converters.output import Written

__all__ = ["Built", "block_flags", "report", "type_flags"]

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Built(Protocol):
    """A finished build, by whichever converter."""

    @property
    def written(self) -> Written: ...

    @property
    def quant(self) -> str: ...

    @property
    def types(self) -> Mapping[str, int]: ...

    @property
    def bits_per_weight(self) -> float: ...

    @property
    def relative_error(self) -> float | None: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


def type_flags(only: str = "") -> Callable[[F], F]:
    """``--tensor-type`` and ``--imatrix``; ``only`` begins the help of what is for one format."""
    types = flag(
        "--tensor-type",
        "tensor_types",
        multiple=True,
        metavar="PATTERN=TYPE",
        help="A type of their own for tensors whose names match: attn_v=q6_k, 'blk.0.*=q8_0'; of ONNX packages int4, "
        "int8, f16, bf16, f32 or keep. May be repeated.",
    )
    importance = f"{only}{'importance' if only else 'Importance'} of weights, as llama.cpp writes it."
    imatrix = flag("--imatrix", type=_FILE, metavar="FILE", help=importance)
    return together(types, imatrix)


def block_flags(what: str) -> Callable[[F], F]:
    """``--block-size`` and ``--zero-points``, which are for that only."""
    block = flag(
        "--block-size",
        type=click.Choice(["32", "64", "128"]),
        default="32",
        show_default=True,
        help=f"For {what}: weights that share a scale.",
    )
    around = f"For {what}, variants cpu and cuda: blocks step around a point of their own, at half a byte each: closer."
    return together(block, flag("--zero-points", is_flag=True, help=around))


def report(made: Built, seconds: float, as_json: bool, more: Mapping[str, Any], by: str = "") -> None:
    """Print where a build lies, or all of it as JSON with ``more``; what a user should know goes to stderr."""
    for note in made.notes:
        click.echo(f"edgeinfer: note: {printable(note)}", err=True)
    if as_json:
        summary = {
            "path": str(made.written.path),
            "bytes": made.written.n_bytes,
            "sha256": made.written.sha256,
            "quant": made.quant,
            "types": dict(made.types),
            "bits_per_weight": made.bits_per_weight,
            "relative_error": made.relative_error,
            "notes": list(made.notes),
            "seconds": round(seconds, 2),
        }
        click.echo(json.dumps(summary | dict(more)))
        return
    types = ", ".join(f"{count} {name}" for name, count in sorted(made.types.items()))
    click.echo(printable(str(made.written.path)))
    click.echo(f"{size(made.written.n_bytes)}, {made.bits_per_weight:.2f} bits a weight ({types}){by}", err=True)
    if made.relative_error:
        click.echo(f"rounding cost {100 * made.relative_error:.2f} % of the weights (root mean square)", err=True)
