"""The flags that several commands share, each declared once with its variable, and what they mean for `LLM`.

Defaults come from `SamplingParams`. A command takes a group of flags with a decorator (``@model_flags``), receives
them as keyword arguments, and turns them into arguments with `llm_arguments` and `sampling_arguments`. Knows nothing
of what commands do.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgeinfer.cli.flags import bias, device, flag, kv_cache, size, some_text, together, whole_number
from edgeinfer.core import MAX_THREADS, Grammar, SamplingParams
from edgeinfer.errors import UsageError

__all__ = [
    "DEFAULTS",
    "SAMPLING",
    "THREADS",
    "debug_flag",
    "device_flags",
    "draft_flag",
    "engine_flags",
    "everything",
    "grammar_of",
    "json_flag",
    "kernels_flag",
    "llm_arguments",
    "model_flags",
    "prompt_flags",
    "read_text",
    "sampling_arguments",
    "sampling_flags",
]

DEFAULTS = {field.name: field.default for field in dataclasses.fields(SamplingParams)}


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if value:
        os.environ["EDGEINFER_DEBUG"] = "1"


_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_POSITIVE = click.IntRange(min=1)
THREADS = click.IntRange(1, MAX_THREADS)
_MODEL, SAMPLING, _PROMPT = "Model and machine", "Sampling", "Prompt"

debug_flag = flag(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_debug,
    help="Show a traceback when something fails.",
)

json_flag = flag("--json", "as_json", is_flag=True, help="One JSON object on the last line of standard output.")

model_flag = flag(
    "-m",
    "--model",
    metavar="NAME",
    section=_MODEL,
    help="Catalogue name, path of a GGUF file or ONNX package, or hf:owner/repo[:quant].  [default: smollm2-135m]",
)

kernels_flag = flag(
    "--no-kernels",
    is_flag=True,
    section=_MODEL,
    help="llama.cpp's own CPU kernels instead of ours, and its memory layout.",
)

draft_flag = flag(
    "-md",
    "--draft",
    metavar="NAME",
    type=some_text,
    default="auto",
    section=_MODEL,
    show_default=True,
    help="Who guesses ahead, for speed: a model, ngram, auto or off. Answers stay the same.",
)

device_flags = together(
    flag(
        "--device",
        type=device,
        default="auto",
        metavar="NAME",
        section=_MODEL,
        show_default=True,
        help="Where to run: cpu, gpu, npu, or a provider such as cuda or openvino:npu (auto: cpu).",
    ),
    flag(
        "--require",
        type=device,
        metavar="NAME",
        section=_MODEL,
        help="Fail (exit code 5) unless everything that computes is on this device.",
    ),
)

engine_flags = together(
    draft_flag,
    kernels_flag,
    flag(
        "-c",
        "--ctx-size",
        type=_POSITIVE,
        metavar="N",
        section=_MODEL,
        help="Context in tokens.  [default: 4096, or less if the model was trained for less]",
    ),
    flag("-t", "--threads", type=THREADS, metavar="N", section=_MODEL, help="Threads for decode.  [default: as tuned]"),
    flag(
        "-tb",
        "--threads-batch",
        type=THREADS,
        metavar="N",
        section=_MODEL,
        help="Threads for prefill.  [default: as tuned]",
    ),
    flag("--memory", type=size, metavar="SIZE", section=_MODEL, help="Use no more than this, for example 2G."),
    flag(
        "--kv-type",
        type=click.Choice(["f16", "q8_0", "auto"]),
        default="f16",
        section=_MODEL,
        show_default=True,
        help="Type of the KV cache; auto: q8_0 where the context would not fit otherwise.",
    ),
    flag(
        "--kv-cache",
        type=kv_cache,
        default="4G",
        metavar="SIZE|off",
        section=_MODEL,
        show_default=True,
        help="Disk space for saved conversations, which need not be read again.",
    ),
    device_flags,
    flag(
        "--engine",
        type=click.Choice(["auto", "llamacpp", "onnx"]),
        default="auto",
        section=_MODEL,
        show_default=True,
        help="What runs the model.",
    ),
    flag(
        "--on-overflow",
        type=click.Choice(["error", "drop-oldest", "compact"]),
        default="error",
        section=_MODEL,
        show_default=True,
        help="When a prompt does not fit: say so, drop the oldest turns, or have them summarised.",
    ),
    flag(
        "--chat-template",
        type=_FILE,
        metavar="FILE",
        section=_MODEL,
        help="A Jinja chat template instead of the model's.",
    ),
)

model_flags = together(model_flag, engine_flags)

_VALUES: tuple[tuple[tuple[str, ...], str, Any, str, str], ...] = (
    (("--temp",), "temperature", click.FloatRange(min=0), "X", "Temperature; 0 always takes the likeliest token."),
    (("--top-k",), "top_k", click.IntRange(min=0), "N", "Only the N likeliest tokens (0: all)."),
    (
        ("--top-p",),
        "top_p",
        click.FloatRange(0, 1, min_open=True),
        "X",
        "Only the likeliest tokens that add up to X (1: all).",
    ),
    (
        ("--min-p",),
        "min_p",
        click.FloatRange(0, 1),
        "X",
        "Only tokens at least X times as likely as the best (0: all).",
    ),
    (("--typical",), "typical_p", click.FloatRange(0, 1, min_open=True), "X", "Locally typical sampling (1: off)."),
    (
        ("--repeat-penalty",),
        "repeat_penalty",
        click.FloatRange(min=0, min_open=True),
        "X",
        "Penalise repeats (1: off).",
    ),
    (("--frequency-penalty",), "frequency_penalty", click.FloatRange(-2, 2), "X", "Penalise by how often (0: off)."),
    (("--presence-penalty",), "presence_penalty", click.FloatRange(-2, 2), "X", "Penalise what has occurred (0: off)."),
)
"""Flags with a plain value: names, field of `SamplingParams`, type, metavar, help."""

sampling_flags = together(
    flag(
        "-n",
        "--max-tokens",
        "--n-predict",
        type=whole_number(1, None, "no limit"),
        metavar="N",
        section=SAMPLING,
        help="Most tokens to generate.  [default: until the answer or the context ends]",
    ),
    *(
        flag(
            *names,
            field,
            type=kind,
            default=DEFAULTS[field],
            metavar=metavar,
            section=SAMPLING,
            show_default=True,
            help=text,
        )
        for names, field, kind, metavar, text in _VALUES
    ),
    flag("--logit-bias", type=bias, multiple=True, metavar="ID=BIAS", section=SAMPLING, help="Add to a token's logit."),
    flag(
        "-s",
        "--seed",
        type=whole_number(0, 2**64 - 1, "a fresh one"),
        metavar="N",
        section=SAMPLING,
        help="Same seed, same text.  [default: a fresh one]",
    ),
    flag(
        "--stop",
        type=some_text,
        multiple=True,
        metavar="TEXT",
        section=SAMPLING,
        help="End the answer before this text.",
    ),
    flag(
        "--logprobs",
        type=click.IntRange(0, 100),
        metavar="N",
        section=SAMPLING,
        help="Log-probabilities of each token and N alternatives (with --json).",
    ),
    flag("--json-schema", type=_FILE, metavar="FILE", section=SAMPLING, help="Answer with JSON that fits this schema."),
    flag("--grammar", type=_FILE, metavar="FILE", section=SAMPLING, help="Answer in this grammar (GBNF or Lark)."),
    flag("--regex", metavar="TEXT", section=SAMPLING, help="Answer with what matches this regular expression."),
)

prompt_flags = together(
    flag("-p", "--prompt", metavar="TEXT", section=_PROMPT, help="Answer this once and exit."),
    flag(
        "-f",
        "--file",
        "prompt_file",
        type=_FILE,
        metavar="FILE",
        section=_PROMPT,
        help="Text to read as (or add to) the prompt.",
    ),
)


@click.command("everything")
@model_flags
@sampling_flags
@prompt_flags
@json_flag
def everything(**flags: Any) -> None:
    """All shared flags: what a config file may hold outside a command's section."""


