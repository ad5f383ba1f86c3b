"""LLM, the front door: a model by name, answers as text. Any thread may call it, any event loop may await it.

Owns the pieces and wires them: catalogue, memory plan, engine and its thread, tokenizer, template. Decodes nothing
itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from edgeinfer.core import Answer, FinishReason, ModelInfo
from edgeinfer.engines import Engine, EngineConfig, devices
from edgeinfer.engines.base import KVType
from edgeinfer.errors import EdgeInferError, UsageError
from edgeinfer.keeping import cap_of
from edgeinfer.kv import Shelf
from edgeinfer.loop import EngineLoop
from edgeinfer.opening import Opened, open_model
from edgeinfer.options import RequestOptions
from edgeinfer.process import LOG
from edgeinfer.prompt import ChatMessage, OverflowPolicy, Prompt, PromptBuilder
from edgeinfer.request import EmbedRequest, Request
from edgeinfer.sampling import Constraint, Sampler
from edgeinfer.speculate import Speculator
from edgeinfer.stream import AsyncStream, Delivery, Event, Stream
from edgeinfer.text import ChatTemplate, Codec, Tokenizer

if TYPE_CHECKING:
    from edgeinfer.catalog import Progress

__all__ = ["LLM", "Stream"]

Messages = Sequence[ChatMessage]
PromptLike = str | Sequence[int] | Messages
Floats = npt.NDArray[np.float32]


class LLM:
    """A model, ready to answer.

    ``model``: a catalogue name, a path to a GGUF file or to an ONNX package's folder, or ``hf:owner/repo[:quant]``;
    fetched when it is not here yet.
    ``n_ctx``: tokens a conversation may hold (default: 4096, or what the model was trained for if that is less).
    ``n_parallel``: how many requests are computed at once; more wait their turn. ``memory``: a cap such as ``"2G"``
    on what the model, its KV cache and scratch space may take together. ``kv_type``: ``"auto"`` takes q8_0 where the
    context would not fit otherwise. ``kv_cache``: how much of the disk saved states of conversations may take, such as
    ``"4G"``, so that they need not be computed again after a restart; ``"off"`` unless asked for, because a library
    writes nothing on its own. ``warned`` hears, from any thread, what goes wrong with them. ``chat_template``: Jinja
    source that replaces the model's own. ``draft``: who guesses ahead, so that several tokens are computed in one pass;
    answers stay the same. A model's name, ``"ngram"`` (repeats of the text), ``"auto"`` (that, and the catalogue's
    partner of this model where it is on this machine and fits) or ``"off"``. ``said`` hears what takes a while.
    ``engine``: ``llamacpp`` for GGUF files, ``onnx`` for packages; ``auto`` goes by the model. ``device``: a word of
    `edgeinfer.engines.devices` such as ``npu`` or ``cuda`` (``auto``: the CPU). ``require``: an error unless all that
    computes lies on this device; ``placement`` says where it lies, for the ONNX engine.
    Threads: None takes what `edgeinfer tune` has measured, or the machine's physical cores.

    Raises `ModelNotFound`, `DownloadError`, `FormatError`, `UnsupportedModel`, `InsufficientMemory`,
    `BackendUnavailable`, `UsageError`."""

    def __init__(
        self,
        model: str | os.PathLike[str] = "smollm2-135m",
        *,
        n_ctx: int | None = None,
        n_parallel: int = 1,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        memory: str | int | None = None,
        kv_type: KVType | Literal["auto"] = "f16",
        kv_cache: str | int = "off",
        engine: str = "auto",
        device: str = "auto",
        require: str = "",
        on_overflow: OverflowPolicy = "error",
        chat_template: str | None = None,
        kernels: bool = True,
        draft: str = "off",
        progress: Progress | None = None,
        said: Callable[[str], None] = lambda _what: None,
        warned: Callable[[str], None] = LOG.warning,
    ) -> None:
        devices.parse(device)
        if require:
            devices.parse(require)
        config = EngineConfig(
            n_ctx=n_ctx or 0,
            n_seq_max=n_parallel,
            n_threads=n_threads or 0,
            n_threads_batch=n_threads_batch or 0,
            kv_type="f16" if kv_type == "auto" else kv_type,
            isolate=True,  # where kernels round a token otherwise in company: an answer must not depend on it
            kernels=kernels,
            device=device,
            require=require,
        )
        opened = open_model(
            model,
            config,
            engine=engine,
            cap=memory,
            chat_template=chat_template,
            draft=draft,
            kv_cache=cap_of(kv_cache),
            kv_auto=kv_type == "auto",
            progress=progress,
            said=said,
            warned=warned,
        )
        self._start(opened, on_overflow)

    @classmethod
    def from_engine(
        cls,
        engine: Engine,
        tokenizer: Codec,
        *,
        template: ChatTemplate | None = None,
        info: ModelInfo | None = None,
        speculator: Speculator | None = None,
        on_overflow: OverflowPolicy = "error",
        n_parallel: int | None = None,
        shelf: Shelf | None = None,
    ) -> LLM:
        """An LLM over an engine that is open already, such as `edgeinfer.engines.scripted.ScriptedEngine`. It is
        closed with it."""
        llm = cls.__new__(cls)
        opened = Opened(engine, tokenizer, template, info, speculator=speculator, n_parallel=n_parallel, shelf=shelf)
        llm._start(opened, on_overflow)
        return llm

    def _start(self, opened: Opened, on_overflow: OverflowPolicy) -> None:
        self._defaults = RequestOptions().updated({"on_overflow": on_overflow})
        self._tokenizer = opened.tokenizer
        self._embedding = opened.embedding
        self.n_ctx = opened.engine.n_ctx
        self.n_parallel = min(opened.n_parallel or opened.engine.n_seq_max, opened.engine.n_seq_max)
        self.has_template = opened.template is not None
        self.notices = opened.notices
        self.plan = opened.plan
        self.placement = opened.placement
        self._info = opened.info
        self._prompts = PromptBuilder(opened.tokenizer, opened.template, self.n_ctx)
        self._plain_prompts = PromptBuilder(opened.tokenizer, opened.template, self.n_ctx)  # never told an answer
        self._live: dict[object, Callable[[FinishReason], None]] = {}
        self._live_lock = threading.Lock()
        self._loop = EngineLoop(opened.engine, opened.speculator, n_parallel=opened.n_parallel, shelf=opened.shelf)
        # Also runs at exit and when the last reference goes, so that no thread outlives the model.
        self._finalizer = weakref.finalize(self, _close, self._loop, opened.tokenizer)

    @property
    def info(self) -> ModelInfo:
        """What the model is. Raises `UsageError` for an LLM made from an engine without saying."""
        if self._info is None:
            raise UsageError("this LLM was made from an engine without model information")
        return self._info

    @property
    def load(self) -> tuple[int, int]:
        """(requests being computed, requests waiting)"""
        return self._loop.load

    @property
    def pulse(self) -> tuple[int, int]:
        """(steps that have ended, tokens of the pass under way), for whoever watches that it does not stand still."""
        return self._loop.pulse

    @property
    def tokenizer(self) -> Codec:
        """The model's vocabulary. It is closed with the model."""
        return self._tokenizer

    @property
    def template(self) -> ChatTemplate | None:
        """The chat template in use; None where the model has none."""
        return self._prompts.template

    # ---- answers

    def stream(self, prompt: PromptLike, **options: Any) -> Stream:
        """Begin to answer messages (through the chat template), or to continue a text or token ids (raw).

        ``options``: the fields of `SamplingParams`, ``deadline_s``, ``draft``, ``on_overflow``; an unknown one is a
        `UsageError`. Raises `ContextOverflow` when the prompt does not fit (policy ``error``), `GrammarError`,
        `TemplateError`.
        """
        chosen = self._defaults.updated(options)
        built = self._build(prompt, chosen)
        stream = Stream(built.notices)
        stream.bind(self._submit(built.token_ids, chosen, stream.sink, built.n_dropped))
        return stream

    def chat(self, messages: Messages, **options: Any) -> Answer:
        """The whole answer to a conversation. Options and errors as for `stream`."""
        if isinstance(messages, str):
            raise UsageError("chat takes a list of messages with 'role' and 'content'; a plain text goes to generate")
        return self._finish(self.stream(messages, **options))

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Answer:
        """The raw continuation of a text or of token ids: no chat template. Options and errors as for `stream`."""
        return self._finish(self.stream(prompt, **options))

    def samples(self, prompt: PromptLike, n: int, **options: Any) -> list[Answer]:
        """``n`` answers to one prompt, which is read once. Options and errors as for `stream`; with a ``seed``, answer
        i has ``seed + i``."""
        if n < 1:
            raise UsageError(f"n is {n}, but must be at least 1")
        seed = options.pop("seed", None)
        seeds = [None if seed is None else (seed + i) % 2**64 for i in range(n)]
        with contextlib.ExitStack() as open_streams:
            streams = [open_streams.enter_context(self.stream(prompt, **options, seed=one)) for one in seeds]
            return [stream.answer for stream in streams]

    def submit(
        self, prompt: PromptLike, deliver: Callable[[Event], None], *, remember: bool = True, **options: Any
    ) -> Callable[[], None]:
        """Begin to answer, for who has many requests under way and a thread for none: ``deliver`` is called on the
        engine's thread with each `Token`, then once with the `Answer` or the error; it must return quickly and not
        raise. Returns what cancels. Without ``remember`` the prompt's tokens are those of its text, whatever was
        answered before, so that the same request has the same answer in any company. Options and errors as for
        `stream`."""
        chosen = self._defaults.updated(options)
        built = self._build(prompt, chosen, self._prompts if remember else self._plain_prompts)
        return self._submit(built.token_ids, chosen, deliver, built.n_dropped, remember=remember)

    @staticmethod
    def _finish(stream: Stream) -> Answer:
        with stream:
            return stream.answer

    async def astream(self, prompt: PromptLike, **options: Any) -> AsyncStream:
        """`stream` for asyncio: ``async for token in await llm.astream(messages)``."""
        chosen = self._defaults.updated(options)
        built = await asyncio.to_thread(self._build, prompt, chosen)
        stream = AsyncStream(built.notices)
        stream.bind(self._submit(built.token_ids, chosen, stream.sink, built.n_dropped))
        return stream

    async def achat(self, messages: Messages, **options: Any) -> Answer:
        """`chat`, awaited. Cancelling the task cancels the request."""
        if isinstance(messages, str):
            raise UsageError("achat takes a list of messages with 'role' and 'content'; a plain text goes to agenerate")
        return await (await self.astream(messages, **options)).answer()

    async def agenerate(self, prompt: str | Sequence[int], **options: Any) -> Answer:
        """`generate`, awaited. Cancelling the task cancels the request."""
        return await (await self.astream(prompt, **options)).answer()

    def embed(self, texts: str | Sequence[str], *, normalize: bool = True) -> npt.NDArray[np.float32]:
        """One vector for each text: shape ``(n_texts, n_embd)``, of length 1 each where ``normalize``. Made of the last
        hidden states as the model's file says; their mean where it says nothing.

        Raises `ContextOverflow` for a text that does not fit, `UsageError` for an empty one.
        """
        futures = [self._future_embed(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return self._embedding.pooled([future.result() for future in futures], normalize)

    async def aembed(self, texts: str | Sequence[str], *, normalize: bool = True) -> npt.NDArray[np.float32]:
        """`embed`, awaited."""
        futures = [self._future_embed(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return self._embedding.pooled(await asyncio.gather(*map(asyncio.wrap_future, futures)), normalize)

    def submit_embed(
        self, text: str | Sequence[int], deliver: Callable[[Floats | EdgeInferError], None]
    ) -> tuple[int, Callable[[], None]]:
        """Begin to embed one text, or its token ids: ``deliver`` is called on the engine's thread with its vector as of
        `embed`, shape ``(n_embd,)``, of length 1, or with an error. Returns (tokens, what cancels it). Raises as
        `embed`."""
        pooled = self._embedding.pooled
        sink = _EmbedSink(lambda got: deliver(got if isinstance(got, EdgeInferError) else pooled([got], True)[0]))
        return self._submit_embed(text, sink)

    def count_tokens(self, prompt: PromptLike, tools: Sequence[Mapping[str, Any]] | None = None) -> int:
        """How many tokens the prompt has, template included, whether it fits or not."""
        return len(self.encode(prompt, tools))

    def encode(self, prompt: PromptLike, tools: Sequence[Mapping[str, Any]] | None = None) -> npt.NDArray[np.int32]:
        """The token ids of a prompt as they would be computed, template included, whether they fit or not."""
        self._loop.birthplace.check()
        return self._prompts.encode(prompt, tools)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; none for a control token."""
        return self._tokenizer.token_bytes(token_id)

    def cancel(self, stream: Stream | AsyncStream | None = None) -> None:
        """Cancel one stream, or without an argument everything that runs or waits."""
        if stream is not None:
            stream.cancel()
            return
        if not self._loop.birthplace.is_here:
            return
        with self._live_lock:
            live = list(self._live.values())
        for cancel in live:
            cancel("cancelled")

    def remember(self, messages: Messages, token_ids: Sequence[int]) -> None:
        """Tell that the last message, an answer of this model, consisted of these ids, so that the conversation goes on
        with the tokens that were computed then. Ids that do not spell the message are disregarded."""
        self._loop.birthplace.check()
        text = messages[-1].get("content") or ""
        ids = np.asarray(token_ids, np.int64)
        if ids.size and ids.min() >= 0 and ids.max() < self._tokenizer.n_vocab:
            self._prompts.memory.remember(self._prompts.encode(messages[:-1]), ids.tolist(), text)

    def forget(self) -> None:
        """Drop the KV of conversations that are not being answered from memory: the next prompts are computed from the
        start, or from what has been saved on disk."""
        self._loop.forget()

    def close(self) -> None:
        """Cancel what runs, save what is worth it (see ``kv_cache``), end the thread, free the model. Closing twice is
        harmless."""
        self._finalizer()

    async def aclose(self) -> None:
        """`close`, awaited: it waits for the step under way and for what is saved."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> LLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError("an open model cannot be copied or sent to another process; send its name and open it there")

    # ---- requests

    def _build(self, prompt: PromptLike, chosen: RequestOptions, prompts: PromptBuilder | None = None) -> Prompt:
        self._loop.birthplace.check()
        return (prompts or self._prompts).build(
            prompt,
            max_tokens=chosen.sampling.max_tokens,
            policy=chosen.on_overflow,
            summarise=self._summarise,
            tools=chosen.tools,
        )

    def _summarise(self, messages: Messages) -> str:
        """A summary of old turns by the model itself, short enough to leave its place to what follows."""
        transcript = "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in messages)
        ask = "Summarise this conversation in a few sentences. Keep names, numbers, decisions and open questions.\n\n"
        # The transcript may itself be too long: its newest part counts most.
        ids = self._tokenizer.encode(transcript)[-self.n_ctx // 2 :]
        question = [{"role": "user", "content": ask + self._tokenizer.decode(ids)}]
        options: dict[str, Any] = {"max_tokens": max(16, self.n_ctx // 16), "temperature": 0.0, "on_overflow": "error"}
        return self.chat(question, **options).text.strip()

    def _submit(
        self,
        ids: npt.NDArray[np.int32],
        chosen: RequestOptions,
        deliver: Callable[[Any], None],
        n_dropped: int,
        *,
        remember: bool = True,
    ) -> Callable[[], None]:
        """Queue a request; returns what cancels it."""
        self._embedding.check_generates()
        params = chosen.sampling
        vocabulary = self._tokenizer
        sampler = Sampler(
            params, vocabulary.n_vocab, ids, constraint=self._constraint(chosen), eos_ids=vocabulary.eog_ids
        )
        timer: threading.Timer | None = None
        # Not the request itself, which would then hold itself alive until Python looks for cycles.
        ticket = object()

        def finished(answer: Answer | None) -> None:
            if timer is not None:
                timer.cancel()
            with self._live_lock:
                self._live.pop(ticket, None)
            if remember and answer is not None and answer.text:
                self._prompts.memory.remember(ids, answer.token_ids, answer.text)

        sink = Delivery(vocabulary, params.stop, deliver, finished, n_dropped)
        eog_ids = () if params.ignore_eos else vocabulary.eog_ids
        request = Request(
            ids,
            sampler,
            sink,
            n_ctx=self.n_ctx,
            max_tokens=params.max_tokens,
            eog_ids=eog_ids,
            takes_drafts=chosen.draft,
        )

        def cancel(reason: FinishReason = "cancelled") -> None:
            self._loop.cancel(request, reason)

        if chosen.deadline_s is not None:
            timer = threading.Timer(chosen.deadline_s, cancel, ["deadline"])
            timer.daemon = True
            timer.start()
        with self._live_lock:
            self._live[ticket] = cancel
        try:
            self._loop.submit(request)
        except EdgeInferError:
            finished(None)
            raise
        return cancel

    def _constraint(self, chosen: RequestOptions) -> Constraint | None:
        if chosen.sampling.grammar is None:
            return None
        from edgeinfer.sampling.grammar import compile_grammar  # llguidance takes a moment to import

        return compile_grammar(chosen.sampling.grammar, self._tokenizer)()

    def _submit_embed(self, text: str | Sequence[int], sink: _EmbedSink) -> tuple[int, Callable[[], None]]:
        self._loop.birthplace.check()
        ids = self._embedding.token_ids(self._tokenizer, text) if isinstance(text, str) else self._prompts.encode(text)
        request = EmbedRequest(ids, sink, n_ctx=self.n_ctx)
        self._loop.submit(request)
        return len(ids), lambda: self._loop.cancel(request)

    def _future_embed(self, text: str) -> Future[Floats]:
        future: Future[Floats] = Future()

        def settle(got: Floats | EdgeInferError) -> None:
            with contextlib.suppress(Exception):  # cancelled by the one who waited
                if isinstance(got, EdgeInferError):
                    future.set_exception(got)
                else:
                    future.set_result(got)

        _, cancel = self._submit_embed(text, _EmbedSink(settle))
        # Whoever awaited it and was cancelled needs no answer any more.
        future.add_done_callback(lambda ended: cancel() if ended.cancelled() else None)
        return future


class _EmbedSink:
    """Hands hidden states, or an error, to whoever waits for them."""

    def __init__(self, deliver: Callable[[Floats | EdgeInferError], None]) -> None:
        self.embedded: Callable[[Floats], None] = deliver
        self.failed: Callable[[EdgeInferError], None] = deliver


def _close(loop: EngineLoop, tokenizer: Codec) -> None:
    if not loop.birthplace.is_here:
        return
    loop.close()
    if isinstance(tokenizer, Tokenizer):
        tokenizer.close()
