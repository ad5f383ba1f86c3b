"""What conversions take and survive, measured from outside on ``edgeinfer convert`` and ``quantize`` as users run them.

    python tools/conversion_faults.py memory qwen2.5-coder-1.5b --to gguf:f16 --to onnx:int8
    python tools/conversion_faults.py kills smollm2-135m --times 50
    python tools/conversion_faults.py full smollm2-135m --times 50
    python tools/conversion_faults.py kills smollm2-135m --quantize gguf:q4_0 --quantize onnx:int4 --calibrate TEXT

memory  the peak of each conversion's resident memory, as the system counted it
kills   kill -9 at random moments: what has the final name afterwards, old or new, passes ``edgeinfer models verify``,
        and the run after the last one succeeds and leaves nothing else
full    no file may grow beyond a limit, which lies at every part of the largest one in turn: the run fails with a line
        that says so, what has the final name passes, nothing else is left

The model is a catalogue name or a GGUF file, of which a checkpoint is rebuilt (`gguf_to_hf`), or the folder of a
checkpoint; ``--from-gguf`` converts the GGUF file itself. ``--quantize`` takes the GGUF file as it is, or a package of
halves that is made of the model first. With ``--calibrate`` those that can learn from a text do. Prints a line of JSON
for each conversion; exit code 1 where something was damaged or left. For POSIX systems.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = ("gguf:q8_0", "gguf:q4_k_m", "onnx:int8", "onnx:int4")
_UNIT = 1024 if sys.platform != "darwin" else 1  # of ru_maxrss


@dataclass(frozen=True)
class Conversion:
    """One command, its output, and the names that may lie beside it when nobody writes."""

    source: Path
    out: Path
    words: Sequence[str]

    @property
    def command(self) -> list[str]:
        verb, *flags = self.words
        return [sys.executable, "-m", "edgeinfer", verb, str(self.source), str(self.out), "--force", *flags]

    def clear(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.unlink(missing_ok=True)

    def left(self) -> list[str]:
        """What lies in the output's folder that is not the output."""
        return sorted(path.name for path in self.out.parent.iterdir() if path != self.out)

    def sound(self) -> bool:
        """Whether nothing has the final name, or something that ``models verify`` passes."""
        if not os.path.lexists(self.out):
            return True
        command = [sys.executable, "-m", "edgeinfer", "models", "verify", str(self.out)]
        return subprocess.run(command, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    seconds: float
    peak_bytes: int
    said: str


def run(conversion: Conversion, *, kill_after_s: float | None = None, file_bytes: int | None = None) -> Ended:
    """``file_bytes``: what a file may grow to. The child's own peak is asked of the system, not of the child."""

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    started = time.monotonic()
    child = subprocess.Popen(
        conversion.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=limit
    )
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child.pid, signal.SIGKILL)  # one that has ended is still ours to ask
    if child.stderr is None:
        raise RuntimeError("a pipe was asked for")
    with child.stderr:
        said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)  # it is no zombie any more
    return Ended(child.returncode, time.monotonic() - started, used.ru_maxrss * _UNIT, said)


def whole(conversion: Conversion) -> Ended:
    """A run that nothing disturbs. Ends the program where it fails."""
    ended = run(conversion)
    if ended.code:
        sys.exit(f"{' '.join(conversion.command)} ended with {ended.code}: {ended.said}")
    return ended


def memory(conversion: Conversion, _args: argparse.Namespace) -> dict[str, Any]:
    ended = whole(conversion)
    n_bytes = sum(path.stat().st_size for path in [conversion.out, *conversion.out.rglob("*")] if path.is_file())
    found = {"peak_mb": round(ended.peak_bytes / 1e6), "seconds": round(ended.seconds, 1), "mb": round(n_bytes / 1e6)}
    sound = conversion.sound()
    conversion.clear()
    return {**found, "ok": sound}


def kills(conversion: Conversion, args: argparse.Namespace) -> dict[str, Any]:
    """Every other run finds nothing of the name before it."""
    whole_s = whole(conversion).seconds
    moments, damaged, n_ended = random.Random(args.seed), [], 0
    for number in range(args.times):
        if number % 2:
            conversion.clear()
        moment = moments.uniform(0, whole_s)
        n_ended += run(conversion, kill_after_s=moment).code == 0
        if not conversion.sound():
            damaged.append(round(moment, 3))
    whole(conversion)
    left, sound = conversion.left(), conversion.sound()
    found = {"runs": args.times, "ended_before": n_ended, "damaged": damaged, "left": left}
    return {**found, "ok": sound and not damaged and not left}


