"""What requests of several APIs have in common: how to sample, how to end, what may be called. Unknown fields are
errors; those that clients send and that mean nothing here are named, and let be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeinfer.bodies import formats
from edgeinfer.bodies.errors import BodyError
from edgeinfer.core import Grammar

__all__ = ["Body", "Function", "Sampling", "Seed", "StreamOptions", "Toolbox", "text_of", "toolbox"]

Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]


class Body(BaseModel):
    """A request's body, or a part of one."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class StreamOptions(Body):
    """``include_usage``: a last chunk that says what it cost."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Sampling(Body):
    """How tokens are chosen, under the names that OpenAI's API and llama.cpp's server share. What is not given is as in
    `SamplingParams`."""

    temperature: Number | None = Field(None, ge=0, le=100)
    top_p: Number | None = Field(None, ge=0, le=1)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Number] | None = Field(None, max_length=1024)
    seed: Seed | None = None
    stop: str | list[str] | None = None
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: Number | None = Field(None, ge=0, le=1)
    typical_p: Number | None = Field(None, gt=0, le=1)
    repeat_penalty: Number | None = Field(None, gt=0, le=100)
    ignore_eos: bool | None = None
    regex: str | None = Field(None, description="The answer must match this regular expression.")

    def sampling(self) -> dict[str, Any]:
        """Options for `LLM.stream`: only what is given."""
        names = (
            "temperature",
            "frequency_penalty",
            "presence_penalty",
            "top_k",
            "min_p",
            "typical_p",
            "repeat_penalty",
        )
        options = {name: getattr(self, name) for name in (*names, "ignore_eos") if getattr(self, name) is not None}
        if self.top_p is not None:
            options["top_p"] = max(self.top_p, 1e-6)  # 0 is what some clients write for "the likeliest alone"
        if self.logit_bias:
            options["logit_bias"] = _bias(self.logit_bias)
        if self.seed is not None:
            options["seed"] = self.seed % 2**64
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if stop:
            options["stop"] = stop
        if self.regex is not None:
            options["grammar"] = Grammar("regex", self.regex)
        return options


def _bias(given: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(token_id): bias for token_id, bias in given.items()}
    except ValueError:
        raise BodyError("logit_bias: its keys must be token ids, as text", param="logit_bias") from None


# ---- text


def text_of(content: Any, where: str) -> str:
    """The text of a message's content: itself, or parts of text joined. Raises `BodyError` for pictures, sound and
    files, which no model here can take."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        kind = part.get("type")
        if kind not in ("text", "input_text", "output_text", "refusal"):
            raise BodyError(f"{where} has a part of type {str(kind)[:40]!r}, but models here take text", param=where)
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise BodyError(f"{where} has a part without text", param=where)
        texts.append(text)
    return "\n".join(texts)


# ---- tools


class Function(Body):
    """A function that a model may call: ``parameters`` is a JSON schema."""

    name: str = Field(min_length=1, max_length=256, pattern=r"^[a-zA-Z0-9_.:-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Toolbox(BaseModel):
    """What may be called in one request. ``told``: as the template gets it. ``names``: whose calls are looked for in
    the answer. ``grammar``: where a call is demanded, that it is one."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    told: list[dict[str, Any]] | None = None
    names: frozenset[str] = frozenset()
    grammar: Grammar | None = None


def toolbox(
    functions: Sequence[Function] | None,
    choice: Literal["none", "auto", "required"] | str,
    *,
    only: Sequence[str] | None = None,
    parallel: bool = True,
) -> Toolbox:
    """``choice`` is one of the three words, or ``=NAME`` for one function that must be called. ``only``: the names of
    those that may be. Raises `BodyError` for a name that is not among them, `GrammarError` for a schema that is
    none."""
    known = {function.name: function for function in functions or ()}
    if len(known) < len(functions or ()):
        raise BodyError("two tools have one name", param="tools")
    wanted = [choice[1:]] if choice.startswith("=") else list(only if only is not None else known)
    for name in wanted:
        if name not in known:
            raise BodyError(f"tool_choice names {name[:80]!r}, which is not among the tools", param="tool_choice")
    if choice == "none" or not known:
        if choice == "required":
            raise BodyError("tool_choice demands a call, but there are no tools", param="tool_choice")
        return Toolbox()
    told = [{"type": "function", "function": _told(function)} for function in known.values()]
    grammar = None
    if choice == "required" or choice.startswith("="):
        callable_ones = [known[name].model_dump() for name in wanted]
        grammar = formats.calls(callable_ones, parallel=parallel and choice == "required")
    return Toolbox(told=told, names=frozenset(wanted), grammar=grammar)


def _told(function: Function) -> dict[str, Any]:
    parameters = function.parameters or {"type": "object", "properties": {}}
    return {"name": function.name, "description": function.description or "", "parameters": parameters}
