"""Rows over somebody's server: ours, and one that misbehaves in every way that servers do."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serving
import uvicorn

from edgeinfer import GenerationStats, batch
from edgeinfer.batch.endpoint import EndpointComputer
from edgeinfer.batch.gate import Gate
from edgeinfer.batch.posting import Poster, _retry_after
from edgeinfer.batch.rows import Row
from edgeinfer.batch.wire import answer_of, body_of, error_of
from edgeinfer.cli import main
from edgeinfer.core import Grammar
from edgeinfer.errors import BackendUnavailable, EngineError, UsageError
from edgeinfer.server.config import ServerConfig

KEY = "sk-a-secret-of-ours"
Script = Callable[["Handler", dict[str, Any]], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as ``server.script`` does, which may do nothing at all."""

    server: Faulty

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        self.server.script(self, body)

    def do_GET(self) -> None:
        self.answer(200, self.server.models)

    def answer(self, status: int, document: Any, **headers: str) -> None:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def good(self, body: dict[str, Any], **more: Any) -> None:
        asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        choice = {"index": 0, "message": {"role": "assistant", "content": f"re: {asked}"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
        self.answer(200, {"id": str(time.time()), "created": time.time(), "choices": [choice], "usage": usage, **more})

    def log_message(self, format: str, *_args: Any) -> None:
        pass


class Faulty(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.models: Any = {"data": [{"id": "only"}]}
        self.script: Script = lambda handler, body: handler.good(body)
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Faulty]:
    with Faulty() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.batch.gate._FIRST_S", 0.01)


class Job:
    def __init__(self, folder: Path, url: str) -> None:
        self.source, self.out, self.url = folder / "in.jsonl", folder / "out.jsonl", url
        self.said: list[str] = []

    def write(self, n_rows: int) -> None:
        self.source.write_text("".join(json.dumps({"prompt": f"q{i}", "id": f"r{i}"}) + "\n" for i in range(n_rows)))

    def run(self, *, options: dict[str, Any] | None = None, **computer: Any) -> batch.Report:
        with EndpointComputer(self.url, **{"concurrency": 4, **computer}) as found:
            found.said = self.said.append
            return batch.run(self.source, found, self.out, **(options or {}))

    def texts(self) -> list[str]:
        return sorted(json.loads(line)["text"] for line in self.out.read_text().splitlines())

    def errors(self) -> list[str]:
        lines = self.out.with_name("out.errors.jsonl").read_text().splitlines()
        return [json.loads(line)["error"]["message"] for line in lines]


@pytest.fixture
def job(tmp_path: Path, server: Faulty) -> Job:
    made = Job(tmp_path, server.url)
    made.write(12)
    return made


ALL = sorted(f"re: q{i}" for i in range(12))


def test_rows_go_out_and_come_back(job: Job, server: Faulty) -> None:
    report = job.run(options={"max_tokens": 5, "temperature": 0.5, "stop": "x"}, key=KEY)
    assert (report.n_done, report.n_failed, report.complete) == (12, 0, True)
    assert (report.n_generated, report.n_prompt, report.n_reused) == (36, 84, 24)
    assert job.texts() == ALL
    path, body, key = server.asked[0]
    assert (path, key) == ("/v1/chat/completions", f"Bearer {KEY}")
    seed = body.pop("seed")
    assert 0 <= seed < 2**63
    asked = body.pop("messages")
    assert asked[0]["role"] == "user"
    assert body == {"model": "only", "max_tokens": 5, "temperature": 0.5, "stop": ["x"]}
    whole = sorted(job.out.read_bytes().splitlines())
    job.run(options={"max_tokens": 5, "temperature": 0.5, "stop": "x", "restart": True})
    assert sorted(job.out.read_bytes().splitlines()) == whole, "nothing in it differs from run to run"
    assert KEY not in job.out.with_name("out.manifest.json").read_text()


def test_a_server_that_is_busy_is_waited_for(job: Job, server: Faulty) -> None:
    times: list[float] = []

    def script(handler: Handler, body: dict[str, Any]) -> None:
        times.append(time.monotonic())
        if len(times) <= 6:
            handler.answer(429 if len(times) % 2 else 503, {"error": {"message": "slowly"}}, Retry_After="1")
        else:
            handler.good(body)

    server.script = script
    report = job.run()
    assert (report.n_done, report.n_failed, report.n_retries) == (12, 0, 0), "no row suffers by it"
    first = [t for t in times if t < times[0] + 0.5]
    assert len(first) <= 4, "all wait, not only the row that was put off"
    assert times[len(first)] - times[0] > 0.9
    assert job.said
    assert "slowly" in job.said[0]


def hang_up(handler: Handler, body: dict[str, Any]) -> None:  # noqa: ARG001
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def leave(handler: Handler, body: dict[str, Any]) -> None:  # noqa: ARG001
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def drip(handler: Handler, body: dict[str, Any]) -> None:  # noqa: ARG001
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)


def replying(status: int, document: Any) -> Script:
    return lambda handler, body: handler.answer(status, document)  # noqa: ARG005


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (hang_up, "hung up"),
        (leave, "hung up"),
        (drip, "no whole answer within the time"),
        (lambda handler, body: time.sleep(2), "no whole answer within the time"),  # noqa: ARG005
        (replying(500, {"error": {"message": f"your key is {KEY}"}}), "server says 500: your key is …"),
        (replying(502, b"<html>bad gateway</html>"), "502: <html>bad gateway"),
        (replying(200, b"\xff\x00garbage"), "not JSON"),
        (replying(200, b"[" * 100_000), "not JSON"),
        (replying(200, b'{"choices": NaN}'), "NaN is no number"),
        (replying(200, []), "not an object"),
        (replying(200, {}), "no choices"),
        (replying(200, {"choices": []}), "0 choices"),
        (replying(200, {"choices": [{"message": {"content": 7}}]}), "without text"),
        (replying(200, {"choices": ["x"]}), "choices"),
    ],
)
def test_half_an_answer_is_the_row_s_trouble(job: Job, server: Faulty, script: Script, why: str) -> None:
    """Each row fails once, is tried again and is good; one stays bad and ends in the errors."""
    seen: set[str] = set()

    def once(handler: Handler, body: dict[str, Any]) -> None:
        asked = body["messages"][-1]["content"]
        with server.lock:
            fails = asked == "q7" or asked not in seen
            seen.add(asked)
        (script if fails else Handler.good)(handler, body)

    server.script = once
    slow = "no whole answer" in why  # good answers may be, too, on a machine with other work
    report = job.run(options={"max_attempts": 4 if slow else 2}, key=KEY, timeout_s=1.0 if slow else 600.0)
    assert (report.n_done, report.n_failed) == (11, 1)
    assert report.n_retries >= 12
    assert job.texts() == [text for text in ALL if text != "re: q7"]
    (said,) = job.errors()
    assert "line 8: " in said
    assert why in said
    assert KEY not in said


