"""The table of builds: a model in every form that is worth comparing, made and measured by one command.

    python tools/builds.py smollm2-135m

The model is a catalogue name, a GGUF file, of which a checkpoint is rebuilt first (`gguf_to_hf`), or the folder of a
checkpoint. Every build is one ``edgeinfer`` command, which ``--verbose`` prints; all are held against the
checkpoint's float16 model by one run of ``edgeinfer evaluate``. Builds lie in the cache folder and are made once;
``--fresh`` makes them again. Builds whose weights are rounded by their importance are made where ``--calibrate TEXT``
or ``--imatrix FILE`` says what that is; the text that is measured on must be another.

Prints the table as Markdown, and before it the command that printed it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_to_hf import rebuild

from edgeinfer import __version__, catalog, env

HEADS = ("build", "size (MB)", "bits/weight", "mean KL", "99 % KL", "same first", "prefill t/s", "decode t/s")
CHECKPOINT, IMATRIX, TEXT = "CHECKPOINT", "IMATRIX", "TEXT"
"""Words of a command that stand for files known when it runs, and of which builds are left out that want others;
another build's name stands for its file."""


@dataclass(frozen=True)
class Build:
    """``words``: how a row of the table names it. ``command``: what comes after ``edgeinfer``, less the output."""

    name: str
    words: str
    command: tuple[str, ...]


def _gguf(quant: str, *more: str) -> tuple[str, ...]:
    return ("convert", CHECKPOINT, "--to", "gguf", "--quant", quant, *more)


def _calibrated(quant: str) -> tuple[str, ...]:
    return ("quantize", REFERENCE.name, "--type", quant, "--calibrate", TEXT)


def _onnx(source: str, quant: str, *more: str) -> tuple[str, ...]:
    return ("convert", source, "--to", "onnx", "--quant", quant, *more)


REFERENCE = Build("f16.gguf", "GGUF F16 (reference)", _gguf("f16"))
BUILDS = (
    Build("q8_0.gguf", "GGUF Q8_0", _gguf("q8_0")),
    Build("q4_k_m.gguf", "GGUF Q4_K_M", _gguf("q4_k_m")),
    Build("q4_k_m-imatrix.gguf", "GGUF Q4_K_M, importance", _gguf("q4_k_m", "--imatrix", IMATRIX)),
    Build("q4_k_m-calibrated.gguf", "GGUF Q4_K_M, calibrated", _calibrated("q4_k_m")),
    Build("q4_0.gguf", "GGUF Q4_0", _gguf("q4_0")),
    Build("q4_0-imatrix.gguf", "GGUF Q4_0, importance", _gguf("q4_0", "--imatrix", IMATRIX)),
    Build("q4_0-calibrated.gguf", "GGUF Q4_0, calibrated", _calibrated("q4_0")),
    Build("onnx-int8", "ONNX INT8", _onnx(REFERENCE.name, "int8")),
    Build("onnx-q4_k_m", "ONNX, blocks of Q4_K_M kept", _onnx("q4_k_m.gguf", "keep")),
    Build("onnx-int4", "ONNX INT4", _onnx(REFERENCE.name, "int4")),
    Build("onnx-int4-calibrated", "ONNX INT4, calibrated", _onnx(REFERENCE.name, "int4", "--calibrate", TEXT)),
)


class Maker:
    """Makes builds in a folder, each once."""

    def __init__(self, folder: Path, files: dict[str, Path | None], verbose: bool) -> None:
        self.folder = folder
        self._verbose = verbose
        self._files = {word: str(path) for word, path in files.items() if path is not None}

    def can(self, build: Build) -> bool:
        return all(word in self._files or word not in build.command for word in (IMATRIX, TEXT))

    def made(self, build: Build) -> Path:
        """Where the build lies. What has its name is whole, so it is not made again."""
        path = self.folder / build.name
        self._files[build.name] = str(path)
        if not path.exists():
            command, *rest = (self._files.get(word, word) for word in build.command)
            edgeinfer([command, rest[0], str(path), *rest[1:]], self._verbose)
        return path


def edgeinfer(arguments: Sequence[str], verbose: bool) -> str:
    """Run a command of ours as its users do; answers its standard output. Ends the program where it fails."""
    if verbose:
        print(f"edgeinfer {shlex.join(arguments)}", file=sys.stderr, flush=True)
    found = subprocess.run(
        [sys.executable, "-m", "edgeinfer", *arguments], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    if found.returncode:
        sys.exit(f"edgeinfer {shlex.join(arguments)} failed with exit code {found.returncode}")
    return found.stdout


def checkpoint_of(model: str, folder: Path) -> Path:
    """The checkpoint itself, or one that is rebuilt in ``folder`` from a GGUF model."""
    if (Path(model) / "config.json").is_file():
        return Path(model)
    made = folder / "checkpoint"
    if not made.exists():
        partial = folder / "checkpoint.partial"
        shutil.rmtree(partial, ignore_errors=True)
        rebuild(catalog.ensure(model).path, partial)
        partial.rename(made)
    return made


def line_of(build: Build, row: dict[str, Any]) -> list[str]:
    """A row of the table from one of ``edgeinfer evaluate --json``."""
    apart = row["divergence"]
    compared = ["", "", ""]
    if apart is not None:
        compared = [f"{apart['kl_mean']:.4f}", f"{apart['kl_p99']:.3f}", f"{apart['agreement']['value']:.1%}"]
    speeds = [f"{row[key]:.0f}" for key in ("prefill_tps", "decode_tps")]
    return [build.words, f"{row['file_bytes'] / 1e6:.0f}", f"{row['bits_per_weight']:.2f}", *compared, *speeds]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = [HEADS, ("---", *["---:"] * (len(HEADS) - 1)), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a catalogue name, a GGUF file, or the folder of a checkpoint")
    parser.add_argument("--calibrate", type=Path, metavar="TEXT", help="a text, for the builds that use one")
    parser.add_argument(
        "--imatrix", type=Path, metavar="FILE", help="importance of weights, for the builds that use it"
    )
    parser.add_argument("--positions", type=int, default=2048, help="tokens of the text that is read (%(default)s)")
    parser.add_argument("--text", type=Path, help="a text of yours; one that ships otherwise")
    parser.add_argument("--folder", type=Path, help="where builds lie (a folder of the cache)")
    parser.add_argument("--fresh", action="store_true", help="make all builds again")
    parser.add_argument("--verbose", action="store_true", help="print the command of each build")
    args = parser.parse_args()
    folder = args.folder or env.cache_dir() / "builds" / f"{Path(args.model).name}-{__version__}"
    if args.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    files = {CHECKPOINT: checkpoint_of(args.model, folder), IMATRIX: args.imatrix, TEXT: args.calibrate}
    maker = Maker(folder, files, args.verbose)
    builds = [build for build in (REFERENCE, *BUILDS) if maker.can(build)]
    paths = [str(maker.made(build)) for build in builds]
    options = ["--positions", str(args.positions), "--tasks", "none", "--json"]
    options += ["--text", str(args.text)] if args.text else []
    answer = edgeinfer(["evaluate", *paths[1:], "--against", paths[0], *options], args.verbose)
    rows = json.loads(answer.splitlines()[-1])["models"]
    print(f"`python tools/builds.py {shlex.join(sys.argv[1:])}`\n")
    print(markdown([line_of(build, row) for build, row in zip(builds, rows, strict=True)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
