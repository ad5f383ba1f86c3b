"""A life inside somebody else's program: no output, no signal handlers, forks, many threads, event loops, an end at any
moment, and memory that stays within its cap. Each program runs in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeinfer import LLM, process
from edgeinfer.engines.scripted import ScriptedEngine, cycle
from edgeinfer.text.byte_tokenizer import ByteTokenizer

pytestmark = pytest.mark.model

MESSAGES = "MESSAGES = [{'role': 'user', 'content': 'Count from one to a thousand, slowly.'}]\n"
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def run(model: Path, program: str, *, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    """Run a program with ``llm`` open; it must say nothing but what it prints itself."""
    head = f"import os, sys, edgeinfer\n{MESSAGES}llm = edgeinfer.LLM({str(model)!r}, n_ctx=1024)\n"
    return subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, timeout=timeout_s)


def ends_well(done: subprocess.CompletedProcess[str], expected: str = "") -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


# ---- silence


def test_nothing_is_said_and_no_signal_is_taken(smollm2: Path) -> None:
    """Not even by what is written with `warned`, and not by C code underneath, which does not ask sys.stdout."""
    program = """
import logging, os, signal, sys

def handlers():
    caught = 0
    if os.path.exists("/proc/self/status"):
        line = next(line for line in open("/proc/self/status") if line.startswith("SigCgt"))
        caught = int(line.split()[1], 16) & ~(3 << 31)  # 32 and 33 are the C library's own
    return [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())], caught

before = handlers()
import edgeinfer
llm = edgeinfer.LLM(sys.argv[1], n_ctx=1024)
llm.chat(MESSAGES, max_tokens=8, temperature=0, draft=False)
llm.stream(MESSAGES).cancel()
llm.embed("text")
logging.getLogger("edgeinfer").warning("a draft model failed")
try:
    llm.chat(MESSAGES * 200)
except edgeinfer.EdgeInferError:
    pass
llm.close()
assert handlers() == before, (handlers(), before)
assert sys.excepthook is sys.__excepthook__ and sys.unraisablehook is sys.__unraisablehook__
"""
    command = [sys.executable, "-c", MESSAGES + program, str(smollm2)]
    ends_well(subprocess.run(command, capture_output=True, text=True, timeout=900))


def test_a_model_that_is_not_there_says_it_in_the_error_alone() -> None:
    program = """
import edgeinfer
try:
    edgeinfer.LLM("/nowhere/model.gguf")
