"""Energy that the processor has taken, where the machine tells: Intel's and AMD's RAPL counters as Linux shows them
(kernel documentation, "Power Capping Framework"). Reading them usually takes root."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

__all__ = ["Meter"]

_ROOT = Path("/sys/class/powercap")


class Meter:
    """Counts from when it is made. ``why_not``: why it cannot count, if so; then `joules` is None."""

    def __init__(self, root: Path = _ROOT) -> None:
        self.why_not: str | None = None
        self._counters: list[tuple[Path, float]] = []
        self._before: dict[Path, float] = {}
        self._total = 0.0
        if not sys.platform.startswith("linux"):
            self.why_not = "this system does not tell how much energy a program takes"
            return
        for folder in sorted(root.glob("*rapl:*")) if root.is_dir() else ():
            if folder.name.count(":") == 1 and (folder / "energy_uj").exists():  # packages; what they consist of is in
                self._add(folder)
        if not self._counters and self.why_not is None:
            self.why_not = "this machine shows no energy counters (RAPL)"

    def _add(self, folder: Path) -> None:
        try:
            now = _number(folder / "energy_uj")
            span = _number(folder / "max_energy_range_uj")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self.why_not = f"{folder / 'energy_uj'} cannot be read ({reason})"
            return
        self._counters.append((folder / "energy_uj", span))
        self._before[folder / "energy_uj"] = now

    def joules(self) -> float | None:
        """Energy of all packages since the beginning, other programs' included. To be asked now and then: a counter
        begins again at zero after some minutes at the earliest."""
        if not self._counters:
            return None
        for path, span in self._counters:
            with contextlib.suppress(OSError, ValueError):
                now = _number(path)
                step = now - self._before[path]
                self._total += step if step >= 0 else step + span
                self._before[path] = now
        return self._total / 1e6


def _number(path: Path) -> float:
    return float(path.read_text(encoding="ascii"))
