"""One prompt, one answer: what `generate`, and `chat` with a prompt, share. The answer alone goes to stdout."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeinfer.cli.loading import notice
from edgeinfer.cli.options import read_text
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from edgeinfer.core import Answer, Token
    from edgeinfer.llm import LLM, Stream

__all__ = ["answer", "read_prompt"]

_MAX_BYTES = 64 << 20
_PATIENCE_S = 2.0


def read_prompt(flags: Mapping[str, Any]) -> str | None:
    """The prompt: -p, then -f, then standard input where that is no terminal, as paragraphs. None when nothing is given
    and standard input is a terminal. Raises `UsageError` for an empty prompt and for what is not text."""
    parts = [] if flags["prompt"] is None else [flags["prompt"]]
    if flags["prompt_file"]:
        parts.append(_without_last_newline(read_text(flags["prompt_file"], "prompt file", _MAX_BYTES)))
    if sys.stdin is not None and sys.stdin.isatty():
        if not parts:
            return None
    elif sys.stdin is not None:
        parts.append(_without_last_newline(_read_stdin(hurry=bool(parts))))
    prompt = "\n\n".join(part for part in parts if part)
    if not prompt.strip():
        raise UsageError("the prompt is empty; give one with -p TEXT, -f FILE or on standard input")
    return prompt


def _without_last_newline(text: str) -> str:
    return text[: -2 if text.endswith("\r\n") else -1] if text.endswith("\n") else text


def _read_stdin(*, hurry: bool) -> str:
    """All of standard input. With ``hurry`` (there is a prompt already, so whoever started us may not know that we read
    on) a remark is made when nothing comes: an open pipe that nobody writes to would look like a hang."""
    source = getattr(sys.stdin, "buffer", sys.stdin)
    patience = threading.Timer(
        _PATIENCE_S, notice, ["waiting for the end of standard input (start with </dev/null if there is none)"]
    )
    patience.daemon = True
    if hurry and not _is_file():
        patience.start()
    try:
        data = source.read(_MAX_BYTES + 1)
    finally:
        patience.cancel()
    if len(data) > _MAX_BYTES:
        raise UsageError(f"standard input is larger than {_MAX_BYTES >> 20} MiB")
    try:
        return data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from error


def _is_file() -> bool:
    try:
        return stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    except (OSError, ValueError):
        return True


def answer(
    llm: LLM,
    prompt: str | Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    *,
    as_json: bool,
    stopped: Callable[[str], None] = lambda _text: None,
) -> Answer:
    """Answer on standard output: streamed, or as one JSON object. Ctrl-C is passed on, after ``stopped`` was told how
    far the answer had come. Raises as `LLM.stream`, and `BrokenPipeError` when nobody reads any more."""
    with llm.stream(prompt, **options) as stream:
        for line in stream.notices:
            notice(line)
        try:
            for token in stream:
                if token.text and not as_json:
                    _write(token.text)
        except KeyboardInterrupt:
            stopped(stream.text)
            if not as_json:
                _write("\n")
            raise
        finished = stream.answer
    _write((json.dumps(_as_json(llm, stream, finished, options)) if as_json else "") + "\n")
    return finished


def _write(text: str) -> None:
    """To standard output at once: raw to a pipe, with control characters escaped on a terminal."""
    if sys.stdout.isatty():
        from edgeinfer.text.printable import printable

        text = printable(text)
    sys.stdout.write(text)
    sys.stdout.flush()


def _as_json(llm: LLM, stream: Stream, finished: Answer, options: Mapping[str, Any]) -> dict[str, Any]:
    document = {
        "model": llm.info.name,
        "text": finished.text,
        "token_ids": list(finished.token_ids),
        "finish_reason": finished.finish_reason,
        "stats": dataclasses.asdict(finished.stats),
        "notices": [*llm.notices, *stream.notices],
    }
    if llm.placement is not None:
        document["placement"] = llm.placement.as_dict()
    if options.get("logprobs") is not None:
        document["logprobs"] = [_logprobs(token) for token in finished.tokens if token.id >= 0]
    return document


def _logprobs(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "text": token.text,
        "logprob": _finite(token.logprob),
        "top": [{"id": choice.token_id, "logprob": _finite(choice.logprob)} for choice in token.top],
    }


def _finite(number: float | None) -> float | None:
    """JSON has no infinity: a token that a grammar forbids has no log-probability."""
    return number if number is not None and math.isfinite(number) else None
