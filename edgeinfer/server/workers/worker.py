"""A model's process: it opens the model, answers what comes in as frames, and ends with whoever started it.

One thread reads commands, a few build prompts, the engine's own computes, and one writes. Knows no HTTP.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from edgeinfer.core import Answer, Token
from edgeinfer.errors import EdgeInferError, RequestCancelled, UsageError
from edgeinfer.server.workers import wire
from edgeinfer.server.workers.wire import Frame

if TYPE_CHECKING:
    from edgeinfer.llm import LLM

__all__ = ["OPENER", "Worker", "main", "open_model"]

OPENER = "edgeinfer.server.workers.worker:open_model"
"""What opens a model unless told otherwise: ``module:function`` of (arguments, said) -> `LLM`."""

PULSE_S = 0.5
_CLOSE_S = 10.0
_N_BUILDERS = 4
_N_PROBE = 16

Said = Callable[[str], None]
Send = Callable[[Frame], None]


def open_model(arguments: Mapping[str, Any], said: Said) -> LLM:
    """An LLM from its arguments. ``n_parallel`` may be a list of numbers, of which the first that fits is taken."""
    from edgeinfer.errors import InsufficientMemory
    from edgeinfer.llm import LLM

    chosen = dict(arguments)
    name, wanted = chosen.pop("model"), chosen.pop("n_parallel", 1)
    numbers = wanted if isinstance(wanted, list) else [wanted]
    for n_parallel in numbers[:-1]:
        with contextlib.suppress(InsufficientMemory):
            return LLM(name, n_parallel=n_parallel, said=said, warned=said, **chosen)
    return LLM(name, n_parallel=numbers[-1], said=said, warned=said, **chosen)


@dataclass(slots=True)
class _Job:
    """What is asked and not answered yet. ``cancel`` is there once the engine has it; ``gone``: nobody wants it any
    more."""

    cancel: Callable[[], None] | None = None
    gone: bool = False


class Worker:
    """Serves one model to whoever sends frames. ``send`` is called from several threads and must not block."""

    def __init__(self, llm: LLM, send: Send) -> None:
        self._llm = llm
        self._send = send
        self._jobs: dict[int, _Job] = {}
        self._lock = threading.Lock()
        self._builders = ThreadPoolExecutor(_N_BUILDERS, thread_name_prefix="edgeinfer-prompt")
        self._closing = False
        self._stirred = threading.Event()
        threading.Thread(target=self._watch, name="edgeinfer-pulse", daemon=True).start()

    def facts(self) -> Frame:
        """What the server should know of the model."""
        llm = self._llm
        return {
            "n_ctx": llm.n_ctx,
            "n_parallel": llm.n_parallel,
            "n_vocab": llm.tokenizer.n_vocab,
            "chats": llm.template is not None,
            "takes_tools": llm.template is not None and llm.template.takes_tools,
            "planned_bytes": llm.plan.total_bytes if llm.plan else 0,
            "notices": list(llm.notices),
            "info": _info(llm),
            "pid": os.getpid(),
            "token_s": _token_s(llm),
        }

    def take(self, frame: Frame) -> None:
        """Begin what a frame asks for, or end it."""
        number = frame["id"]
        if frame["do"] == "cancel":
            with self._lock:
                job = self._jobs.get(number)
                if job is not None:
                    job.gone = True
            if job is not None and job.cancel is not None:
                job.cancel()
            return
        with self._lock:
            self._jobs[number] = _Job()
        self._stirred.set()
        self._builders.submit(self._begin, number, frame)

    def close(self) -> None:
        """Free the model; whoever still waits is told that it was closed."""
        self._closing = True
        self._stirred.set()
        self._builders.shutdown(wait=False, cancel_futures=True)
        self._llm.close()

    def _begin(self, number: int, frame: Frame) -> None:
        try:
            with self._lock:
                job = self._jobs.get(number)
            if job is None or job.gone:
                raise RequestCancelled("the request was cancelled")
            getattr(self, f"_do_{frame['do']}")(number, frame)
        except BaseException as error:
            self._end(number, {"error": wire.error_to(error)})

    def _started(self, number: int, cancel: Callable[[], None], accepted: Frame) -> None:
        """The engine has it, and may have answered it already."""
        with self._lock:
            job = self._jobs.get(number)
            if job is None:
                return
            job.cancel = cancel
        self._send({"id": number, "accepted": accepted})
        if job.gone:
            cancel()

    def _end(self, number: int, frame: Frame) -> None:
        with self._lock:
            self._jobs.pop(number, None)
        self._send({"id": number, **frame})

    def _watch(self) -> None:
        """Tell how steps get on while there is work."""
        while not self._closing:
            if self._jobs:
                n_steps, n_computing = self._llm.pulse
                n_running, n_waiting = self._llm.load
                self._send({"id": -1, "pulse": [n_steps, n_computing, n_running, n_waiting]})
                time.sleep(PULSE_S)
            else:
                self._stirred.wait()
                self._stirred.clear()

    # ---- what can be asked

    def _do_answer(self, number: int, frame: Frame) -> None:
        llm = self._llm
        prompt = frame["prompt"]
        if frame.get("suffix") is not None:
            prompt = _infill(llm, prompt, frame["suffix"])

        def deliver(event: Token | Answer | EdgeInferError) -> None:
            if isinstance(event, Token):
                self._send({"id": number, "token": wire.token_to(event, llm.tokenizer.token_bytes)})
            elif isinstance(event, Answer):
                self._end(number, {"answer": wire.answer_to(event)})
            else:
                self._end(number, {"error": wire.error_to(event)})

        cancel = llm.submit(prompt, deliver, **wire.options_from(frame["options"]))
        self._started(number, cancel, {})

    def _do_embed(self, number: int, frame: Frame) -> None:
        def deliver(got: Any) -> None:
            if isinstance(got, EdgeInferError):
                self._end(number, {"error": wire.error_to(got)})
            else:
                self._end(number, {"answer": {"embedding": wire.floats_to(got)}})

        n_tokens, cancel = self._llm.submit_embed(frame["text"], deliver)
        self._started(number, cancel, {"n_tokens": n_tokens})

    def _do_tokenize(self, number: int, frame: Frame) -> None:
        tokenizer = self._llm.tokenizer
        if isinstance(frame["text"], str):
            wants = bool(frame.get("add_special")) and tokenizer.adds_bos
            ids = [int(i) for i in tokenizer.encode(frame["text"], add_bos=wants)]
        else:
            ids = [int(i) for i in self._llm.encode(frame["text"], frame.get("tools"))]
        pieces = [tokenizer.token_bytes(i).decode("latin-1") for i in ids] if frame.get("pieces") else []
        self._end(number, {"answer": {"ids": ids, "pieces": pieces}})

    def _do_detokenize(self, number: int, frame: Frame) -> None:
        ids, n_vocab = frame["ids"], self._llm.tokenizer.n_vocab
        if any(not 0 <= i < n_vocab for i in ids):
            raise UsageError(f"a token id lies outside the vocabulary of {n_vocab}")
        self._end(number, {"answer": {"text": self._llm.tokenizer.decode(ids)}})


def _info(llm: LLM) -> Frame | None:
    import dataclasses

    try:
        info = dataclasses.asdict(llm.info)
    except UsageError:
        return None
    del info["chat_template"], info["path"]
    return info


def _token_s(llm: LLM) -> float:
    """Seconds that one token of a prompt takes here. The first pass, which brings the weights into memory, is not the
    one that counts."""
    ids = [int(i) for i in llm.encode("How long this takes tells what to make of a step that does not end soon. " * 2)]
    for _ in range(2):
        llm.forget()
        stats = llm.generate(ids[:_N_PROBE], max_tokens=1, draft=False, ignore_eos=True).stats
    llm.forget()
    return 1 / stats.prefill_tps if stats.prefill_tps > 0 else 0.0


def _infill(llm: LLM, prompt: Any, suffix: str) -> list[int]:
    """The ids of a prompt for what stands between two texts, as models trained to fill in the middle know it."""
    tokenizer = llm.tokenizer
    try:
        first, second, third = (tokenizer.control_tokens[f"<|fim_{mark}|>"] for mark in ("prefix", "suffix", "middle"))
    except KeyError:
        raise UsageError("suffix: this model was not trained to fill in the middle of a text") from None
    if not isinstance(prompt, str):
        raise UsageError("suffix: the prompt before it must be a text")
    before, after = tokenizer.encode(prompt).tolist(), tokenizer.encode(suffix).tolist()
    return [first, *before, second, *after, third]


# ---- the process


def serve(
    incoming: IO[bytes],
    outgoing: IO[bytes],
    opener: str,
    arguments: Mapping[str, Any],
    leaving: Callable[[], None] = lambda: None,
) -> None:
    """Open the model and answer until ``incoming`` ends; ``leaving`` hears of that before the model is closed."""
    frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(frames, outgoing), name="edgeinfer-writer", daemon=True)
    writer.start()
    try:
        module, _, attribute = opener.partition(":")
        llm = getattr(importlib.import_module(module), attribute)(
            arguments, lambda text: frames.put({"id": -1, "said": text})
        )
    except BaseException as error:
        frames.put({"id": -1, "failed": wire.error_to(error)})
        frames.put(None)
        writer.join()
        return
    worker = Worker(llm, frames.put)
    frames.put({"id": -1, "ready": worker.facts()})
    while (frame := wire.read_frame(incoming)) is not None:
        worker.take(frame)
    leaving()
    worker.close()
    frames.put(None)
    writer.join()


def _write(frames: queue.SimpleQueue[Frame | None], outgoing: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody listens: the reader finds it out too
        while (frame := frames.get()) is not None:
            wire.write_frame(outgoing, frame)


def main() -> int:
    """The child: ``argv`` is [opener, arguments as JSON, the parent's sys.path …]. Frames go over what was standard
    input and output, which are closed to everything else."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides when we end
        signal.signal(number, signal.SIG_IGN)
    opener, arguments = sys.argv[1], json.loads(sys.argv[2])
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    threading.Thread(target=_serve_and_leave, args=(incoming, outgoing, opener, arguments), daemon=True).start()
    threading.Event().wait()
    return 0


def _serve_and_leave(incoming: IO[bytes], outgoing: IO[bytes], opener: str, arguments: Mapping[str, Any]) -> None:
    """Ends the process when the parent is gone, even where the engine hangs and nothing can be closed."""

    def leaving() -> None:
        late = threading.Timer(_CLOSE_S, os._exit, [1])
        late.daemon = True
        late.start()

    code = 1
    try:
        serve(incoming, outgoing, opener, arguments, leaving)
        code = 0
    finally:
        os._exit(code)
