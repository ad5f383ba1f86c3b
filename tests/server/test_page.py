"""The chat page without a browser: what is rendered, what is kept, who gets what."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from serving import Call, application, events, opened, spec, started, until
from starlette.testclient import TestClient

from edgeinfer import sessions
from edgeinfer.server.page.rendering import Growing, code_styles, rendered
from edgeinfer.sessions import Session, Turn


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with opened() as found:
        yield found


def ask(client: TestClient, text: str = "", **fields: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(begin, end, HTML) of an answer."""
    answer = client.post("/page/ask", json={"model": "scripted", "text": text, **fields})
    assert answer.status_code == 200
    found = events(answer.text)
    html = "".join(data["settled"] for name, data in found if name == "text")
    html += next((data["open"] for name, data in reversed(found) if name == "text"), "")
    assert found[0][0] == "begin", found
    assert found[-1][0] == "end", found
    return found[0][1], found[-1][1], html


# ---- what is shown


def test_markdown_becomes_html() -> None:
    html = rendered("# A\n\n**b** `c`\n\n- d\n\n|x|y|\n|-|-|\n|1|2|\n\n```python\nif e: pass\n```\n")
    for part in ("<h1>A</h1>", "<strong>b</strong>", "<code>c</code>", "<li>d</li>", "<td>1</td>"):
        assert part in html
    assert '<code class="language-python"><span class="k">if</span>' in html
    assert ".k {" in code_styles()


HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "![x](http://evil.example/?secret)",
    "[x](http://e.example/'onmouseover='alert(1))",
    '```"><script>alert(1)</script>\nx\n```',
    '```<img src=x onerror="alert(1)">\nx\n```',
    "`<script>alert(1)</script>`",
    "<style>*{display:none}</style>",
    "<iframe src='//evil.example'></iframe>",
    "<a href='x' onclick='alert(1)'>y</a>",
    "|<script>|\n|-|\n|<svg onload=alert(1)>|",
    "[x]: javascript:alert(1)\n\n[x]",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
)


@pytest.mark.parametrize("source", HOSTILE)
def test_nothing_hostile_is_html(source: str) -> None:
    """Whole, and in every way that it may come in two pieces."""
    for html in [rendered(source), *(both(source[:i], source[i:]) for i in range(1, len(source)))]:
        for name, attributes in elements(html):
            assert name in ALLOWED, html
            assert set(attributes) <= {"href", "title", "target", "rel", "class", "start"}, html
            assert attributes.get("href", "http:").startswith(("http:", "https:", "mailto:")), html


ALLOWED = {"p", "br", "code", "pre", "a", "table", "thead", "tbody", "tr", "th", "td", "span"}


def elements(html: str) -> list[tuple[str, dict[str, str]]]:
    """As a browser would find them."""
    found: list[tuple[str, dict[str, str]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, {name: value or "" for name, value in attrs}))

    parser = Parser()
    parser.feed(html)
    parser.close()
    return found


def both(*pieces: str) -> str:
    growing = Growing()
    settled, html = "", ""
    for piece in pieces:
        more, html = growing.feed(piece)
        settled += more
    return settled + html


def test_links_leave_nothing_behind() -> None:
    html = rendered("[x](https://example.com/)")
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'target="_blank"' in html


def test_what_reorders_text_is_spelt_out() -> None:
    assert "\u202e" not in rendered("a \u202eb &#8238; `\u202e`\n\n```\n\u202e\n```\n")


@pytest.mark.parametrize("size", [1, 3, 11])
def test_pieces_become_what_the_whole_does(size: int) -> None:
    source = "# A\n\nb\nc\n\n- d\n- e\n\n1. f\n\n   g\n\n```py\nh = 1\n\ni\n```\n\n> j\n\n"
    source += "|k|l|\n|-|-|\n|m|n|\n\nlast **o**\n"
    growing = Growing()
    settled, html = "", ""
    for begin in range(0, len(source), size):
        more, html = growing.feed(source[begin : begin + size])
        settled += more
    assert settled + html == rendered(source)
    assert settled.count("<h1>") == 1
    assert growing.source == source