def test_a_row_that_the_server_refuses_is_not_tried_again(job: Job, server: Faulty) -> None:
    def script(handler: Handler, body: dict[str, Any]) -> None:
        if body["messages"][-1]["content"] == "q3":
            handler.answer(400, {"error": {"message": "no parameter 'x'"}})
        else:
            handler.good(body)

    server.script = script
    report = job.run()
    assert (report.n_done, report.n_failed, report.n_retries) == (11, 1, 0)
    assert job.errors() == ["line 4: the server says 400: no parameter 'x'"]


@pytest.mark.parametrize(("status", "why"), [(401, "--api-key-file"), (403, "403"), (404, "'only'"), (301, "301")])
def test_what_is_wrong_with_all_rows_ends_the_run(job: Job, server: Faulty, status: int, why: str) -> None:
    server.script = lambda handler, body: handler.answer(status, b"", Location="http://127.0.0.1:1/")  # noqa: ARG005
    with pytest.raises(UsageError, match=why):
        job.run()
    assert len(server.asked) <= 8
    server.script = lambda handler, body: handler.good(body)
    assert job.run().n_done == 12


def test_a_server_that_stays_away_ends_the_run_and_it_goes_on(job: Job, server: Faulty) -> None:
    n_asked = 0

    def script(handler: Handler, body: dict[str, Any]) -> None:
        nonlocal n_asked
        n_asked += 1
        if n_asked > 5:
            handler.answer(503, b"restarting")
        else:
            handler.good(body)

    server.script = script
    with pytest.raises(EngineError, match="no answer for too long, the last time: the server says 503: restarting"):
        job.run(patience_s=0.3)
    assert len(job.texts()) == 5
    server.script = lambda handler, body: handler.answer(503, b"", Retry_After="86400")  # noqa: ARG005
    with pytest.raises(EngineError, match="let alone for 86400 s"):
        job.run()
    server.script = lambda handler, body: handler.good(body)
    report = job.run()
    assert (report.n_before, report.n_done) == (5, 12)
    assert job.texts() == ALL


def test_nobody_there(job: Job) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        job.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(BackendUnavailable, match="refused"):
            job.run()
        with pytest.raises(EngineError, match="refused"):
            job.run(model="x", patience_s=0.1)
    assert not job.out.read_bytes()


