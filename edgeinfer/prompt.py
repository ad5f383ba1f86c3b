"""From what a caller asks to the token ids of a prompt that fits, and what had to be left out for that.

Owns the three policies for a prompt that is too long, and the memory of which ids an earlier answer consisted of.
Never cuts silently."""

from __future__ import annotations

import bisect
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import ContextOverflow, TemplateError, UsageError
from edgeinfer.text import ChatTemplate, Codec

__all__ = ["OVERFLOW_POLICIES", "AnswerMemory", "OverflowPolicy", "Prompt", "PromptBuilder"]

TokenIds = npt.NDArray[np.int32]
ChatMessage = Mapping[str, Any]
OverflowPolicy = Literal["error", "drop-oldest", "compact"]
OVERFLOW_POLICIES: tuple[OverflowPolicy, ...] = ("error", "drop-oldest", "compact")
Tools = Sequence[Mapping[str, Any]] | None
Summarise = Callable[[Sequence[ChatMessage]], str]
"""The turns to be replaced -> their summary, written by the model itself."""

_N_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that fits. ``n_dropped`` messages (or leading tokens, of a raw prompt) were left out; ``notices`` says
    so."""

    token_ids: TokenIds
    n_dropped: int = 0
    notices: tuple[str, ...] = ()


class AnswerMemory:
    """A vocabulary that encodes a text which ends in one of the model's own answers to the very ids the model chose.

    Text does not determine its tokens: encoding an answer again can give other ids than were generated, and the KV of
    the conversation would be lost from there on. Thread-safe."""

    def __init__(self, vocabulary: Codec) -> None:
        self._vocabulary = vocabulary
        self._known: OrderedDict[str, TokenIds] = OrderedDict()
        self._lock = threading.Lock()
        self.n_vocab = vocabulary.n_vocab
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.eog_ids = vocabulary.eog_ids
        self.adds_bos = vocabulary.adds_bos
        self.control_tokens = vocabulary.control_tokens

    def token_bytes(self, token_id: int) -> bytes:
        return self._vocabulary.token_bytes(token_id)

    def decode(self, ids: Iterable[int]) -> str:
        return self._vocabulary.decode(ids)

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> TokenIds:
        with self._lock:
            known = self._known.get(text)
        if known is not None and not add_bos:
            return known
        return self._vocabulary.encode(text, add_bos=add_bos, parse_special=parse_special)

    def remember(self, prompt_ids: TokenIds, answer_ids: Sequence[int], text: str) -> None:
        """The answer ``text`` to this prompt consists of ``answer_ids``. Disregarded where they do not spell it, as
        where a stop string was cut off."""
        if self._vocabulary.decode(answer_ids) != text:
            return
        control_ids = list(self.control_tokens.values())
        if np.isin(answer_ids, control_ids).any():
            return  # as content it must not come back as control tokens
        control = np.isin(prompt_ids, control_ids)
        begin = int(np.flatnonzero(control)[-1]) + 1 if control.any() else 0
        opening = prompt_ids[begin:]  # what the template writes between the last control token and the answer
        key = self._vocabulary.decode(opening) + text
        with self._lock:
            self._known[key] = np.concatenate([opening, np.asarray(answer_ids, np.int32)])
            self._known.move_to_end(key)
            while len(self._known) > _N_REMEMBERED:
                self._known.popitem(last=False)


def _turns(messages: Sequence[ChatMessage]) -> tuple[list[ChatMessage], list[list[ChatMessage]]]:
    """(leading system messages, turns: a user message and what follows it)"""
    n_system = 0
    while n_system < len(messages) and messages[n_system].get("role") in ("system", "developer"):
        n_system += 1
    turns: list[list[ChatMessage]] = []
    for message in messages[n_system:]:
        if message.get("role") == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:n_system]), turns


class PromptBuilder:
    """Builds prompts for one model. Thread-safe."""

    def __init__(self, vocabulary: Codec, template: ChatTemplate | None, n_ctx: int) -> None:
        self.memory = AnswerMemory(vocabulary)
        self.template = template
        self._n_ctx = n_ctx

    def encode(self, prompt: str | Sequence[int] | Sequence[ChatMessage], tools: Tools = None) -> TokenIds:
        """The whole prompt's ids, however long. A text or ids are taken raw (with the vocabulary's beginning-of-text
        token before a text); messages go through the chat template, and ``tools`` with them. Raises `UsageError` for
        anything else."""
        if isinstance(prompt, str):
            return self.memory.encode(prompt, add_bos=self.memory.adds_bos)
        if isinstance(prompt, np.ndarray) or not prompt or not isinstance(prompt[0], Mapping):
            return self._checked_ids(prompt)
        if self.template is None:
            raise TemplateError(
                "this model has no chat template: give one with --chat-template (chat_template=…), "
                "or use `edgeinfer generate` (LLM.generate) for plain completion"
            )
        return self.template.encode(_checked_messages(prompt), self.memory, tools=tools)

    def _checked_ids(self, prompt: Any) -> TokenIds:
        try:
            ids = np.asarray(prompt)
            good = ids.ndim == 1 and (ids.size == 0 or ids.dtype.kind in "iu")
        except ValueError:
            good = False
        if not good:
            raise UsageError("a prompt is a text, a list of token ids, or a list of messages with 'role' and 'content'")
        if ids.size and (ids.min() < 0 or ids.max() >= self.memory.n_vocab):
            raise UsageError(f"a token id of the prompt lies outside the vocabulary of {self.memory.n_vocab}")
        return ids.astype(np.int32)

    def build(
        self,
        prompt: str | Sequence[int] | Sequence[ChatMessage],
        *,
        max_tokens: int | None,
        policy: OverflowPolicy,
        summarise: Summarise,
        tools: Tools = None,
    ) -> Prompt:
        """A prompt that leaves room to answer, by the policy. Raises `ContextOverflow` where the policy is ``error``,
        or where the last turn alone is too long."""
        ids = self.encode(prompt, tools)
        if policy == "error" or len(ids) < self._n_ctx:
            if len(ids) >= self._n_ctx:
                raise ContextOverflow(len(ids), self._n_ctx)
            return Prompt(ids)
        # Room for an answer, and so much that the next turns need not drop again at once: each drop costs the reused
        # KV.
        n_keep = self._n_ctx - min(max_tokens or self._n_ctx, self._n_ctx // 4)
        if len(prompt) and isinstance(prompt[0], Mapping):
            return self._shorter_chat(_checked_messages(prompt), n_keep, policy, summarise, tools)
        n_dropped = len(ids) - n_keep
        notice = (
            f"the prompt has {len(ids)} tokens but the context holds {self._n_ctx}: its first {n_dropped} were dropped"
        )
        return Prompt(ids[n_dropped:], n_dropped, (notice,))

    def _shorter_chat(
        self, messages: list[ChatMessage], n_keep: int, policy: OverflowPolicy, summarise: Summarise, tools: Tools
    ) -> Prompt:
        system, turns = _turns(messages)
        encode = functools.partial(self.encode, tools=tools)
        n_all = len(encode(messages))

        def after(n_turns: int) -> list[ChatMessage]:
            return [*system, *(message for turn in turns[n_turns:] for message in turn)]

        # The fewest turns to drop; the last one always stays.
        n_dropped_turns = 1 + bisect.bisect_left(
            range(1, len(turns) - 1), True, key=lambda n_turns: len(encode(after(n_turns))) <= n_keep
        )
        if len(turns) < 2 or len(encode(after(n_dropped_turns))) >= self._n_ctx:
            n_last = len(encode(after(len(turns) - 1)))
            raise ContextOverflow(
                n_last, self._n_ctx, "the last turn alone is too long; shorten it or raise --ctx-size"
            )
        dropped = [message for turn in turns[:n_dropped_turns] for message in turn]
        kept = after(n_dropped_turns)
        fate = "were dropped"
        if policy == "compact":
            compacted = [*kept]
            compacted[len(system)] = _with_summary(kept[len(system)], summarise(dropped))
            if len(encode(compacted)) < self._n_ctx:
                kept, fate = compacted, "were replaced by a summary"
            else:
                fate = "were dropped, for there was no room even for a summary"
        notice = (
            f"the conversation has {n_all} tokens but the context holds {self._n_ctx}: "
            f"its oldest {len(dropped)} messages {fate}"
        )
        return Prompt(encode(kept), len(dropped), (notice,))


def _with_summary(message: ChatMessage, summary: str) -> ChatMessage:
    return {**message, "content": f"[Summary of our conversation so far: {summary}]\n\n{message.get('content', '')}"}


def _checked_messages(prompt: Any) -> list[ChatMessage]:
    for i, message in enumerate(prompt):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(f"message {i} is not a mapping with a 'role'")
        if not isinstance(message.get("content", ""), (str, type(None))):
            raise UsageError(f"the content of message {i} is not a text")
    return list(prompt)