# ---- the page and its files


def test_the_page_may_load_its_own_files_and_nothing_else(client: TestClient) -> None:
    first, second = client.get("/"), client.get("/")
    policy = first.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]{20,})';", policy)
    assert nonce
    assert nonce[1] not in second.text  # drawn for each visit
    assert f"'nonce-{nonce[1]}'" in policy.partition("style-src")[2]
    for word in ("unsafe", "*", "http:", "https:", "data:"):
        assert word not in policy
    assert policy.startswith("default-src 'none';")
    assert "require-trusted-types-for 'script'" in policy
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    text = first.text
    assert "{{" not in text
    assert not re.search(r'(?:src|href)="(?!/page/files/|#)', text), "something from elsewhere"
    assert not re.search(r"\sstyle=|\son\w+=", text)
    assert text.count("<script") == text.count(f'nonce="{nonce[1]}">') - 1  # and the style sheet
    for name in re.findall(r"/page/files/([\w.]+)", text):
        assert client.get(f"/page/files/{name}").status_code == 200


@pytest.mark.parametrize("name", ["index.html", "routes.py", "..%2froutes.py", "%2e%2e%2f%2e%2e%2fapp.py", "x.js"])
def test_no_other_file_is_given(client: TestClient, name: str) -> None:
    assert client.get(f"/page/files/{name}").status_code == 404


def test_modules_are_scripts_and_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = Path(__file__).parents[2] / "edgeinfer" / "server" / "page" / "files"
    for path in page.glob("*.js"):
        answer = client.get(f"/page/files/{path.name}")
        assert answer.headers["content-type"].startswith("text/javascript")
        assert not re.search(r"https?://|\beval\b|innerHTML(?! = rendered)|document\.write|outerHTML", answer.text)
        assert len(answer.text.splitlines()) < 400


# ---- conversations


def test_a_question_an_answer_and_what_it_cost(client: TestClient) -> None:
    begin, end, html = ask(client, "say # Hi\n\n**there**")
    assert html == "<h1>Hi</h1>\n<p><strong>there</strong></p>\n"
    assert end["finish"] == "stop"
    assert "tok/s" in end["timing"]
    saved = sessions.load(begin["session"])
    assert [turn.content for turn in saved.turns] == ["say # Hi\n\n**there**", "# Hi\n\n**there**"]
    shown = client.get(f"/page/sessions/{begin['session']}").json()
    assert shown["turns"][1]["html"] == html
    listing = client.get("/page/sessions").json()["sessions"]
    assert listing[0]["title"] == "say # Hi **there**"


def test_a_conversation_goes_on_and_remembers(client: TestClient) -> None:
    begin, _, _ = ask(client, "one", settings={"temperature": 0, "max_tokens": 40}, system="be kind")
    _, end, _ = ask(client, "two", session=begin["session"], settings={"temperature": 0})
    assert end["at"] == 3
    saved = sessions.load(begin["session"])
    assert [turn.role for turn in saved.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert saved.settings["temperature"] == 0
    assert saved.settings.get("max_tokens") is None
    shown = client.get(f"/page/sessions/{begin['session']}").json()
    assert shown["system"] == "be kind"
    assert [turn["at"] for turn in shown["turns"]] == [1, 2, 3, 4]


def test_again_replaces_the_answer(client: TestClient) -> None:
    begin, _, _ = ask(client, "one")
    again, _, _ = ask(client, session=begin["session"], again=True)
    assert again == {"session": begin["session"], "text": "one"}
    assert [turn.content for turn in sessions.load(begin["session"]).turns] == ["one", "You said: one"]


def test_a_branch_leaves_the_old_conversation_as_it_was(client: TestClient) -> None:
    begin, _, _ = ask(client, "one")
    ask(client, "two", session=begin["session"])
    branch, _, _ = ask(client, "other", session=begin["session"], at=2)
    assert branch["session"] != begin["session"]
    assert [turn.content for turn in sessions.load(begin["session"]).turns][2] == "two"
    branched = [turn.content for turn in sessions.load(branch["session"]).turns]
    assert branched == ["one", "You said: one", "other", "You said: other"]


def test_removing(client: TestClient) -> None:
    begin, _, _ = ask(client, "one")
    assert client.delete(f"/page/sessions/{begin['session']}").status_code == 200
    assert not sessions.exists(begin["session"])
    assert client.delete(f"/page/sessions/{begin['session']}").status_code == 404


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "none", ".hidden", "x" * 200, "a b", "%00"])
def test_only_conversations_are_read_and_removed(client: TestClient, name: str) -> None:
    for method in ("GET", "DELETE"):
        assert client.request(method, f"/page/sessions/{name}").status_code in (400, 404)


