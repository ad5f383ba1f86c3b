"""A model and how it is to be opened, in one word: ``MODEL[@key=value,…]``, as comparisons of two take it.

smollm2-135m    smollm2-135m@kernels=off    ./build@engine=onnx,device=npu    m.gguf@kv_type=q8_0,threads=2
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from edgeinfer import env
from edgeinfer.engines import EngineConfig, devices
from edgeinfer.engines.base import KVType
from edgeinfer.errors import UsageError
from edgeinfer.opening import Opened, open_model
from edgeinfer.text import Tokenizer

__all__ = ["Side", "opened"]

_YES = ("1", "true", "yes", "on")
_OPTION = re.compile(r"[a-z_]+=[^,@]*(,[a-z_]+=[^,@]*)*")


@dataclass(frozen=True, slots=True)
class Side:
    """``parallel``: how many requests are computed at once where there are several. None for threads: as tuned.
    ``word``: how the side was asked for."""

    model: str
    engine: str = "auto"
    device: str = "auto"
    require: str = ""
    kernels: bool = True
    threads: int | None = None
    threads_batch: int | None = None
    kv_type: KVType = "f16"
    parallel: int = 8
    word: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str, **defaults: Any) -> Side:
        """A side from a word; ``defaults`` for what the word does not say. What follows an ``@`` is part of the model's
        name unless it looks like options. Raises `UsageError` naming the known keys."""
        model, at, options = text.rpartition("@")
        if not at or not _OPTION.fullmatch(options):
            model, options = text, ""
        if not model:
            raise UsageError(f"{text!r} names no model: write MODEL or MODEL@key=value,…")
        chosen = dict(defaults)
        for option in options.split(",") if options else ():
            key, _, value = option.partition("=")
            if key not in _READERS:
                raise UsageError(f"{text}: no key {key!r}; there are: {', '.join(_READERS)}")
            try:
                chosen[key] = _READERS[key](value)
            except ValueError as error:
                raise UsageError(f"{text}: {key} is {value!r}, but must be {error}") from error
        return cls(model, **chosen, word=text)

    @property
    def label(self) -> str:
        """What to call it."""
        return self.word or self.model


def _switch(value: str) -> bool:
    if value.lower() not in (*_YES, *env.NO):
        raise ValueError("on or off")
    return value.lower() in _YES


def _count(most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= most:
            raise ValueError(f"a whole number from 1 to {most}")
        return int(value)

    return read


def _word(value: str) -> str:
    if not value:
        raise ValueError("a name")
    return value


def _device(value: str) -> str:
    devices.parse(_word(value))
    return value


def _kv_type(value: str) -> str:
    if value not in ("f16", "q8_0"):
        raise ValueError("f16 or q8_0")
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "engine": _word,
    "device": _device,
    "require": _device,
    "kernels": _switch,
    "threads": _count(1024),
    "threads_batch": _count(1024),
    "kv_type": _kv_type,
    "parallel": _count(256),
}


@contextlib.contextmanager
def opened(side: Side, n_ctx: int, memory: str | int | None = None) -> Iterator[Opened]:
    """The side's model, open until the block ends. Answers do not depend on company, as with `LLM`. ``n_ctx``: tokens
    that one sequence must hold. Raises as `open_model`."""
    config = EngineConfig(
        n_ctx=n_ctx,
        n_seq_max=side.parallel,
        n_threads=side.threads or 0,
        n_threads_batch=side.threads_batch or 0,
        kv_type=side.kv_type,
        isolate=True,
        kernels=side.kernels,
        device=side.device,
        require=side.require,
    )
    found = open_model(side.model, config, engine=side.engine, cap=memory)
    try:
        yield found
    finally:
        found.engine.close()
        if isinstance(found.tokenizer, Tokenizer):
            found.tokenizer.close()
