"""The front door over the scripted engine: threads, event loops, cancelling, deadlines, stop strings, full contexts."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer import LLM, Grammar
from edgeinfer.core import Answer, Message, Token
from edgeinfer.engines.scripted import ScriptedEngine
from edgeinfer.errors import BackendUnavailable, ContextOverflow, RequestCancelled, TemplateError, UsageError
from edgeinfer.text import ChatTemplate
from edgeinfer.text.byte_tokenizer import ByteTokenizer

TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant: {% endif %}"
)
ANSWER = "Grüße, 世界! "
N_ANSWER = len(ANSWER.encode())


def say(text: str, *, end: bool = True) -> ScriptedEngine:
    """An engine that answers each chat turn with ``text``, and anything else with it over and over."""
    turn, eos, data = 258, 257, text.encode()

    def script(tokens: Sequence[int]) -> int:
        begin = max((i for i, token in enumerate(tokens) if token == turn), default=-1)
        n_said = len(tokens) - (begin + 1) - len("assistant: ") if begin >= 0 else len(tokens)
        if begin >= 0 and end and n_said >= len(data):
            return eos
        return data[n_said % len(data)]

    return ScriptedEngine(script, n_vocab=259, n_ctx=512)


def open_llm(engine: ScriptedEngine | None = None, **options: object) -> LLM:
    template = ChatTemplate(TEMPLATE, bos_text="<s>", eos_text="</s>")
    return LLM.from_engine(engine or say(ANSWER), ByteTokenizer(), template=template, **options)  # type: ignore[arg-type]


@pytest.fixture
def llm() -> Iterator[LLM]:
    with open_llm() as opened:
        yield opened


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_chat(llm: LLM) -> None:
    answer = llm.chat(user("hello"), temperature=0)
    assert answer.text == ANSWER
    assert answer.finish_reason == "stop"
    assert bytes(answer.token_ids).decode() == ANSWER
    assert answer.stats.n_generated == N_ANSWER


def test_stream_never_shows_half_a_character(llm: LLM) -> None:
    with llm.stream(user("hello"), temperature=0) as stream:
        texts = [token.text for token in stream]
    assert "".join(texts) == ANSWER == stream.text == stream.answer.text
    assert "�" not in "".join(texts)
    assert len(texts) == N_ANSWER


def test_half_a_character_at_the_limit_becomes_a_replacement(llm: LLM) -> None:
    answer = llm.chat(user("hello"), temperature=0, max_tokens=3)
    assert answer.text == "Gr�"
    assert "".join(token.text for token in answer.tokens) == answer.text
    assert len(answer.token_ids) == 3


@pytest.mark.parametrize(
    ("stop", "text"), [("世", "Grüße, "), (["zz", "e, "], "Grüß"), ("Grüße", ""), ("no such", ANSWER)]
)
def test_stop_strings(llm: LLM, stop: str | list[str], text: str) -> None:
    answer = llm.chat(user("hello"), temperature=0, stop=stop)
    assert (answer.text, answer.finish_reason) == (text, "stop")


def test_second_turn_reads_only_what_is_new(llm: LLM) -> None:
    messages = user("hello")
    first = llm.chat(messages, temperature=0)
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "again"}]
    second = llm.chat(messages, temperature=0)
    assert second.stats.n_reused == first.stats.n_prompt + first.stats.n_generated
    assert second.text == ANSWER


def test_submit_delivers_tokens_and_then_the_answer(llm: LLM) -> None:
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    llm.submit(user("hello"), events.put, temperature=0)
    heard = [events.get(timeout=60)]
    while not isinstance(heard[-1], Answer):
        heard.append(events.get(timeout=60))
    assert heard[-1].text == ANSWER
    assert "".join(token.text for token in heard[:-1] if isinstance(token, Token)) == ANSWER
    assert len(heard) == N_ANSWER + 1
    cancel = llm.submit("x", events.put, temperature=0)
    cancel()
    while not isinstance(event := events.get(timeout=60), Answer):
        pass
    assert event.finish_reason == "cancelled"
    with pytest.raises(UsageError, match="no option"):
        llm.submit("x", events.put, temprature=0)


def test_generate_is_raw(llm: LLM) -> None:
    assert llm.generate("Grüße", temperature=0, max_tokens=2).text == ", "
    assert llm.generate(list("Grüße".encode()), temperature=0, max_tokens=2).text == ", "
    assert llm.generate(np.frombuffer("Grüße".encode(), np.uint8), temperature=0, max_tokens=2).text == ", "  # type: ignore[arg-type]


def test_logprobs(llm: LLM) -> None:
    answer = llm.chat(user("hello"), temperature=0, max_tokens=2, logprobs=3)
    for token in answer.tokens:
        assert token.logprob is not None
        assert token.logprob <= 0
        assert len(token.top) == 3
        assert token.top[0].token_id == token.id


def test_same_seed_same_text() -> None:
    engine = ScriptedEngine(lambda tokens: np.sin(np.arange(259) * (1 + len(tokens))).astype(np.float32), n_vocab=259)
    with open_llm(engine) as llm:
        texts = {llm.generate("x", seed=5, max_tokens=20, ignore_eos=True).token_ids for _ in range(3)}
        others = {llm.generate("x", max_tokens=20, ignore_eos=True).token_ids for _ in range(3)}
    assert len(texts) == 1
    assert len(others) == 3


def test_many_threads_each_get_their_own_answer() -> None:
    engine = ScriptedEngine(lambda tokens: 33 + sum(tokens) % 90, n_vocab=259, n_seq_max=3)
    with open_llm(engine) as llm:
        alone = {text: llm.generate(text, temperature=0, max_tokens=40).text for text in map(str, range(12))}
        together: dict[str, str] = {}

        def ask(text: str) -> None:
            together[text] = llm.generate(text, temperature=0, max_tokens=40).text

        threads = [threading.Thread(target=ask, args=(text,)) for text in alone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert llm.load == (0, 0)
    assert together == alone


def test_cancel_within_50_ms() -> None:
    engine = say("abc", end=False)
    engine._step_s = 0.001  # the answer must not end by itself, however late this thread is
    with open_llm(engine) as llm:
        stream = llm.stream(user("x"), temperature=0)
        for _, token in zip(range(5), stream, strict=False):
            assert token.text
        begin = time.perf_counter()
        stream.cancel()
        answer = stream.answer
        assert time.perf_counter() - begin < 0.05
        assert answer.finish_reason == "cancelled"
        assert answer.text.startswith("abcab")
        assert llm.chat(user("x"), temperature=0, max_tokens=3).text == "abc"


def test_cancel_inside_prefill() -> None:
    engine = say("abc")
    engine._step_s = 0.002
    with open_llm(engine) as llm:
        stream = llm.stream("x" * 500)
        time.sleep(0.05)
        begin = time.perf_counter()
        stream.cancel()
        assert stream.answer.finish_reason == "cancelled"
        assert time.perf_counter() - begin < 0.1


def test_cancel_everything() -> None:
    engine = say("abc", end=False)
    engine._step_s = 0.001
    with open_llm(engine) as llm:
        streams = [llm.stream(user(str(i))) for i in range(8)]
        next(streams[0])
        llm.cancel()
        assert {stream.answer.finish_reason for stream in streams} == {"cancelled"}


def test_a_dropped_stream_frees_its_place() -> None:
    with open_llm(say("abc", end=False)) as llm:
        stream = llm.stream(user("x"))
        next(stream)
        del stream
        gc.collect()
        deadline = time.monotonic() + 2
        while llm.load != (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert llm.load == (0, 0)


def test_deadline() -> None:
    engine = say("abc", end=False)
    engine._step_s = 0.005
    with open_llm(engine) as llm:
        answer = llm.chat(user("x"), deadline_s=0.3)
        assert answer.finish_reason == "deadline"
        assert 0.25 < answer.stats.total_s < 0.6
        assert answer.text


def test_close_leaves_nothing_behind() -> None:
    before = threading.active_count()
    engine = say("abc", end=False)
    llm = open_llm(engine)
    stream = llm.stream(user("x"), deadline_s=60)
    next(stream)
    llm.close()
    llm.close()
    assert engine.closed
    with pytest.raises(RequestCancelled, match="closed"):
        _ = stream.answer
    with pytest.raises(RequestCancelled, match="closed"):
        llm.chat(user("x"))
    deadline = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert threading.active_count() == before


def test_a_forgotten_llm_closes_itself() -> None:
    engine = say("abc")
    llm = open_llm(engine)
    llm.chat(user("x"))
    del llm
    gc.collect()
    assert engine.closed


def test_a_broken_loop_tells_everybody() -> None:
    class Broken(ScriptedEngine):
        def forward(self, slices: object) -> object:  # type: ignore[override]  # noqa: ARG002
            raise ZeroDivisionError("a bug")

    with open_llm(Broken(lambda _: 1, n_vocab=259)) as llm:
        for _ in range(2):
            with pytest.raises(Exception, match="a bug"):
                llm.chat(user("x"))


# ---- asyncio


def test_async_twins() -> None:
    async def main() -> None:
        with open_llm() as llm:
            answers = await asyncio.gather(*(llm.achat(user(str(i)), temperature=0) for i in range(6)))
            assert {answer.text for answer in answers} == {ANSWER}
            assert (await llm.agenerate("Grüße", temperature=0, max_tokens=2)).text == ", "
            stream = await llm.astream(user("x"), temperature=0)
            assert "".join([token.text async for token in stream]) == ANSWER
            assert (await stream.answer()).text == ANSWER
            assert (await llm.aembed(["a", "b"])).shape == (2, 8)

    asyncio.run(main())


def test_cancelling_the_task_cancels_the_request() -> None:
    async def main() -> None:
        engine = say("abc", end=False)
        engine._step_s = 0.001
        with open_llm(engine) as llm:
            task = asyncio.create_task(llm.achat(user("x")))
            await asyncio.sleep(0.05)
            assert llm.load[0] == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(200):
                if llm.load == (0, 0):
                    return
                await asyncio.sleep(0.005)
            raise AssertionError("the request still runs")

    asyncio.run(main())


# ---- embeddings


def test_embeddings_are_means_of_length_one(llm: LLM) -> None:
    vectors = llm.embed(["aa", "b", "ab"])
    assert vectors.shape == (3, 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(vectors[2] * np.sqrt(2), vectors[0] + vectors[1], atol=1e-6)
    assert np.allclose(llm.embed("a"), vectors[:1])
    with pytest.raises(UsageError, match="empty"):
        llm.embed([""])
    with pytest.raises(ContextOverflow):
        llm.embed("x" * 600)


# ---- wrong and too long


def test_wrong_use_is_said(llm: LLM) -> None:
    with pytest.raises(UsageError, match="did you mean 'temperature'"):
        llm.chat(user("x"), temprature=0)
    with pytest.raises(UsageError, match="temperature"):
        llm.chat(user("x"), temperature=-1)
    with pytest.raises(UsageError, match="wrong type"):
        llm.chat(user("x"), temperature="hot")
    with pytest.raises(UsageError, match="empty"):
        llm.generate("")
    with pytest.raises(UsageError, match="list of messages"):
        llm.chat("hello")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="message 0"):
        llm.chat([{"content": "no role"}])
    with pytest.raises(UsageError, match="not a text"):
        llm.chat([{"role": "user", "content": 5}])
    with pytest.raises(UsageError, match="outside the vocabulary"):
        llm.generate([1, 2, 999])
    with pytest.raises(UsageError, match="a prompt is"):
        llm.generate([1.5])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="deadline_s"):
        llm.chat(user("x"), deadline_s=-1)
    with pytest.raises(UsageError, match="on_overflow"):
        llm.chat(user("x"), on_overflow="truncate")
    with pytest.raises(UsageError):
        llm.chat(user("x"), grammar=Grammar("json_schema", "{not json"))
    assert llm.chat(user("x"), temperature=0).text == ANSWER


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(BackendUnavailable, match="cuda"):
        LLM("smollm2-135m", device="cuda")


def test_no_template() -> None:
    with LLM.from_engine(say("abc"), ByteTokenizer()) as llm:
        with pytest.raises(TemplateError, match="--chat-template"):
            llm.chat(user("x"))
        assert llm.generate("x", max_tokens=3).finish_reason == "length"


def test_a_prompt_too_long_is_an_error_with_both_numbers(llm: LLM) -> None:
    with pytest.raises(ContextOverflow, match="600 tokens but the context holds 512"):
        llm.generate("x" * 600)
    assert llm.count_tokens("x" * 600) == 600


def conversation(n_turns: int, n_letters: int = 40) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": "be kind"}]
    for i in range(n_turns):
        messages.append({"role": "user", "content": f"question {i} " + "x" * n_letters})
        messages.append({"role": "assistant", "content": f"answer {i}"})
    return [*messages, {"role": "user", "content": "last"}]


def test_drop_oldest_says_what_it_drops(llm: LLM) -> None:
    messages = conversation(12)
    n_all = llm.count_tokens(messages)
    with llm.stream(messages, temperature=0, on_overflow="drop-oldest") as stream:
        answer = stream.answer
    assert answer.text == ANSWER
    assert answer.n_dropped > 0
    assert answer.n_dropped % 2 == 0
    said = f"the conversation has {n_all} tokens but the context holds 512: its oldest {answer.n_dropped} messages were"
    assert stream.notices == (f"{said} dropped",)
    kept = [messages[0], *messages[1 + answer.n_dropped :]]
    assert answer.stats.n_prompt == llm.count_tokens(kept) < 512
    # As few turns as leave room for an answer: one more would not have.
    more = [messages[0], *messages[answer.n_dropped - 1 :]]
    assert llm.count_tokens(more) > 512 - 512 // 4


def test_drop_oldest_of_a_raw_prompt(llm: LLM) -> None:
    with llm.stream("y" * 300 + "x" * 300, on_overflow="drop-oldest", max_tokens=5) as stream:
        answer = stream.answer
    assert answer.n_dropped == 600 - (512 - 5)
    assert f"its first {answer.n_dropped} were dropped" in stream.notices[0]


def test_compact_puts_a_summary_in_place(llm: LLM) -> None:
    messages = conversation(12)
    with llm.stream(messages, temperature=0, on_overflow="compact") as stream:
        answer = stream.answer
    assert "were replaced by a summary" in stream.notices[0]
    kept = [messages[0], *messages[1 + answer.n_dropped :]]
    assert answer.stats.n_prompt > llm.count_tokens(kept)


def test_a_last_turn_that_is_too_long_is_an_error_whatever_the_policy(llm: LLM) -> None:
    messages = [*conversation(3)[:-1], *user("x" * 600)]
    for policy in ("drop-oldest", "compact"):
        with pytest.raises(ContextOverflow, match="last turn alone"):
            llm.chat(messages, on_overflow=policy)
    assert llm.chat(user("x"), temperature=0).text == ANSWER


def test_samples_read_their_prompt_once() -> None:
    engine = say(ANSWER)
    with open_llm(engine, n_parallel=2) as llm:
        answers = llm.samples(user("hello " * 30), 5, temperature=0.9, seed=4, max_tokens=3)
        n_prompt = answers[0].stats.n_prompt
    assert len(answers) == 5
    assert sum(answer.stats.n_prefilled for answer in answers) == n_prompt + 4
    with pytest.raises(UsageError, match="at least 1"):
        llm.samples(user("hello"), 0)


@pytest.mark.parametrize("kv_cache", ["much", -3, "-1G"])
def test_a_size_of_the_kv_cache_that_is_none(kv_cache: str | int) -> None:
    with pytest.raises(UsageError, match="kv_cache"):
        LLM("smollm2-135m", kv_cache=kv_cache)


def test_ids_that_do_not_spell_an_answer_are_disregarded(llm: LLM) -> None:
    conversation = [*user("hello"), {"role": "assistant", "content": "yes"}]
    before = llm.count_tokens(conversation)
    for ids in [], [70, 71], [-1], [10**9]:
        llm.remember(conversation, ids)
        assert llm.count_tokens(conversation) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_ctx": "big"}, "n_ctx is 'big', but must be a whole number"),
        ({"n_threads": 1.5}, "n_threads is 1.5, but must be a whole number"),
        ({"device": 5}, "no device 5"),
        ({"memory": -5}, "memory is -5, but must be above 0"),
        ({"model": 5}, "named by a text or a path, not by 5"),
    ],
)
def test_wrong_kinds_of_arguments_are_our_errors(options: dict[str, Any], said: str, smollm2: Path) -> None:
    """They were TypeError and AttributeError from deep inside, and one an error that made no sense."""
    with pytest.raises(UsageError, match=said):
        LLM(**{"model": str(smollm2), **options})


def test_wrong_kinds_of_options_are_our_errors(llm: LLM) -> None:
    for options, said in (
        ({"max_tokens": 5.0}, "max_tokens is 5.0, but must be a whole number"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"logit_bias": {"5": 1.0}}, "by token id"),
    ):
        with pytest.raises(UsageError, match=said):
            llm.generate("a", **options)


@pytest.mark.model
def test_a_path_object_names_a_model(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a TypeError, and alone in its folder would have been looked for in the catalogue."""
    monkeypatch.chdir(smollm2.parent)
    with LLM(Path(smollm2.name), n_ctx=256) as llm:
        assert llm.generate("a", max_tokens=1).token_ids
        llm.close()
        with pytest.raises(UsageError, match="is closed"):
            llm.generate("a")