def llm_arguments(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `LLM`, without the model."""
    template = flags["chat_template"]
    return {
        "n_ctx": flags["ctx_size"],
        "n_threads": flags["threads"],
        "n_threads_batch": flags["threads_batch"],
        "memory": flags["memory"],
        "kv_type": flags["kv_type"],
        "kv_cache": flags["kv_cache"],
        "engine": flags["engine"],
        "device": flags["device"],
        "require": flags["require"] or "",
        "on_overflow": flags["on_overflow"],
        "kernels": not flags["no_kernels"],
        "draft": flags["draft"],
        "chat_template": read_text(template, "chat template", 1 << 20) if template else None,
    }


def sampling_arguments(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a request: fields of `SamplingParams`, checked together. Raises `UsageError`."""
    arguments = {field: flags[field] for _, field, *_ in _VALUES}
    arguments.update(
        max_tokens=flags["max_tokens"],
        logit_bias=dict(flags["logit_bias"]),
        seed=flags["seed"],
        stop=tuple(flags["stop"]),
        logprobs=flags["logprobs"],
        grammar=grammar_of(flags),
    )
    SamplingParams(**arguments)
    return arguments


def grammar_of(flags: Mapping[str, Any]) -> Grammar | None:
    """What --json-schema, --grammar or --regex ask for. Raises `UsageError` for two at once or an unreadable file."""
    given = [name for name in ("json_schema", "grammar", "regex") if flags[name]]
    if len(given) > 1:
        raise UsageError("only one of --json-schema, --grammar and --regex can be used at a time")
    if flags["json_schema"]:
        return Grammar("json_schema", read_text(flags["json_schema"], "JSON schema", 4 << 20))
    if flags["grammar"]:
        path: Path = flags["grammar"]
        source = read_text(path, "grammar", 4 << 20)
        gbnf = path.suffix == ".gbnf" or (path.suffix != ".lark" and "::=" in source)
        return Grammar("gbnf" if gbnf else "lark", source)
    return Grammar("regex", flags["regex"]) if flags["regex"] else None


def read_text(path: Path, what: str, max_bytes: int) -> str:
    """A file as UTF-8 text. Raises `UsageError` for one that cannot be read, is too large, or is not text."""
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise UsageError(f"the {what} {path} is larger than {max_bytes >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is {data[error.start]:#04x}"
        raise UsageError(f"the {what} {path} is not UTF-8 text: {where}") from error
