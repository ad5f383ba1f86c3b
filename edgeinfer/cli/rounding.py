"""How the flags of ``convert --to onnx`` and of ``quantize`` want the weights of a package to be rounded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.cli.calibrating import Calibration
from edgeinfer.cli.convert_static import Static
from edgeinfer.errors import UsageError
from edgeinfer.onnx.package import STATIC_MODES

if TYPE_CHECKING:
    from edgeinfer.catalog import Progress
    from edgeinfer.converters.to_onnx.mixture import Mixture
    from edgeinfer.converters.to_onnx.rounding import Rounding

__all__ = ["Rounded"]


@dataclass(frozen=True, slots=True)
class Rounded:
    """What the flags said. Of activations ``bits``, None where nothing was said."""

    quant: str
    tensor_types: tuple[str, ...]
    method: str
    block: int
    zero_points: bool
    calibration: Calibration
    bits: int | None

    def check(self, flag: str = "") -> None:
        """Raises `UsageError` for flags that do not go together. ``flag``: what messages say before a quant."""
        static = self.quant in STATIC_MODES
        four_bits = self.quant == "int4" or any(each.lower().endswith("=int4") for each in self.tensor_types)
        if not four_bits and not static and (self.calibration.text or self.method != "auto"):
            raise UsageError(f"--calibrate and --method are for {flag}int4, {' and '.join(STATIC_MODES)}")
        if static and (self.zero_points or self.method == "hqq"):
            raise UsageError(f"--zero-points and --method hqq are not for {flag}{self.quant}, which steps around zero")
        if static and self.tensor_types:
            raise UsageError(f"--tensor-type is not for {flag}{self.quant}, whose products need one kind of weights")

    def mixture(self) -> Mixture:
        """The forms of matrices. Raises `UsageError` for a type that there is not."""
        from edgeinfer.converters.to_onnx.mixture import Mixture, parse_form_override

        quant: Any = self.quant
        block: Any = self.block
        return Mixture(quant, block, tuple(map(parse_form_override, self.tensor_types)), self.zero_points)

    def static(self) -> Static | None:
        """How integers are found for what products take; None where that stays as it is. Raises as `Static`."""
        known = self.quant in STATIC_MODES
        return Static(self.quant, self.calibration, self.method, self.bits) if known else None

    def rounding(
        self, static: Static | None, model: Path, out: Path, progress: Progress
    ) -> AbstractContextManager[Rounding]:
        """How to round the weights of the model at ``model`` for the package ``out``."""
        if static is not None:
            return static.rounding(model, out, progress)
        return self.calibration.rounding(self.method, model, out, progress)
