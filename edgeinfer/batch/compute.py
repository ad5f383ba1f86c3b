"""Who computes rows. The job hands rows in and takes what came of them, in any order; it does not care where they are
computed: here by the model of this process, elsewhere by a cluster or a server, which need only be a `Computer`."""

from __future__ import annotations

import importlib.metadata
import queue
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgeinfer import __version__
from edgeinfer.batch import openai_form, plain_form
from edgeinfer.batch.rows import Computed, Row
from edgeinfer.bodies.tools import for_template
from edgeinfer.core import Answer, GenerationStats, Token
from edgeinfer.errors import EdgeInferError, EngineError, UnsupportedModel, UsageError
from edgeinfer.kv.weights import weights_hash
from edgeinfer.llm import LLM

__all__ = ["Computer", "LocalComputer", "Outcome", "Remote"]

Outcome = Computed | EdgeInferError
"""What came of a row. An error is the row's, and may be tried again; `UsageError` and `TemplateError` will not go away
by that."""


class Computer(Protocol):
    """Computes rows. All methods are called from one thread."""

    model: str
    """Who answers, in a word."""
    n_places: int
    """How many answers it computes at once. The job keeps about twice as many handed in."""
    n_generated: int
    """Tokens generated so far, those of unfinished rows included; grows on its own."""

    def facts(self) -> dict[str, Any]:
        """What results depend on (``model``, ``versions``, …), for the manifest: a job goes on only where they are the
        same."""
        ...

    def submit(self, row: Row) -> None:
        """Take a row in. Raises `UsageError` or `TemplateError` for what is wrong with the row, anything else where no
        row can be computed any more."""
        ...

    def next(self, timeout_s: float) -> tuple[Row, Outcome] | None:
        """A row that has ended, waited for no longer than ``timeout_s``."""
        ...

    def cancel(self) -> None:
        """Give up what is under way; nothing more will be asked for."""
        ...


class Remote(Computer, Protocol):
    """Computes rows elsewhere, where things happen that this process has no part in."""

    said: Callable[[str], None]
    """May be set: hears of them, in `next`."""

    def close(self) -> None: ...


@dataclass(slots=True)
class _Asked:
    """A row under way, with the answers that it has so far, by their number."""

    row: Row
    answers: dict[int, Answer] = field(default_factory=dict)
    error: EdgeInferError | None = None
    n_ended: int = 0


