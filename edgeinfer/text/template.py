"""Messages to token ids by a model's chat template. The project's only renderer of templates.

**What a message says can never become a control token.** The template sees real text, but every string from messages
carries marks (`edgeinfer.text.marked`); after rendering, control tokens are looked for among unmarked characters alone,
that is in what the template itself wrote, and everything else is tokenized as text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.errors import TemplateError, UsageError
from edgeinfer.text.marked import Marks, text_of
from edgeinfer.text.specials import ControlTokens
from edgeinfer.text.tokenizer import Codec, TokenIds

if TYPE_CHECKING:
    from jinja2 import Template

    from edgeinfer.text.sandbox import Sandbox

__all__ = ["ChatTemplate"]

_MAX_SOURCE = 1 << 16  # four times the largest published template; a denser one of this size compiles in a second
_MAX_NESTING = 64
_MAX_INTEGER = 1 << 4096
_ROLES = frozenset(
    {"assistant", "available_tools", "bot", "context", "critic", "developer", "document", "documents", "environment"}
    | {"function", "gpt", "human", "ipython", "knowledge", "memory", "model", "observation", "system", "tool"}
    | {"tool_call", "tool_calls", "tool_response", "tool_responses", "tool_result", "tool_results", "tools", "user"}
)
"""Roles that stay unmarked, because some templates build control tokens from them: ``'<|' + message.role + '|>'``."""


class ChatTemplate:
    """A compiled chat template. Any thread may use it.

    ``source``: Jinja, as in GGUF files and Hugging Face repositories. ``bos_text`` and ``eos_text``: what it knows as
    ``bos_token`` and ``eos_token``. Raises `TemplateError` for a template that is missing or does not compile.
    """

    def __init__(self, source: str | None, *, bos_text: str = "", eos_text: str = "") -> None:
        if not source or not source.strip():
            raise TemplateError(
                "this model has no chat template: give one with --chat-template, "
                "or continue a plain text with edgeinfer generate"
            )
        if len(source) > _MAX_SOURCE:
            raise TemplateError(
                f"the chat template has {len(source)} characters, but at most {_MAX_SOURCE} are accepted"
            )
        from edgeinfer.text import filters, sandbox

        self.takes_tools = re.search(r"\btools\b", source) is not None
        """Whether it tells the model of the tools that it is given."""
        self._special = {"bos_token": bos_text, "eos_token": eos_text}
        self._sandbox: Sandbox = sandbox.Sandbox(filters.FILTERS, filters.TESTS, filters.FUNCTIONS)
        nothing = ControlTokens({})
        self._known: tuple[Mapping[str, int], ControlTokens, Marks] = (nothing, nothing, Marks())
        try:
            self._template: Template = self._sandbox.compile_source(source)
        except Exception as error:
            raise _failure(error, "does not compile") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt as text, to look at. Tokenizing it would let messages forge control tokens: use `encode`."""
        return self._rendered(Marks(), messages, add_generation_prompt, tools, extra)

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokenizer: Codec,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> TokenIds:
        """The prompt as token ids, int32, with exactly one BOS token in front where the model wants one.

        ``messages`` and ``tools`` hold JSON values; ``extra`` are further variables for the template, whose strings are
        marked like those of messages. Raises `TemplateError` when the template fails, refuses the messages or exceeds
        its limits, `UsageError` for messages that are not JSON values or not valid Unicode.
        """
        control, marks = self._marks_for(tokenizer)
        out = self._rendered(marks, messages, add_generation_prompt, tools, extra)
        ids = control.encode(str.__str__(out), marks.clean(text_of(out)), tokenizer.encode)
        return _with_one_bos(ids, tokenizer)

    def _marks_for(self, vocabulary: Codec) -> tuple[ControlTokens, Marks]:
        tokens = vocabulary.control_tokens
        known, control, marks = self._known
        if known is not tokens:
            control = tokens if isinstance(tokens, ControlTokens) else ControlTokens(tokens)
            marks = Marks(control)
            self._known = (tokens, control, marks)
        return control, marks

    def _rendered(
        self, marks: Marks, messages: Any, add_generation_prompt: bool, tools: Any, extra: Mapping[str, Any] | None
    ) -> str:
        intake = _Intake(marks)
        variables = {
            **{str(name): intake.take(value, str(name)) for name, value in (extra or {}).items()},
            **self._special,
            "messages": [intake.message(message, f"messages[{i}]") for i, message in enumerate(messages)],
            "tools": None if tools is None else intake.take(list(tools), "tools"),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._sandbox.render(self._template, variables, intake.n_characters, marks)
        except Exception as error:
            raise _failure(error, "failed", self._template) from None


class _Intake:
    """Copies what the caller gives into plain JSON values with marked strings, so that a template can reach nothing
    else."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self.n_characters = 0

    def message(self, message: Any, where: str) -> Any:
        if not isinstance(message, Mapping):
            raise UsageError(
                f"{where} is {type(message).__name__}, but a message is a mapping with 'role' and 'content'"
            )
        taken = self.take(message, where)
        role = message.get("role")
        if isinstance(role, str) and role in _ROLES:
            taken["role"] = str.__str__(role)
        return taken

    def take(self, value: Any, where: str, nesting: int = 0) -> Any:
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, str):
            return self._text(value, where)
        if isinstance(value, int):
            if abs(value) >= _MAX_INTEGER:
                raise UsageError(
                    f"{where} is an integer of {value.bit_length()} bits, which is too large for a template"
                )
            return int(value)
        if nesting >= _MAX_NESTING:
            raise UsageError(f"{where} is nested more than {_MAX_NESTING} deep")
        if isinstance(value, Mapping):
            return {
                self._text(key if isinstance(key, str) else str(key), where): self.take(
                    item, f"{where}.{key}", nesting + 1
                )
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.take(item, f"{where}[{i}]", nesting + 1) for i, item in enumerate(value)]
        raise UsageError(f"{where} is {type(value).__name__}, but messages hold JSON values only")

    def _text(self, text: str, where: str) -> str:
        text = str.__str__(text)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UsageError(
                    f"{where} is not valid Unicode: a lone surrogate U+{ord(text[error.start]):04X} "
                    f"at character {error.start}"
                ) from None
        self.n_characters += len(text)
        return self._marks.mark(text)


def _with_one_bos(ids: TokenIds, tokenizer: Codec) -> TokenIds:
    bos = tokenizer.bos_id
    if bos is None or not tokenizer.adds_bos:
        return ids
    n = 0
    while n < len(ids) and ids[n] == bos:
        n += 1
    return ids if n == 1 else np.concatenate((np.array([bos], np.int32), ids[n:]))


def _failure(error: Exception, what: str, template: Template | None = None) -> TemplateError:
    """The error as ours, in one line, with the template's line where it is known."""
    if isinstance(error, TemplateError):
        return error
    from edgeinfer.text.filters import Refused

    message = " ".join(str(error).split())[:300]
    if isinstance(error, Refused):
        return TemplateError(f"the chat template refuses these messages: {message or 'it does not say why'}")
    if isinstance(error, (RecursionError, MemoryError)):
        return TemplateError("the chat template is nested too deep")
    line = getattr(error, "lineno", None) or _line(error, template)
    where = f" in line {line}" if line else ""
    return TemplateError(f"the chat template {what}{where}: {message or type(error).__name__}")


def _line(error: Exception, template: Template | None) -> int | None:
    """The line of the template where the error arose."""
    at = error.__traceback__
    line = None
    while at is not None and template is not None:
        if at.tb_frame.f_code.co_filename == template.filename:
            line = template.get_corresponding_lineno(at.tb_lineno)
        at = at.tb_next
    return line