def test_a_damaged_conversation_is_said(client: TestClient) -> None:
    ask(client, "one")
    sessions.path("broken").write_text("{", encoding="utf-8")
    try:
        listing = client.get("/page/sessions").json()["sessions"]
        assert "cannot be read" in next(entry for entry in listing if entry["name"] == "broken")["problem"]
        answer = client.get("/page/sessions/broken")
        assert answer.status_code in (400, 503)
        assert "cannot be read" in answer.json()["error"]["message"]
    finally:
        sessions.remove("broken")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": "x"}, 400),
        ({"model": "none", "text": "x"}, 404),
        ({"model": "scripted", "text": "  "}, 400),
        ({"model": "scripted", "text": "x", "session": "none"}, 404),
        ({"model": "scripted", "text": "x", "settings": {"temperature": -1}}, 400),
        ({"model": "scripted", "text": "x", "settings": {"grammar": "x"}}, 400),
        ({"model": "scripted", "text": "x", "at": -1}, 400),
    ],
)
def test_wrong_questions(client: TestClient, body: dict[str, Any], status: int) -> None:
    assert client.post("/page/ask", json=body).status_code == status


def test_an_error_on_the_way_is_an_event(client: TestClient) -> None:
    before = len(client.get("/page/sessions").json()["sessions"])
    answer = client.post("/page/ask", json={"model": "scripted", "text": "y" * 5000})
    name, data = events(answer.text)[-1]
    assert name == "error"
    assert "the context holds 4096" in data["message"]
    assert len(client.get("/page/sessions").json()["sessions"]) == before


def test_whoever_leaves_stops_the_answer_and_what_was_said_is_kept() -> None:
    async def main() -> None:
        app = application(spec(step_s=0.01))
        async with started(app) as models:
            call = Call(app, "/page/ask", {"model": "scripted", "text": "count 500"})
            await until(lambda: b'"open":"<p>0 1' in call.sent)
            name = re.search(rb'"session":"([\w-]+)"', call.sent)
            assert name
            await call.leave()
            (model,) = models.open_models().values()
            await until(lambda: model.n_asked == 0, 1.0)
            saved = sessions.load(name[1].decode())
            assert saved.turns[1].finish == "cancelled"
            assert saved.turns[1].content.startswith("0 1")

    asyncio.run(main())


def test_two_at_once_in_one_conversation_take_turns() -> None:
    async def main() -> None:
        sessions.save(Session("shared", "scripted", (Turn("user", "a"), Turn("assistant", "b", "stop"))))
        app = application(spec(step_s=0.002))
        async with started(app):
            body = {"model": "scripted", "session": "shared"}
            calls = [Call(app, "/page/ask", {**body, "text": f"say {i}"}) for i in range(4)]
            await asyncio.gather(*(call.task for call in calls))
        said = [turn.content for turn in sessions.load("shared").turns]
        assert len(said) == 10
        assert (
            {said[i].removeprefix("say ") for i in range(2, 10, 2)} == {said[i] for i in range(3, 10, 2)} == set("0123")
        )

    asyncio.run(main())


def test_memory(client: TestClient) -> None:
    found = client.get("/page/memory").json()
    assert found["total_bytes"] > found["available_bytes"] > 0
