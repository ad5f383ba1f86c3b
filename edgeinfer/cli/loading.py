"""From a model's name to an open LLM, with what a person sees meanwhile: a download's progress, a spinner, notices."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from edgeinfer.errors import ModelNotFound

if TYPE_CHECKING:
    from edgeinfer.llm import LLM

__all__ = ["attended", "fetch", "notice", "open_llm"]

T = TypeVar("T")


def open_llm(model: str | None, arguments: Mapping[str, Any], *, spinner: bool = False) -> LLM:
    """Open a model (None: the default one), pulling it first if it is not here, and so a draft model that was named.
    Raises as `LLM` does."""
    from edgeinfer import catalog
    from edgeinfer.cli import progress
    from edgeinfer.drafting import DRAFTS

    name = model or catalog.DEFAULT_MODEL
    fetch(name)
    if arguments.get("draft", "off") not in DRAFTS:
        fetch(arguments["draft"])
    shown = spinner and sys.stderr.isatty()
    telling: contextlib.AbstractContextManager[Callable[[str], None]]
    telling = progress.status(f"loading {name}") if shown else contextlib.nullcontext(_Once())
    with telling as tell:
        preparing = _Preparing(tell)
        llm = _opened(name, {**arguments, "said": preparing.say, "progress": preparing})
    for line in llm.notices:
        notice(line)
    return llm


class _Preparing:
    """What `LLM` says while it opens, as one stream of lines: what it does (`say`), and how the making of a draft model
    gets on (a `Progress`)."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.say = tell
        self._making = ""

    def note(self, text: str) -> None:
        self._making = text
        self.say(text)

    def update(self, done_bytes: int, total_bytes: int) -> None:
        self.say(f"{self._making}: {100 * done_bytes // max(total_bytes, 1)} %")


class _Once:
    """Where no spinner turns: a line for what happens once and not again, such as measuring (which says so itself:
    "measuring NAME once: DETAIL"), and nothing for what every start does."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(self, what: str) -> None:
        head = what.partition(": ")[0]
        if head.endswith("once") and head not in self._told:
            self._told.add(head)
            notice(head)


def _opened(name: str, arguments: Mapping[str, Any]) -> LLM:
    """`LLM`, made where Ctrl-C does not hurt."""

    def work() -> LLM:
        from edgeinfer.llm import LLM

        return LLM(name, **arguments, warned=notice)

    return attended(work, "edgeinfer-loading")


def attended(work: Callable[[], T], name: str) -> T:
    """What ``work`` returns or raises, done in another thread. Ctrl-C is then heard at once; on the main thread it
    would be raised inside one of the runtime's log callbacks, most likely, and be lost there."""
    from concurrent.futures import Future, wait

    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    while not wait([future], timeout=0.1).done:  # Windows hears no Ctrl-C in a wait without an end
        pass
    return future.result()


def fetch(name: str) -> None:
    """Pull a model unless it is here, saying how big it is. Raises as `catalog.ensure`."""
    from edgeinfer import catalog, env
    from edgeinfer.cli.pulling import download_progress, size

    try:
        catalog.resolve(name)
        return
    except ModelNotFound:
        card = catalog.cards().get(name)
    if card is not None and not env.offline():
        notice(f"fetching {name} once: {size(card.bytes)}, licence {card.licence}")
    with download_progress(name) as progress:
        catalog.ensure(name, progress=progress)


def notice(text: str) -> None:
    """A remark for whoever watches: standard error, never among answers."""
    from edgeinfer.text.printable import printable

    print(f"edgeinfer: {printable(text)}", file=sys.stderr, flush=True)
