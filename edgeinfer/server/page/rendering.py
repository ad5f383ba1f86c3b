"""Markdown to HTML that may be put into the page: parsed with HTML off, coloured by pygments, and sanitised to a short
list of elements all the same. Nothing else is ever inserted as HTML.

Knows nothing of conversations or HTTP."""

from __future__ import annotations

import functools
import html
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import nh3
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from edgeinfer.text.markdown import language_of, last_start, parser
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["Growing", "code_styles", "rendered"]

_TAGS = {"p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "span"}
_TAGS |= {"strong", "em", "s", "a", "table", "thead", "tbody", "tr", "th", "td"}
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "code": {"class"}, "span": {"class"}}
_SCHEMES = {"http", "https", "mailto"}
_MOST_COLOURED = 50_000
"""Characters of one piece of code from which on it has no colours: they would take too long."""


def rendered(source: str) -> str:
    """The HTML of a whole text."""
    return _html(parser().parse(source))


def code_styles() -> str:
    """The style sheet of code, for light and for dark."""
    light = HtmlFormatter(style="default").get_style_defs("pre code")
    dark = HtmlFormatter(style="github-dark").get_style_defs('[data-theme="dark"] pre code')
    return _colours_alone(light) + _colours_alone(dark)


def _colours_alone(sheet: str) -> str:
    """The rules for what is in code. That of the code itself is the page's."""
    return "".join(f"{line}\n" for line in sheet.splitlines() if " ." in line.partition("{")[0])


class Growing:
    """A text that grows, as (HTML that will not change any more, HTML that is replaced with the next piece)."""

    def __init__(self) -> None:
        self._open = ""
        self.source = ""

    def feed(self, text: str) -> tuple[str, str]:
        """More of the text; returns what to add for good, and what to show after it for now."""
        self.source += text
        self._open += text.replace("\r", "")
        tokens = parser().parse(self._open)
        if not tokens:
            return "", ""
        cut = last_start(tokens)
        line, lines = (tokens[cut].map or [0])[0], self._open.split("\n")
        if cut and line < len(lines) - 1:
            settled = _html(tokens[:cut])
            self._open = "\n".join(lines[line:])
            return settled, _html(parser().parse(self._open))
        return "", _html(tokens)


def _html(tokens: Sequence[Token]) -> str:
    made = _renderer().render(tokens, parser().options, {})
    clean = nh3.clean(
        made,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
    return printable(clean)


@functools.cache
def _renderer() -> Any:
    from markdown_it.renderer import RendererHTML

    renderer = RendererHTML(parser())
    rules: MutableMapping[str, Any] = renderer.rules
    rules["fence"] = rules["code_block"] = _code
    rules["image"] = _image
    rules["softbreak"] = lambda *_: "<br>\n"
    return renderer


def _code(tokens: Sequence[Token], at: int, *_: object) -> str:
    token = tokens[at]
    language = language_of(token.info)
    coloured = _coloured(token.content, language)
    name = f' class="language-{html.escape(language)}"' if language else ""
    return f"<pre><code{name}>{coloured}</code></pre>\n"


def _image(tokens: Sequence[Token], at: int, *_: object) -> str:
    """Named, never loaded: an address can carry away what was said."""
    token = tokens[at]
    return html.escape(f"{token.content} ({token.attrs.get('src', '')})")


@functools.lru_cache(256)
def _coloured(code: str, language: str) -> str:
    lexer = _lexer(language) if len(code) <= _MOST_COLOURED else None
    return html.escape(code) if lexer is None else str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


@functools.lru_cache(64)
def _lexer(language: str) -> Any:
    if not language or len(language) > 40:
        return None
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
