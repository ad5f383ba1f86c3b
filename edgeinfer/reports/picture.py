"""Pictures: a figure of matplotlib, which is optional, as a PNG. No display, and nothing of the process is changed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from edgeinfer.errors import BackendUnavailable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure", "png"]


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. Raises `BackendUnavailable` without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable(f"a PNG needs matplotlib: pip install 'edgeinfer[plot]' ({error})") from error
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def png(made: Figure) -> bytes:
    stream = io.BytesIO()
    made.savefig(stream, format="png", dpi=150)
    return stream.getvalue()