def test_to_stop_is_to_stop(job: Job, server: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """While answers are waited for that will not come."""
    monkeypatch.setattr("edgeinfer.batch.runner._TICK_S", 0.01)
    waiting = threading.Event()

    def script(handler: Handler, body: dict[str, Any]) -> None:
        if body["messages"][-1]["content"] == "q0":
            handler.good(body)
            return
        waiting.set()
        handler.connection.recv(1)  # until the other side has gone

    def watch(_now: Any) -> None:
        if waiting.is_set():
            raise KeyboardInterrupt

    server.script = script
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        job.run(options={"watch": watch})
    assert time.monotonic() - begin < 20
    assert not [thread for thread in threading.enumerate() if thread.name == "edgeinfer-endpoint"]
    server.script = lambda handler, body: handler.good(body)
    assert job.run().n_done == 12
    assert job.texts() == ALL


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:80", "ftp://x/", "http://", "http://a b/", "http://u:p@x/", "http://x/?a=1", "http://x:99999"],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="endpoint"):
        Poster(url)


def test_addresses_and_keys() -> None:
    for given in ("http://x:1", "http://x:1/", "http://x:1/v1/", "http://x:1/v1/chat/completions"):
        assert Poster(given).url == "http://x:1/v1"
    assert Poster("https://x/api/v3/").url == "https://x/api/v3"
    assert [
        Poster(url, KEY).shows_key for url in ("http://far/", "https://far/", "http://[::1]/", "http://localhost")
    ] == [
        True,
        False,
        False,
        False,
    ]
    for bad in ("", "a b", "a\nb", "ä"):
        with pytest.raises(UsageError, match="key"):
            Poster("http://x", bad)


def test_models_to_choose_among(job: Job, server: Faulty) -> None:
    server.models = {"data": [{"id": "a"}, {"id": "b"}]}
    with pytest.raises(UsageError, match=r"2 models .a, b.: name one with -m"):
        job.run()
    assert job.run(model="b").n_done == 12
    assert server.asked[0][1]["model"] == "b"
    answers: list[Any] = [b"<html>", {"data": 3}, {"data": [{"id": 3}]}, []]
    for broken in answers:
        server.models = broken
        with pytest.raises((UsageError, BackendUnavailable)):
            job.run()


def test_bodies() -> None:
    def fields(form: Any, prompt: Any, **options: Any) -> dict[str, Any]:
        _, body = body_of(Row(0, 1, "0" * 16, form, prompt, options=options), "m")
        return {name: body[name] for name in body if name not in ("model", "messages", "prompt")}

    chat = [{"role": "user", "content": "x"}]
    assert fields("chat", chat, logprobs=3) == {"logprobs": True, "top_logprobs": 3}
    assert fields("chat", chat, logprobs=0) == {"logprobs": True}
    assert fields("plain", "x", logprobs=3) == {"logprobs": 3}
    assert fields("chat", chat, temperature=0.0, seed=5) == {"temperature": 0.0}
    assert fields("chat", chat, logit_bias={5: -1.0}, top_k=3) == {"logit_bias": {"5": -1.0}, "top_k": 3}
    schema = fields("chat", chat, grammar=Grammar("json_schema", '{"type": "array"}'))
    assert schema["response_format"]["json_schema"]["schema"] == {"type": "array"}
    assert fields("chat", chat, grammar=Grammar("regex", "a+")) == {"regex": "a+"}
    for options in ({"grammar": Grammar("lark", "x")}, {"deadline_s": 3.0}):
        with pytest.raises(UsageError):
            fields("chat", chat, **options)
    assert body_of(Row(0, 1, "0" * 16, "plain", chat), "m")[0] == "/chat/completions"
    assert body_of(Row(0, 1, "0" * 16, "completion", [1, 2]), "m") == ("/completions", {"model": "m", "prompt": [1, 2]})


def test_answers_are_settled() -> None:
    row = Row(3, 4, "0" * 16, "chat", [], n=2)
    body: dict[str, Any] = {
        "id": "x",
        "created": 5,
        "model": "m",
        "timings": {"s": 1},
        "choices": [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": None}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 99}},
    }
    found = answer_of(row, body, {})
    assert found.stats == GenerationStats(n_prompt=5, n_reused=5, n_prefilled=0, n_generated=2)
    assert [choice["index"] for choice in found.body["choices"]] == [0, 1]
    assert (found.body["id"], found.body["created"], found.body["model"]) == ("chatcmpl-3-" + "0" * 16, 0, "m")
    assert "timings" not in found.body
    assert found.body["usage"] == {"prompt_tokens": 5, "completion_tokens": 2}
    with pytest.raises(EngineError, match="2 were asked for"):
        answer_of(row, {"choices": [{"text": "a"}]}, {})
    texts = Row(0, 1, "0" * 16, "embedding", "", texts=["a"])
    assert answer_of(texts, {"data": [{"embedding": [0.5]}], "usage": "?"}, {}).body["data"] == [{"embedding": [0.5]}]
    with pytest.raises(EngineError, match="no embeddings"):
        answer_of(texts, {"data": [{}]}, {})
    assert error_of(b'{"detail": [{"msg": "bad"}]}') == '{"detail": [{"msg": "bad"}]}'
    assert error_of(b'{"error": "plain"}') == "plain"


def test_retry_after() -> None:
    assert [_retry_after(text) for text in (None, "7", "x", "-1", "9" * 20)] == [None, 7.0, None, None, None]
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (_retry_after("Wed, 21 Oct 2099 07:28:00 GMT") or 0) > 1e6


def test_pauses_grow_and_end_patience() -> None:
    now = 100.0
    gate = Gate(10.0, lambda: now)
    assert gate.wait()
    pauses: list[float] = []
    for _ in range(4):
        first, pause = gate.trouble(now)
        assert first is (not pauses)
        pauses.append(pause)
        assert gate.trouble(now - 1)[1] == pause, "those that were under way meanwhile do not lengthen it"
        now += pause
    assert pauses[3] > pauses[1] > pauses[0]
    gate.trouble(now, 60.0)
    now += 60.0
    gate.trouble(now)  # what the server asked for does not count
    now += 11.0
    with pytest.raises(TimeoutError):
        gate.trouble(now)
    gate.good()
    assert gate.trouble(now)[0]
    gate.close()
    assert not gate.wait()


# ---- our own server


@contextlib.contextmanager
def served(key: str | None = None) -> Iterator[str]:
    """The scripted model behind a real socket."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        config = ServerConfig(port=listening.getsockname()[1], api_key=key)
        app = serving.application(config=config)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{config.port}/v1"
        finally:
            server.should_exit = True
            thread.join()


def test_our_own_server(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, out, key_file = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "key"
    key_file.write_text(KEY + "\n")
    chat = {"messages": [{"role": "user", "content": "say b"}], "logprobs": True, "n": 2, "max_tokens": 8}
    said = f"say {serving.CALL}"
    function = {"name": "add", "parameters": serving.PARAMETERS}
    calling = {"messages": serving.user(said)["messages"], "tools": [{"type": "function", "function": function}]}
    forced = {"type": "function", "name": "add"}
    response = {"input": "x", "tools": [{"type": "function", **function}], "tool_choice": forced}
    rows: list[dict[str, Any]] = [
        {"prompt": "say ä", "id": "a", "max_tokens": 20},
        {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": chat},
        {"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"prompt": "abc", "max_tokens": 4}},
        {"prompt": "say d", "regex": "[0-9]{3}", "max_tokens": 9},
        {"prompt": "x" * 5000},
        {"custom_id": "f", "method": "POST", "url": "/v1/chat/completions", "body": calling},
        {"custom_id": "g", "method": "POST", "url": "/v1/responses", "body": response},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served(KEY) as url:
        command = ["batch", "-i", str(source), "-o", str(out), "--endpoint", url, "--temp", "0", "--order", "input"]
        assert main([*command, "--concurrency", "3"]) == 2
        assert "the server says 401" in capsys.readouterr().err
        monkeypatch.setenv("EDGEINFER_API_KEY", KEY)
        assert main([*command, "--limit", "1"]) == 0
        monkeypatch.delenv("EDGEINFER_API_KEY")
        assert main([*command, "--api-key-file", str(key_file), "--json"]) == 6
        captured = capsys.readouterr()
        assert main([*command, "--dry-run", "--api-key-file", str(key_file)]) == 0
    report = json.loads(captured.out.splitlines()[-1])
    assert (report["n_before"], report["n_done"], report["n_failed"]) == (1, 6, 1)
    a, b, c, d, f, g = (json.loads(line) for line in out.read_text().splitlines())
    assert (a["text"], a["custom_id"], a["finish_reason"]) == ("ä", "a", "stop")
    assert [choice["message"]["content"] for choice in b["response"]["body"]["choices"]] == ["b", "b"]
    assert b["response"]["body"]["choices"][0]["logprobs"]["content"]
    assert c["response"]["body"]["choices"][0]["text"] == "cccc"
    assert d["text"].isdigit()
    (call,) = f["response"]["body"]["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1, "b": 2}
    (item,) = g["response"]["body"]["output"]
    assert (item["type"], item["name"]) == ("function_call", "add")
    (error,) = (json.loads(line) for line in out.with_name("out.errors.jsonl").read_text().splitlines())
    assert "line 5: the server says 400" in error["error"]["message"]
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.name.startswith("out"))
    assert KEY not in written + captured.err + captured.out


def test_flags_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("{}\n")
    command = ["batch", "-i", str(source), "-o", str(tmp_path / "out.jsonl")]
    assert main([*command, "--concurrency", "3"]) == 2
    assert "--concurrency: needs --endpoint" in capsys.readouterr().err
    assert main([*command, "--endpoint", "http://127.0.0.1:1", "-c", "99", "--parallel", "4"]) == 2
    assert "--ctx-size, --parallel: the server decides" in capsys.readouterr().err
