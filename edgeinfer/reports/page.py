"""The frame of a report, and its tables. Everything that is given as text comes out escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

__all__ = ["Markup", "escaped", "page", "paragraph", "section", "table"]

Markup = str
"""HTML that is ready to be put into a page."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5d6872; --line: #d9dee3; --ground: #ffffff; --panel: #f5f7f9;
  --a: #0a66b5; --b: #b3460f; --bad: #b3261e; --good: #1a7340; --c: #1a7340; --d: #7a3fb0; --e: #7a6400; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b0; --line: #37414a; --ground: #14181c;
  --panel: #1c2228; --a: #6cb4f5; --b: #f0a06a; --bad: #ff8a80; --good: #6fd08f; --c: #6fd08f;
  --d: #c79bf0; --e: #d8c25a; } }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 4rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
p { margin: .5rem 0; } .soft { color: var(--soft); } .bad { color: var(--bad); } .good { color: var(--good); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 500; } .number { text-align: right; white-space: nowrap; }
code, .text { font-family: ui-monospace, monospace; font-size: .85em; white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: .5rem 0; } svg { width: 100%; height: auto; background: var(--panel); border-radius: 6px; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } svg .name { fill: var(--ink); }
.grid { stroke: var(--line); stroke-width: 1; } .limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 6 4; }
.mean { stroke: var(--b); stroke-width: 1.5; } .dot { fill: var(--a); } .dot.first { fill: var(--soft); }
.dot.over { fill: var(--bad); } .whisker { stroke: var(--a); stroke-width: 1.5; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .a { stroke: var(--a); } .b { stroke: var(--b); }
.c { stroke: var(--c); } .d { stroke: var(--d); } .e { stroke: var(--e); }
"""


def escaped(text: object) -> Markup:
    """Any text as HTML, good between tags and in an attribute; what no document may hold becomes U+FFFD."""
    clean = "".join(
        c if c in "\t\n" or (ord(c) >= 0x20 and not 0xD800 <= ord(c) < 0xE000) else "\ufffd" for c in str(text)
    )
    return html.escape(clean)


def page(title: str, *parts: Markup) -> str:
    """A whole document."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escaped(title)}</title>'
    body = "\n".join((f"<h1>{escaped(title)}</h1>", *parts))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'
    )


def section(title: str, *parts: Markup) -> Markup:
    return "\n".join((f"<h2>{escaped(title)}</h2>", *parts))


def paragraph(text: str, kind: str = "") -> Markup:
    """``kind``: soft, good or bad."""
    return f'<p class="{escaped(kind)}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, kinds: Sequence[str] = ()) -> Markup:
    """``kinds``: of each column, ``number``, ``text`` or nothing."""
    kinds = (*kinds, *[""] * (len(headings) - len(kinds)))

    def line(cells: Sequence[object], tag: str) -> str:
        parts = (f'<{tag} class="{kind}">{escaped(cell)}</{tag}>' for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(parts)}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>\n{line(headings, "th")}\n{body}\n</table></div>'
