"""``--calibrate``: what a text says of a model's weights, for the commands that quantize."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeinfer import files
from edgeinfer.cli.flags import flag
from edgeinfer.cli.options import read_text
from edgeinfer.cli.reporting import MOST_TEXT_BYTES, TEXT_FILE
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.calibrate import Calibrator, Hessians, Sample
    from edgeinfer.calibrate.hessians import Reading
    from edgeinfer.catalog import Progress
    from edgeinfer.converters.quantize.importance import Importance
    from edgeinfer.converters.to_onnx.rounding import Rounding

__all__ = ["Calibration", "activations_flag", "calibration_flags"]

F = TypeVar("F", bound=Callable[..., Any])
_N_TOKENS = 16384
_MOST_BYTES = 1 << 30
"""Of products of activations at once; with more, the text is read less often."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the flags said: a text, how much of it (None: as what it is for needs), and where to keep what is found."""

    text: Path | None = None
    n_tokens: int | None = None
    save: Path | None = None

    def check(self, imatrix: Path | None, model: str, out: str | Path, *, force: bool) -> None:
        """Raises `UsageError` for flags that do not go together, and where ``save`` is a file that is there already
        (without ``force``) or one that the command reads or writes besides."""
        if self.text and imatrix:
            raise UsageError("--imatrix and --calibrate are two ways to the same; give one of them")
        if self.save and not self.text:
            raise UsageError("--save-imatrix keeps what --calibrate finds; give a text")
        if self.save and self.text:
            if any(files.is_same(self.save, other) for other in (model, out, self.text)):
                raise UsageError(f"--save-imatrix {self.save} is another file of this command; give another name")
            if self.save.exists() and not force:
                raise UsageError(f"{self.save} exists already; pass --force to replace it")

    def sample(self, n_tokens: int = _N_TOKENS) -> Sample:
        """At most ``n_tokens``, where the flags do not say. Raises `UsageError` without a text, or where it cannot be
        read."""
        from edgeinfer.calibrate import Sample

        if self.text is None:
            raise UsageError("give a text with --calibrate")
        return Sample.of(read_text(self.text, "text", MOST_TEXT_BYTES), self.text.name, self.n_tokens or n_tokens)

    def importance(self, model: str) -> Importance | None:
        """Of a GGUF model's weights; None without a text. Written to ``save``, if there is one. Raises as
        `Calibrator`."""
        with self.reader(model) as calibrator:
            return None if calibrator is None else self.importance_of(calibrator)

    @contextlib.contextmanager
    def reader(self, model: str) -> Iterator[Calibrator | None]:
        """The model, open to read the text; None without one. Raises as `Calibrator`."""
        from edgeinfer.calibrate import Calibrator

        if self.text is None:
            yield None
            return
        with Calibrator(model, self.sample()) as calibrator:
            yield calibrator

    def importance_of(self, calibrator: Calibrator) -> Importance:
        """As `importance`, of an open model."""
        from edgeinfer.cli.progress import bar
        from edgeinfer.converters.quantize.importance import write_importance

        with bar() as told:
            calibrator.told = functools.partial(told, f"reading {calibrator.sample.name}")
            try:
                found = _importance(calibrator)
            finally:
                calibrator.told = silent
        if self.save:
            write_importance(self.save, found)
        return found

    def inputs(self, calibrator: Calibrator, names: Sequence[str], said: Callable[[str], None]) -> Hessians:
        """What the matrices of these names are fed, in that order."""
        from edgeinfer.calibrate import Hessians

        return Hessians(calibrator, _MOST_BYTES, said, names)

    @contextlib.contextmanager
    def rounding(self, method: str, model: Path, out: Path, progress: Progress) -> Iterator[Rounding]:
        """How to round the weights of the model at ``model`` for the package ``out``: "auto" is gptq with a text and
        rtn without. Raises as `Calibrator` and `PackageReader`, and `UsageError` for a method and a text that do not
        go together."""
        from edgeinfer.calibrate import Hessians
        from edgeinfer.converters.to_onnx.rounding import Rounding

        chosen: Any = ("gptq" if self.text else "rtn") if method == "auto" else method
        if self.save:
            raise UsageError("--save-imatrix is for GGUF")
        if self.text is None:
            yield Rounding(chosen)
            return
        if chosen != "gptq":
            raise UsageError(f"--method {chosen} has no use for a text; leave --calibrate out")
        with self._reading(model, out, progress) as reading:
            yield Rounding(chosen, Hessians(reading, _MOST_BYTES, progress.note))

    @contextlib.contextmanager
    def _reading(self, model: Path, out: Path, progress: Progress) -> Iterator[Reading]:
        """Who reads the text: a GGUF model, or a package. Of a checkpoint, and of a package that has graphs of fixed
        shapes alone, one is made for it beside ``out`` and removed after."""
        from edgeinfer.calibrate import Calibrator, PackageReader
        from edgeinfer.converters.output import workspace
        from edgeinfer.converters.to_onnx.export import export
        from edgeinfer.converters.to_onnx.mixture import Mixture
        from edgeinfer.converters.to_onnx.options import Options
        from edgeinfer.onnx.package import MANIFEST, read

        sample = self.sample()
        if model.is_file():
            with Calibrator(str(model), sample) as calibrator:
                yield calibrator
            return
        package = read(model) if (model / MANIFEST).is_file() else None
        if package is not None and PackageReader.reads(package):
            yield PackageReader(model, sample)
            return
        with workspace(out, "reading") as place:
            progress.note(f"preparing to read {sample.name}")
            whole = Options(mixture=Mixture("int8" if package is None else "keep"))  # what is read hardly depends on it
            export(model, place / "whole", whole, progress)
            yield PackageReader(place / "whole", sample)


