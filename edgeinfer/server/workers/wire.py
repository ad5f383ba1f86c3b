"""What goes between the server and the process of a model: frames of JSON, each behind its length.

Both ends are ours and of one version; what is read here has been written here.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgeinfer import errors
from edgeinfer.core import Answer, Choice, GenerationStats, Grammar, Token
from edgeinfer.errors import ContextOverflow, EdgeInferError, EngineError, InsufficientMemory

__all__ = [
    "Frame",
    "answer_from",
    "answer_to",
    "error_from",
    "error_to",
    "floats_from",
    "floats_to",
    "options_from",
    "options_to",
    "read_frame",
    "token_from",
    "token_to",
    "write_frame",
]

Frame = dict[str, Any]
_LENGTH = struct.Struct("<I")


def write_frame(stream: IO[bytes], frame: Mapping[str, Any]) -> None:
    """Send one frame whole. Raises `OSError` or `ValueError` when nobody listens any more."""
    data = json.dumps(frame, separators=(",", ":")).encode()
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> Frame | None:
    """The next frame; None at the end, also one in the middle of a frame."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        return None
    frame: Frame = json.loads(data)
    return frame


# ---- options


def options_to(options: Mapping[str, Any]) -> Frame:
    """Options of a request as JSON values."""
    frame = dict(options)
    grammar = frame.get("grammar")
    if isinstance(grammar, Grammar):
        frame["grammar"] = dataclasses.asdict(grammar)
    return frame


def options_from(frame: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(frame)
    if options.get("grammar"):
        options["grammar"] = Grammar(**options["grammar"])
    if options.get("logit_bias"):
        options["logit_bias"] = {int(token_id): bias for token_id, bias in options["logit_bias"].items()}
    return options


# ---- events


def token_to(token: Token, piece: Callable[[int], bytes]) -> Frame:
    """A token; with the bytes of all that its log-probabilities name, which only the model's process knows."""
    frame: Frame = {"i": token.id, "t": token.text}
    if token.logprob is not None:
        named = [token.id, *(choice.token_id for choice in token.top)]
        frame["l"] = token.logprob
        frame["top"] = [[choice.token_id, choice.logprob] for choice in token.top]
        frame["bytes"] = {str(token_id): piece(token_id).decode("latin-1") for token_id in named if token_id >= 0}
    return frame


def token_from(frame: Frame) -> tuple[Token, dict[int, bytes]]:
    """The token, and the bytes of the tokens that it names."""
    if "l" not in frame:
        return Token(frame["i"], frame["t"]), {}
    top = tuple(Choice(token_id, logprob) for token_id, logprob in frame["top"])
    pieces = {int(token_id): text.encode("latin-1") for token_id, text in frame["bytes"].items()}
    return Token(frame["i"], frame["t"], frame["l"], top), pieces


def answer_to(answer: Answer) -> Frame:
    """The end of an answer: its tokens and text have gone before it."""
    return {
        "reason": answer.finish_reason,
        "stats": dataclasses.asdict(answer.stats),
        "n_dropped": answer.n_dropped,
        "stop": answer.stop,
    }


def answer_from(frame: Frame, tokens: tuple[Token, ...]) -> Answer:
    return Answer(
        text="".join(token.text for token in tokens),
        token_ids=tuple(token.id for token in tokens if token.id >= 0),
        finish_reason=frame["reason"],
        stats=GenerationStats(**frame["stats"]),
        tokens=tokens,
        n_dropped=frame["n_dropped"],
        stop=frame["stop"],
    )


# ---- errors and arrays


def error_to(error: BaseException) -> Frame:
    """An error with what it carries. One that is none of ours is a bug over there."""
    if not isinstance(error, EdgeInferError):
        return {"kind": "EngineError", "message": f"this is a bug in edgeinfer: {type(error).__name__}: {error}"}
    frame: Frame = {"kind": type(error).__name__, "message": str(error)}
    for name in ("n_prompt", "n_ctx", "n_ctx_max"):
        if hasattr(error, name):
            frame[name] = getattr(error, name)
    return frame


def error_from(frame: Frame) -> EdgeInferError:
    """The same error on this side."""
    kind = getattr(errors, frame["kind"], EngineError)
    if kind is ContextOverflow:
        overflow = ContextOverflow(frame["n_prompt"], frame["n_ctx"])
        overflow.args = (frame["message"],)
        return overflow
    if kind is InsufficientMemory:
        return InsufficientMemory(frame["message"], frame["n_ctx_max"])
    found: EdgeInferError = kind(frame["message"])
    return found


def floats_to(values: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def floats_from(text: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
