"""What a package is to be, beside the model that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgeinfer.converters.to_onnx.activations import Activations
from edgeinfer.converters.to_onnx.mixture import Mixture
from edgeinfer.converters.to_onnx.rounding import Rounding
from edgeinfer.errors import UsageError
from edgeinfer.onnx.package import STATIC_MODES, Calibration

__all__ = ["VARIANTS", "Options", "VariantName"]

VariantName = Literal["cpu", "npu", "cuda"]
VARIANTS: tuple[VariantName, ...] = ("cpu", "npu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``mixture``: the forms of matrices, which ``rounding`` rounds to (None: to the nearest). ``activations``: what
    products of variant ``npu`` take and give, of the quants that keep these as integers, and ``calibration`` where that
    is known from (`calibrated.write_calibrated`). ``name``: None for the model's own. ``n_ctx``: the context of that
    variant's graphs (None: 2048, or the model's where that is less), though it is ``most_ctx`` at most. ``force``
    replaces an older package."""

    mixture: Mixture = field(default_factory=Mixture)
    variant: Sequence[VariantName] = ("cpu",)
    rounding: Rounding | None = None
    activations: Activations | None = None
    calibration: Calibration | None = None
    name: str | None = None
    n_ctx: int | None = None
    most_ctx: int | None = None
    force: bool = False

    @property
    def variants(self) -> tuple[VariantName, ...]:
        """Each once, in the order asked for."""
        return tuple(dict.fromkeys(self.variant))

    def check(self) -> None:
        """Raise `UsageError` for integers where no graph has them, or none that anything is known of, for zero points
        that no graph of these has, and for a method that looks for none."""
        self._check_zero_points()
        quant = self.mixture.quant
        if quant not in STATIC_MODES:
            if self.activations is not None:
                raise UsageError(f"{quant} leaves what products take as it is; for integers: {', '.join(STATIC_MODES)}")
            return
        others = [each for each in self.variants if each != "npu"]
        if others:
            raise UsageError(
                f"{quant} is for --variant npu, whose products take integers in ranges found beforehand, and not for "
                f"{' and '.join(others)}: int8 or int8-dynamic finds them as it runs"
            )
        if self.activations is None:
            raise UsageError(f"{quant} finds the ranges of what products take on a text; give one with --calibrate")

    def _check_zero_points(self) -> None:
        if self.rounding is not None and self.rounding.method == "hqq" and not self.mixture.zero_points:
            raise UsageError("method hqq looks for zero points; --zero-points has them, and --method search is without")
        if self.mixture.zero_points and "npu" in self.variants:
            raise UsageError("zero points are for variants cpu and cuda: graphs of variant npu step around zero")