def full(conversion: Conversion, args: argparse.Namespace) -> dict[str, Any]:
    whole(conversion)
    files = [path for path in [conversion.out, *conversion.out.rglob("*")] if path.is_file()]
    largest = max(path.stat().st_size for path in files)
    damaged, unsaid, left = [], [], set()
    for number in range(args.times):
        if number % 2:
            conversion.clear()
        limit = largest * number // args.times
        ended = run(conversion, file_bytes=limit)
        if ended.code not in (1, 3) or "Traceback" in ended.said or "error:" not in ended.said:
            unsaid.append({"limit": limit, "code": ended.code, "said": ended.said[-300:]})
        if not conversion.sound():
            damaged.append(limit)
        left |= {*conversion.left()}
    found = {"runs": args.times, "damaged": damaged, "unsaid": unsaid, "left": sorted(left)}
    return {**found, "ok": not damaged and not unsaid and not left}


def checkpoint_of(model: str, folder: Path) -> Path:
    """The checkpoint itself, or one rebuilt by a process of its own, whose memory is not ours."""
    if (Path(model) / "config.json").is_file():
        return Path(model)
    made = folder / f"{Path(model).name}-checkpoint"
    if not made.exists():
        tool = Path(__file__).with_name("gguf_to_hf.py")
        command = [sys.executable, str(tool), model, f"{made}.partial", "--half"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        Path(f"{made}.partial").rename(made)
    return made


def package_of(source: Path, folder: Path) -> Path:
    """A package of it with halves, for every variant: what ``quantize`` can make all its types of."""
    made = folder / f"{source.name}-package"
    if not made.exists():
        command = [sys.executable, "-m", "edgeinfer", "convert", str(source), str(made), "--to", "onnx"]
        command += ["--quant", "f16", "--variant", "all", "-c", "256"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return made


def gguf_of(args: argparse.Namespace) -> Path:
    """The file that ``--from-gguf`` or the model's name names."""
    if args.from_gguf:
        return Path(args.from_gguf)
    from edgeinfer import catalog

    return catalog.resolve(args.model).path


def learning(target: str, quant: str, args: argparse.Namespace) -> list[str]:
    """The flags by which this type learns from a text, where there is one."""
    learns = target == "gguf" or quant.startswith("int4") or quant.endswith("-static")
    if args.calibrate is None or not learns:
        return []
    return ["--calibrate", str(args.calibrate.absolute()), "--calibrate-tokens", str(args.calibrate_tokens)]


def converting(target: str, quant: str, args: argparse.Namespace, out: Path) -> Conversion:
    gguf_source = target == "onnx" and args.from_gguf
    source = args.from_gguf if gguf_source else checkpoint_of(args.model, args.folder)
    words = ["convert", "--to", target, "--quant", quant, *learning(target, quant, args)]
    if quant.endswith("-static"):
        words += ["--variant", "npu", "-c", "256"]
    return Conversion(source.absolute(), out / OUT[target], words)


def quantizing(target: str, quant: str, args: argparse.Namespace, out: Path) -> Conversion:
    source = gguf_of(args)
    source = package_of(source, args.folder) if target == "onnx" else source
    return Conversion(
        source.absolute(), out / OUT[target], ["quantize", "--type", quant, *learning(target, quant, args)]
    )


OUT = {"gguf": "model.gguf", "onnx": "package"}
MODES: dict[str, Callable[[Conversion, argparse.Namespace], dict[str, Any]]] = {
    "memory": memory,
    "kills": kills,
    "full": full,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("model")
    parser.add_argument("--to", action="append", metavar="FORMAT:QUANT", help=f"may be repeated; {', '.join(TARGETS)}")
    parser.add_argument(
        "--quantize", action="append", metavar="FORMAT:TYPE", help="may be repeated; gguf:q4_0, onnx:int4"
    )
    parser.add_argument("--from-gguf", type=Path, help="convert this file to onnx, not the checkpoint; quantize it")
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help="a text to learn from")
    parser.add_argument("--calibrate-tokens", type=int, default=512, metavar="N")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/conversion-faults"), help="for all that is written")
    args = parser.parse_args(arguments)
    out = args.folder / f"out-{os.getpid()}"
    out.mkdir(parents=True)
    asked = [("to", converting, each) for each in args.to or ([] if args.quantize else TARGETS)]
    asked += [("quantize", quantizing, each) for each in args.quantize or ()]
    good = True
    try:
        for verb, making, each in asked:
            target, _, quant = each.partition(":")
            conversion = making(target, quant, args, out.absolute())
            found = MODES[args.mode](conversion, args)
            conversion.clear()
            print(json.dumps({"mode": args.mode, verb: each, **found}), flush=True)
            good = good and found["ok"]
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
