"""Charts as SVG, coloured by the page's style: a figure along positions, points against two figures, curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.reports.page import Markup, escaped

__all__ = ["Curve", "Dot", "along", "curves", "scatter", "spread_out"]

_WIDTH, _HEIGHT = 900, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 20, 45
_MOST_DOTS = 2000
_COLOURS = "abcde"
_COLUMNS, _NAME = 5, 22  # names of curves in a row, and characters of each

Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of `scatter` with its name, and how far up and down ``y`` may be off."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of `curves` in order, as many ``xs`` as ``ys``; a y that is not finite is a gap."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def along(
    values: npt.NDArray[np.float64],
    first: npt.NDArray[np.bool_],
    *,
    label: str,
    mean: float | None = None,
    limit: float | None = None,
) -> Markup:
    """Values of 0 and more by position, on a logarithmic scale; those that are nothing lie at its foot. ``first``:
    which positions begin a window (drawn paler). ``limit``: a line, and what is above it stands out. Of more positions
    than can be told apart, the largest of neighbours is shown."""
    group = -(-len(values) // _MOST_DOTS)
    heads = [int(i + np.argmax(values[i : i + group])) for i in range(0, len(values), group)]
    above = [v for v in (*values.tolist(), mean or 0.0, limit or 0.0) if v > 0 and math.isfinite(v)]
    low, high = _decades(above)
    y = _log_scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    x = _linear_scale(0, max(len(values) - 1, 1), _LEFT, _WIDTH - _RIGHT)
    parts = [_row_line(y(10.0**e), f"1e{e}") for e in range(low, high + 1, max(1, (high - low) // 6))]
    parts += [_column_mark(x(v), f"{v:g}") for v in _nice(0, len(values) - 1)]
    for i in heads:
        value = float(values[i])
        kind = "dot first" if first[i] else "dot over" if limit is not None and value > limit else "dot"
        note = f"<title>position {i}: {value:.3g}</title>"
        at = y(value) if math.isfinite(value) else _TOP
        parts.append(f'<circle class="{kind}" cx="{x(i):.1f}" cy="{at:.1f}" r="2.5">{note}</circle>')
    parts += [
        _level(y(value), kind, note)
        for value, kind, note in ((mean, "mean", "mean"), (limit, "limit", "limit"))
        if value
    ]
    return _figure(parts, f"{label} by position in the text", "position", label)


def scatter(dots: Sequence[Dot], *, x_label: str, y_label: str) -> Markup:
    """Named points, with a bar where a point's interval is known. Figures above 0 of very different sizes
    (`spread_out`) have a logarithmic scale."""
    dots = [dot for dot in dots if math.isfinite(dot.y)]
    ys = [v for dot in dots for v in (dot.y, dot.low, dot.high) if v is not None and math.isfinite(v)]
    x_low, x_high = _roomy([dot.x for dot in dots])
    x = _linear_scale(x_low, x_high, _LEFT, _WIDTH - _RIGHT)
    y, parts = _rows(ys)
    parts += [_column_mark(x(v), f"{v:g}") for v in _nice(x_low, x_high)]
    for dot in dots:
        parts += _named(dot, x(dot.x), y)
    return _figure(parts, f"{y_label} against {x_label}", x_label, y_label)


def curves(found: Sequence[Curve], *, x_label: str, y_label: str) -> Markup:
    """Curves from 0 up, or on a logarithmic scale where figures are of very different sizes, with their names above.
    Colours come again after the fifth."""
    ys = [y for curve in found for y in curve.ys if math.isfinite(y)]
    xs = [x for curve in found for x in curve.xs]
    x = _linear_scale(min(xs, default=0.0), max([*xs, min(xs, default=0.0) + 1e-9]), _LEFT, _WIDTH - _RIGHT)
    y, parts = _rows(ys if spread_out(ys) else [0.0, *ys])
    parts += [_column_mark(x(v), f"{v:g}") for v in _nice(min(xs, default=0.0), max(xs, default=1.0))]
    for i, curve in enumerate(found):
        colour, left = _COLOURS[i % len(_COLOURS)], _LEFT + 10 + 170 * (i % _COLUMNS)
        for stretch in _stretches(curve):
            points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in stretch)
            parts.append(
                f'<polyline class="line {colour}" points="{points}"><title>{escaped(curve.name)}</title></polyline>'
            )
        top = _TOP - 8 + 16 * (i // _COLUMNS)
        parts.append(f'<line class="line {colour}" x1="{left}" x2="{left + 18}" y1="{top}" y2="{top}"/>')
        name = curve.name if len(curve.name) <= _NAME else curve.name[: _NAME - 1] + "…"
        parts.append(f'<text class="name" x="{left + 24}" y="{top + 4}">{escaped(name)}</text>')
    return _figure(parts, f"{y_label} against {x_label}", x_label, y_label)


def _stretches(curve: Curve) -> list[list[tuple[float, float]]]:
    """The points between gaps; one alone is drawn as a short line."""
    found: list[list[tuple[float, float]]] = [[]]
    for a, b in zip(curve.xs, curve.ys, strict=True):
        if math.isfinite(b):
            found[-1].append((a, b))
        elif found[-1]:
            found.append([])
    return [stretch * 2 if len(stretch) == 1 else stretch for stretch in found if stretch]


def spread_out(values: Sequence[float]) -> bool:
    """Whether small ones would all lie on the axis beside large ones."""
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def _rows(values: Sequence[float]) -> tuple[Scale, list[str]]:
    """The scale of the y axis, and its lines."""
    if spread_out(values):
        low, high = _decades(values)
        scale = _log_scale(low, high, _HEIGHT - _BOTTOM, _TOP)
        return scale, [_row_line(scale(10.0**e), f"1e{e}") for e in range(low, high + 1)]
    bottom, top = _roomy(values)
    scale = _linear_scale(bottom, top, _HEIGHT - _BOTTOM, _TOP)
    return scale, [_row_line(scale(v), f"{v:g}") for v in _nice(bottom, top)]


def _named(dot: Dot, x: float, y: Scale) -> list[str]:
    """A dot, its interval, and its name on the side where there is room."""
    parts = []
    if dot.low is not None and dot.high is not None and math.isfinite(dot.low) and math.isfinite(dot.high):
        ends = f'y1="{y(dot.low):.1f}" y2="{y(dot.high):.1f}"'
        parts.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" {ends}/>')
    note = f"<title>{escaped(dot.name)}: {dot.x:.4g}, {dot.y:.4g}</title>"
    parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y(dot.y):.1f}" r="5">{note}</circle>')
    at, anchor = (x - 9, "end") if x > _WIDTH * 0.6 else (x + 9, "start")
    where = f'x="{at:.1f}" y="{y(dot.y) + 4:.1f}" text-anchor="{anchor}"'
    return [*parts, f'<text class="name" {where}>{escaped(dot.name)}</text>']


def _figure(parts: Sequence[str], title: str, x_label: str, y_label: str) -> Markup:
    across, middle = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    names = (
        f'<text x="{across:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escaped(x_label)}</text>'
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
        f"{escaped(y_label)}</text>"
    )
    body = "\n".join(parts)
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(title)}">'
    return f"<figure>{head}\n{body}\n{names}</svg></figure>"


def _row_line(y: float, text: str) -> str:
    line = f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escaped(text)}</text>'


def _column_mark(x: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{escaped(text)}</text>'


def _level(y: float, kind: str, text: str) -> str:
    line = f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{_WIDTH - _RIGHT - 4}" y="{y - 5:.1f}" text-anchor="end">{escaped(text)}</text>'


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around the values; something to draw on where there are none."""
    if not values:
        return -6, 0
    low, high = (math.log10(bound) for bound in (min(values), max(values)))
    return max(math.floor(low), math.ceil(high) - 12), max(math.ceil(high), math.floor(low) + 1)


def _log_scale(low: int, high: int, start: float, end: float) -> Scale:
    def place(value: float) -> float:
        exponent = math.log10(value) if value > 0 else low
        return start + (end - start) * (min(max(exponent, low), high) - low) / (high - low)

    return place


def _linear_scale(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _roomy(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.12 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _nice(low: float, high: float) -> list[float]:
    """Some five round numbers between two."""
    if high <= low:
        return [low]
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]
