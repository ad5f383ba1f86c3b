"""Parts of responses that OpenAI's APIs share: log-probabilities, usage, why an answer ended."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.bodies.calls import Said
from edgeinfer.bodies.errors import BodyError
from edgeinfer.core import Answer, GenerationStats, Token

__all__ = [
    "LEAST_LOGPROB",
    "TokenBytes",
    "chat_choice",
    "chosen_logprobs",
    "finish_word",
    "finite",
    "legacy_logprobs",
    "token_logprob",
    "usage_part",
    "vector_part",
]

TokenBytes = Callable[[int], bytes]
"""The bytes that a token adds to a text."""

LEAST_LOGPROB = -9999.0
"""JSON has no infinity; OpenAI writes this for what is as good as impossible."""


def finish_word(answer: Answer, *, called: bool = False, half: bool = False) -> str:
    """OpenAI's word: an answer that its deadline has cut is one that was cut. ``called``: there are tool calls in it;
    ``half``: the last of them has no end."""
    if called and (not half or answer.finish_reason == "stop"):
        return "tool_calls"
    return "stop" if answer.finish_reason == "stop" else "length"


def chat_choice(i: int, answer: Answer, said: Said, text: TokenBytes) -> dict[str, Any]:
    """A choice of a chat completion."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in said.calls
    ]
    content = said.text if said.text or not calls else None
    return {
        "index": i,
        "message": {
            "role": "assistant",
            "content": content,
            "refusal": None,
            **({"tool_calls": calls} if calls else {}),
        },
        "logprobs": chosen_logprobs(answer.tokens, text),
        "finish_reason": finish_word(answer, called=bool(calls), half=said.half),
    }


def vector_part(vector: npt.NDArray[np.float32], dimensions: int | None, encoding: str | None) -> list[float] | str:
    """An embedding as written: its first ``dimensions`` numbers scaled to length 1 again, or all of them. Raises
    `BodyError` for more than it has."""
    if dimensions is not None:
        if dimensions > len(vector):
            message = f"dimensions is {dimensions}, but this model has {len(vector)}"
            raise BodyError(message, param="dimensions")
        vector = vector[:dimensions] / max(float(np.linalg.norm(vector[:dimensions])), 1e-12)
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(number) for number in vector]


def usage_part(stats: GenerationStats) -> dict[str, Any]:
    return {
        "prompt_tokens": stats.n_prompt,
        "completion_tokens": stats.n_generated,
        "total_tokens": stats.n_prompt + stats.n_generated,
        "prompt_tokens_details": {"cached_tokens": stats.n_reused},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": stats.n_accepted,
            "rejected_prediction_tokens": stats.n_drafted - stats.n_accepted,
        },
    }


def finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else LEAST_LOGPROB


def _named(token_id: int, logprob: float | None, text: TokenBytes) -> dict[str, Any]:
    piece = text(token_id)
    return {"token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": finite(logprob)}


def token_logprob(token: Token, text: TokenBytes) -> dict[str, Any]:
    """A token, its bytes, and what else might have come."""
    top = [_named(choice.token_id, choice.logprob, text) for choice in token.top]
    return {**_named(token.id, token.logprob, text), "top_logprobs": top}


def chosen_logprobs(tokens: Sequence[Token], text: TokenBytes) -> dict[str, Any] | None:
    """``logprobs`` of a choice; None where none were asked for."""
    chosen = [token_logprob(token, text) for token in tokens if token.logprob is not None and token.id >= 0]
    return {"content": chosen, "refusal": None} if chosen else None


def legacy_logprobs(tokens: Sequence[Token], text: TokenBytes, offset: int) -> dict[str, Any] | None:
    """``logprobs`` as the completions API writes them. ``offset``: characters before the first token."""
    chosen = [token for token in tokens if token.logprob is not None and token.id >= 0]
    if not chosen:
        return None
    offsets = []
    for token in chosen:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [_named(token.id, None, text)["token"] for token in chosen],
        "token_logprobs": [finite(token.logprob) for token in chosen],
        "top_logprobs": [
            {_named(choice.token_id, None, text)["token"]: finite(choice.logprob) for choice in token.top}
            for token in chosen
        ],
        "text_offset": offsets,
    }
