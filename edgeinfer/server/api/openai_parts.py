"""Parts of responses that OpenAI's APIs share: log-probabilities, usage, why an answer ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgeinfer.core import Answer, GenerationStats, Token
from edgeinfer.server.workers.model import Model

__all__ = ["LEAST_LOGPROB", "chosen_logprobs", "finish_word", "legacy_logprobs", "usage_part"]

LEAST_LOGPROB = -9999.0
"""JSON has no infinity; OpenAI writes this for what is as good as impossible."""


def finish_word(answer: Answer) -> str:
    """OpenAI's word: an answer that its deadline has cut is one that was cut."""
    return "stop" if answer.finish_reason == "stop" else "length"


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


def _named(token_id: int, logprob: float | None, model: Model) -> dict[str, Any]:
    piece = model.pieces.get(token_id, b"")
    return {"token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": finite(logprob)}


def token_logprob(token: Token, model: Model) -> dict[str, Any]:
    """A token, its bytes, and what else might have come."""
    top = [_named(choice.token_id, choice.logprob, model) for choice in token.top]
    return {**_named(token.id, token.logprob, model), "top_logprobs": top}


def chosen_logprobs(tokens: Sequence[Token], model: Model) -> dict[str, Any] | None:
    """``logprobs`` of a choice; None where none were asked for."""
    chosen = [token_logprob(token, model) for token in tokens if token.logprob is not None and token.id >= 0]
    return {"content": chosen, "refusal": None} if chosen else None


def legacy_logprobs(tokens: Sequence[Token], model: Model, offset: int) -> dict[str, Any] | None:
    """``logprobs`` as the completions API writes them. ``offset``: characters before the first token."""
    chosen = [token for token in tokens if token.logprob is not None and token.id >= 0]
    if not chosen:
        return None
    offsets = []
    for token in chosen:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [_named(token.id, None, model)["token"] for token in chosen],
        "token_logprobs": [finite(token.logprob) for token in chosen],
        "top_logprobs": [
            {_named(choice.token_id, None, model)["token"]: finite(choice.logprob) for choice in token.top}
            for token in chosen
        ],
        "text_offset": offsets,
    }