except edgeinfer.EdgeInferError as error:
    raise SystemExit(error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")


# ---- the end, at any moment


def test_a_program_ends_while_answers_are_on_their_way(smollm2: Path) -> None:
    ends_well(run(smollm2, "streams = [llm.stream(MESSAGES, ignore_eos=True) for _ in range(3)]\nnext(streams[0])\n"))


def test_a_program_ends_while_threads_wait(smollm2: Path) -> None:
    program = """
import threading
begun = threading.Event()
def ask():
    try:
        for token in llm.stream(MESSAGES, ignore_eos=True):
            begun.set()
    except edgeinfer.EdgeInferError:
        pass
for _ in range(6):
    threading.Thread(target=ask, daemon=True).start()
assert begun.wait(120)
"""
    ends_well(run(smollm2, program))


def test_a_program_ends_while_its_event_loop_is_gone(smollm2: Path) -> None:
    program = """
import asyncio
async def main():
    stream = await llm.astream(MESSAGES, ignore_eos=True)
    async for token in stream:
        return stream
kept = asyncio.run(main())
import time
while llm.load[0]:
    time.sleep(0.01)  # nobody can listen any more, so that it stops by itself
"""
    ends_well(run(smollm2, program))


def test_an_unhandled_error_still_ends_the_program(smollm2: Path) -> None:
    done = run(smollm2, "stream = llm.stream(MESSAGES, ignore_eos=True)\nnext(stream)\nraise ValueError('theirs')\n")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: theirs"
    assert "edgeinfer" not in done.stderr.split("ValueError")[1]


# ---- forks and spawns

FORKED = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own word on forks with threads
wanted = llm.chat(MESSAGES, max_tokens=6, temperature=0).token_ids
stream = llm.stream(MESSAGES, ignore_eos=True)
next(stream)
if os.fork() == 0:
    import signal
    signal.alarm(600)  # a child that hangs is killed, and its status says so
    refused = 0
    for call in (
        lambda: llm.chat(MESSAGES),
        lambda: next(stream),
        lambda: llm.embed("text"),
        lambda: llm.count_tokens("text"),
        lambda: llm.remember([*MESSAGES, {"role": "assistant", "content": "x"}], [1]),
    ):
        try:
            call()
        except edgeinfer.EdgeInferError as error:
            refused += "open the model in this process" in str(error)
    stream.cancel()
    llm.cancel()
    llm.forget()
    llm.close()
    del stream, llm
    if OPENS:
        with edgeinfer.LLM(NAME, n_ctx=1024) as llm:
            refused += llm.chat(MESSAGES, max_tokens=6, temperature=0).token_ids == wanted
    sys.exit(refused)  # through all that runs at exit
code = os.waitstatus_to_exitcode(os.wait()[1])
assert [next(stream) for _ in range(3)], "the parent goes on"
stream.cancel()
assert llm.chat(MESSAGES, max_tokens=6, temperature=0).token_ids == wanted
print(code)
"""


@posix
@pytest.mark.parametrize("opens", [False, True])
def test_a_forked_child_is_told_and_the_parent_goes_on(smollm2: Path, opens: bool) -> None:
    """Bug: a child waited for ever for the engine's thread, which a fork leaves behind."""
    ends_well(run(smollm2, f"OPENS, NAME = {opens}, {str(smollm2)!r}\n{FORKED}"), f"{5 + opens}\n")


def test_locks_that_a_child_inherits_are_new() -> None:
    """A lock that another thread held when the process forked is held for ever in the child."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    program = """
import os, sys, threading, signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from edgeinfer.engines import llama_log
from edgeinfer.kernels import plugin
from edgeinfer.sampling import grammar, workroom
locks = [(llama_log, "_lock"), (llama_log, "_install_lock"), (plugin, "_install_lock"), (grammar, "_KNOWN_LOCK"),
         (workroom, "_STACK_SIZE"), (workroom, "_SLOTS"), (workroom, "_SLOTS")]
held, go = threading.Event(), threading.Event()
def hold():
    for module, name in locks:
        getattr(module, name).acquire()
    held.set()
    go.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
if os.fork() == 0:
    os._exit(sum(getattr(module, name).acquire(blocking=False) for module, name in locks))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    ends_well(done, "7\n")


def test_a_spawned_child_opens_its_own_and_cannot_be_given_ours(smollm2: Path, tmp_path: Path) -> None:
    program = """
import multiprocessing, sys, edgeinfer

def ask(name):
    with edgeinfer.LLM(name, n_ctx=512) as llm:
        return llm.chat([{"role": "user", "content": "Hello"}], max_tokens=4, temperature=0).token_ids

if __name__ == "__main__":
    name = sys.argv[1]
    with edgeinfer.LLM(name, n_ctx=512) as llm, multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(ask, [name, name]) == 2 * [ask(name)]
        try:
            pool.apply(ask, [llm])
        except edgeinfer.EdgeInferError as error:
            print(error)
"""
    script = tmp_path / "spawns.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script), str(smollm2)], capture_output=True, text=True, timeout=400)
    ends_well(done, "an open model cannot be copied or sent to another process; send its name and open it there\n")


def test_another_process_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    born = process.Birthplace()
    assert born.is_here
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert not born.is_here


# ---- threads, event loops, memory


def test_models_come_and_go_in_many_threads(smollm2: Path) -> None:
    """Opened, asked, dropped and closed from everywhere at once; in the end nothing is left."""
    program = """
import gc, threading, random
llm.close()
before, wrong = threading.active_count(), []
def live(seed):
    chance = random.Random(seed)
    for _ in range(2):
        llm = edgeinfer.LLM(llm_name, n_ctx=256, n_parallel=chance.choice((1, 3)))
        streams = [llm.stream(MESSAGES, ignore_eos=True, seed=seed, max_tokens=40) for _ in range(3)]
        next(streams[0])
        fate = chance.random()
        if fate < 0.3:
            llm.close()
        elif fate < 0.6:
            llm.cancel()
        elif fate < 0.8 and not streams[1].answer.text:
            wrong.append("no text")
        del llm, streams
        gc.collect()
def safely(seed):
    try:
        live(seed)
    except BaseException as error:
        wrong.append(repr(error))
threads = [threading.Thread(target=safely, args=(seed,)) for seed in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
import time
end = time.monotonic() + 20
while threading.active_count() > before and time.monotonic() < end:
    time.sleep(0.05)
print(threading.active_count() - before, wrong)
"""
    ends_well(run(smollm2, f"llm_name = {str(smollm2)!r}\n{program}"), "0 []\n")


ASYNC_APP = """
import asyncio, json, time, edgeinfer

async def main(name):
    beats, done = [], asyncio.Event()
    async def heart():
        while not done.is_set():
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)
    beating = asyncio.create_task(heart())
    async with await asyncio.to_thread(edgeinfer.LLM, name, n_ctx=1024, n_parallel=2) as llm:
        async def ask(text):
            parts = []
            async with await llm.astream([{"role": "user", "content": text}], temperature=0, max_tokens=24) as stream:
                async for token in stream:
                    parts.append(token.text)
            return "".join(parts)
        together = await asyncio.gather(*(ask(f"Tell me about the number {i}") for i in range(4)))
        alone = [await ask(f"Tell me about the number {i}") for i in range(4)]
        try:
            await asyncio.wait_for(llm.achat(MESSAGES, ignore_eos=True), 0.5)
        except asyncio.TimeoutError:
            pass
        while llm.load != (0, 0):
            await asyncio.sleep(0.01)
    done.set()
    await beating
    print(json.dumps([together == alone, len(beats) > 20]))

asyncio.run(main(NAME))
"""


def test_an_asyncio_program(smollm2: Path) -> None:
    program = f"NAME = {str(smollm2)!r}\nllm.close()\n{ASYNC_APP}"
    done = run(smollm2, program)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [True, True]


def test_an_embedding_nobody_awaits_is_not_computed() -> None:
    """Bug: a cancelled task left its texts in the queue, and all of them were computed."""
    import asyncio

    async def main() -> None:
        engine = ScriptedEngine(cycle([65], 1), n_vocab=259, step_s=0.01)
        with LLM.from_engine(engine, ByteTokenizer()) as llm:
            task = asyncio.create_task(llm.aembed(["x" * 50] * 100))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(500):
                if llm.load == (0, 0):
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(f"{llm.load[1]} texts still wait")

    asyncio.run(main())


def test_memory_stays_within_its_cap(smollm2: Path) -> None:
    """Through long prompts, many requests, embeddings and cancelled ones: what the process takes beyond what it had is
    within the cap that it was opened with."""
    program = """
import json
from concurrent.futures import ThreadPoolExecutor
from edgeinfer.bench import peak_rss_bytes
llm.close()
with edgeinfer.LLM(NAME, n_ctx=2048, n_parallel=2, memory=CAP, draft="ngram") as llm:
    def ask(i):
        with llm.stream([{"role": "user", "content": f"{i} " + "word " * 250 * (i % 5)}], max_tokens=6) as stream:
            if i % 5 == 0:
                stream.cancel()
            return stream.answer.text
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(10)))
    llm.embed("word " * 900)
    print(json.dumps([peak_rss_bytes(), llm.plan.total_bytes]))
"""
    cap = 600 << 20
    done = run(smollm2, f"NAME, CAP = {str(smollm2)!r}, {cap}\n{program}")
    assert (done.returncode, done.stderr) == (0, "")
    peak, planned = json.loads(done.stdout)
    assert planned <= cap
    assert peak <= cap


def test_a_stream_may_be_cancelled_from_any_thread_any_number_of_times() -> None:
    engine = ScriptedEngine(cycle([65], 1), n_vocab=259, step_s=0.002)
    with LLM.from_engine(engine, ByteTokenizer()) as llm:
        for _ in range(10):
            stream = llm.stream("x", ignore_eos=True)
            next(stream)
            threads = [threading.Thread(target=stream.cancel) for _ in range(8)]
            for thread in threads:
                thread.start()
            assert stream.answer.finish_reason == "cancelled"
            for thread in threads:
                thread.join()


def test_signals_stay_with_the_program() -> None:
    """Opening a scripted engine on another thread than the main one, where handlers cannot be set at all."""
    before = signal.getsignal(signal.SIGINT)
    outcome: list[str] = []

    def body() -> None:
        with LLM.from_engine(ScriptedEngine(cycle([65], 1), n_vocab=259), ByteTokenizer()) as llm:
            outcome.append(llm.generate("x", max_tokens=3, temperature=0).text)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert outcome == ["AAA"]
    assert signal.getsignal(signal.SIGINT) is before