class LocalComputer:
    """Rows over an open `LLM`, which stays its owner's."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._events: queue.SimpleQueue[tuple[_Asked, int, Any]] = queue.SimpleQueue()
        self._cancels: dict[int, list[Callable[[], None]]] = {}
        self._embedding: ThreadPoolExecutor | None = None
        self.n_places = llm.n_parallel
        self.n_generated = 0
        try:
            self.model = llm.info.name
        except UsageError:
            self.model = "unnamed"

    def facts(self) -> dict[str, Any]:
        packages = {"edgeinfer": __version__}
        model: dict[str, Any] = {"name": self.model}
        try:
            path = Path(self._llm.info.path)
            # A model of several files is known by the one that lists them.
            known = path / "edgeinfer.json" if path.is_dir() else path
            package = "onnxruntime" if path.is_dir() else "llama-cpp-python"
            if known.is_file():
                model["sha256"] = weights_hash(known)
                packages[package] = importlib.metadata.version(package)
        except (UsageError, OSError, importlib.metadata.PackageNotFoundError):
            pass  # a model without a file is known by its name
        return {"model": model, "n_ctx": self._llm.n_ctx, "versions": packages}

    # ---- in

    def submit(self, row: Row) -> None:
        if row.form in ("chat", "plain", "response") and not isinstance(row.prompt, str) and not self._llm.has_template:
            raise UnsupportedModel(
                f"{self.model} has no chat template: continue prompts as they stand (--raw, raw=True), "
                "or give one with --chat-template"
            )
        asked = _Asked(row)
        if row.form == "embedding":
            self._embed(asked)
            return
        prompt, options = self._told(row)
        cancels: list[Callable[[], None]] = []
        try:
            for i in range(row.n):
                cancels.append(self._llm.submit(prompt, self._hears(asked, i), remember=False, **_seeded(options, i)))
        except BaseException:
            for cancel in cancels:
                cancel()
            raise
        self._cancels[id(asked)] = cancels

    def _told(self, row: Row) -> tuple[Any, Mapping[str, Any]]:
        """Prompt and options as the model's template can take them."""
        if isinstance(row.prompt, str) or not row.prompt or isinstance(row.prompt[0], int):
            return row.prompt, row.options
        messages: Any = row.prompt
        takes_tools = self._llm.template is not None and self._llm.template.takes_tools
        prompt, tools = for_template(messages, row.options.get("tools"), takes_tools=takes_tools)
        return prompt, {**row.options, "tools": tools} if "tools" in row.options else row.options

    def _hears(self, asked: _Asked, i: int) -> Callable[[Token | Answer | EdgeInferError], None]:
        def hear(event: Token | Answer | EdgeInferError) -> None:
            if isinstance(event, Token):
                self.n_generated += event.id >= 0
            else:
                self._events.put((asked, i, event))

        return hear

    def _embed(self, asked: _Asked) -> None:
        """Embeddings are waited for in threads of their own: the engine computes them between the steps of others."""
        if self._embedding is None:
            self._embedding = ThreadPoolExecutor(2, thread_name_prefix="edgeinfer-embedding")
        texts = asked.row.texts

        def work() -> None:
            try:
                self._events.put((asked, 0, (self._llm.embed(texts), sum(map(self._llm.count_tokens, texts)))))
            except EdgeInferError as error:
                self._events.put((asked, 0, error))
            except Exception as error:  # a thread that dies in silence would be waited for without an end
                self._events.put((asked, 0, EngineError(f"{type(error).__name__}: {error}")))

        self._embedding.submit(work)

    # ---- out

    def next(self, timeout_s: float) -> tuple[Row, Outcome] | None:
        while True:
            try:
                asked, i, event = self._events.get(timeout=timeout_s)
            except queue.Empty:
                return None
            asked.n_ended += 1
            if isinstance(event, EdgeInferError):
                asked.error = event
            elif isinstance(event, Answer):
                asked.answers[i] = event
            if asked.n_ended == asked.row.n:
                self._cancels.pop(id(asked), None)
                return asked.row, self._outcome(asked, event)

    def _outcome(self, asked: _Asked, event: Any) -> Outcome:
        row = asked.row
        if asked.error is not None:
            return asked.error
        if row.form == "embedding":
            vectors, n_tokens = event
            stats = GenerationStats(n_prompt=n_tokens, n_prefilled=n_tokens)
            try:
                return Computed(openai_form.embedding_body(row, vectors, n_tokens, self.model), stats)
            except UsageError as error:
                return error
        answers = [asked.answers[i] for i in range(row.n)]
        if any(answer.finish_reason == "cancelled" for answer in answers):
            return EngineError("the request was cancelled")
        if row.form == "plain":
            return Computed(plain_form.plain_body(row, answers[0]), answers[0].stats)
        body = _BODIES[row.form](row, answers, self.model, self._llm.token_bytes)
        return Computed(body, _summed([answer.stats for answer in answers]))

    def cancel(self) -> None:
        for cancels in self._cancels.values():
            for cancel in cancels:
                cancel()
        self._cancels.clear()
        if self._embedding is not None:
            self._embedding.shutdown(wait=False, cancel_futures=True)
            self._embedding = None


_BODIES = {
    "chat": openai_form.chat_body,
    "completion": openai_form.completion_body,
    "response": openai_form.response_body,
}


def _seeded(options: Mapping[str, Any], i: int) -> Mapping[str, Any]:
    """Each answer of a row has a seed of its own."""
    return {**options, "seed": (options["seed"] + i) % 2**64} if i else options


def _summed(all_stats: list[GenerationStats]) -> GenerationStats:
    if len(all_stats) == 1:
        return all_stats[0]
    counts = ("n_prompt", "n_reused", "n_restored", "n_prefilled", "n_generated", "n_drafted", "n_accepted", "n_rounds")
    times = ("queue_s", "ttft_s", "total_s")
    return GenerationStats(
        **{name: sum(getattr(stats, name) for stats in all_stats) for name in counts},
        **{name: max(getattr(stats, name) for stats in all_stats) for name in times},
    )