def silent(_done: int, _total: int) -> None:
    """Progress that nobody sees."""


def _importance(calibrator: Calibrator) -> Importance:
    from edgeinfer.converters.quantize.importance import EXTRA, Importance, Statistics

    sample = calibrator.sample
    entries = {name: Statistics(one.sums, one.counts) for name, one in calibrator.squares().items()}
    missing = sorted(set(calibrator.shapes()) - set(entries))
    if missing:
        click.echo(
            f"edgeinfer: note: {len(missing)} weights are not multiplied by our kernels, so that nothing is known of "
            f"them, such as {missing[0]}",
            err=True,
        )
    extra = {EXTRA + "sha256": sample.sha256}
    return Importance(entries, sample.name, calibrator.n_windows, sample.n_window, extra)


def activations_flag(what: str) -> Callable[[F], F]:
    """``--activations``, for ``what``."""
    return flag(
        "--activations",
        type=click.Choice(["8", "16"]),
        help=f"{what}: bits of what is multiplied with weights.  [default: 16]",
    )


def calibration_flags(command: F) -> F:
    """``--calibrate``, ``--calibrate-tokens`` and ``--save-imatrix``, as one argument ``calibration``."""

    @functools.wraps(command)
    def called(**flags: Any) -> Any:
        text, n_tokens, save = (flags.pop(name) for name in ("calibrate", "calibrate_tokens", "save_imatrix"))
        return command(**flags, calibration=Calibration(text, n_tokens, save))

    for add in (
        flag(
            "--save-imatrix",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Keep what --calibrate finds, as llama.cpp's tools have it (.gguf, or .dat for their older form).",
        ),
        flag(
            "--calibrate-tokens",
            type=click.IntRange(min=64),
            metavar="N",
            help="How much of the text to read.  [default: 16384; for ranges of activations 4096]",
        ),
        flag(
            "--calibrate",
            type=TEXT_FILE,
            metavar="FILE",
            help="A text like those that the model is for: weights that matter more on it are kept more exactly.",
        ),
    ):
        called = add(called)
    return called  # type: ignore[return-value]
