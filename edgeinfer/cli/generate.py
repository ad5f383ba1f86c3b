"""``edgeinfer generate``: the raw continuation of a text. No template, no conversation."""

from __future__ import annotations

from typing import Any

import click

from edgeinfer.cli import options
from edgeinfer.cli.flags import Command
from edgeinfer.errors import UsageError

__all__ = ["command"]


@click.command("generate", cls=Command)
@options.prompt_flags
@options.model_flags
@options.sampling_flags
@options.json_flag
@options.debug_flag
def command(**flags: Any) -> None:
    """Continue a text as it stands, without a chat template.

    The text comes from -p, -f or standard input; its continuation alone goes to standard output.

    \b
      edgeinfer generate -p "def fibonacci(n):" -n 64 --temp 0
      edgeinfer generate -m ./model.gguf -f story.txt --seed 7 --json
    """
    from edgeinfer.cli import loading, oneshot

    prompt = oneshot.read_prompt(flags)
    if prompt is None:
        raise UsageError("there is nothing to continue; give a text with -p TEXT, -f FILE or on standard input")
    sampling = options.sampling_arguments(flags)
    with loading.open_llm(flags["model"], options.llm_arguments(flags)) as llm:
        oneshot.answer(llm, prompt, sampling, as_json=flags["as_json"])
