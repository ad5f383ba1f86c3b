"""The chat page as a person uses it, in a headless Chromium against a real server: with the mouse, the keyboard, and
what a screen reader would find."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import debian
import pytest
import uvicorn
from serving import application, spec

from edgeinfer import sessions
from edgeinfer.server.config import ServerConfig
from edgeinfer.server.running import bind
from edgeinfer.sessions import Session, Turn

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra [dev]")
pytestmark = pytest.mark.skipif(debian.browser() is None, reason="no Chromium here (apt-get install chromium)")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

KEY = "a-key-of-the-tests"
LONG = "count 200"
RICH = (
    "say # Wheels\n\nA **wheel** is `round`; see [there](https://example.com/).\n\n"
    "```python\ndef turn(n: int) -> str:\n    # a comment\n    return 'round' * n\n```\n\n"
    "| part | use |\n|---|---|\n| rim | grip |\n\n1. one\n2. two\n\n> quoted\n"
)
WAIT_MS = 60_000


@contextlib.contextmanager
def serving(step_s: float = 0.004, key: str | None = None) -> Iterator[str]:
    """A server on a real port, in a thread of its own; its address."""
    config = ServerConfig(port=0, api_key=key)
    listening = bind(config)
    config = replace(config, port=listening.getsockname()[1])
    app = application(spec(step_s=step_s), spec("other"), config=config)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder of conversations for the server, which outlives a test."""
    before = os.environ.get("EDGEINFER_HOME")
    folder = tmp_path_factory.mktemp("page")
    os.environ["EDGEINFER_HOME"] = str(folder)
    yield folder
    if before is not None:
        os.environ["EDGEINFER_HOME"] = before


@pytest.fixture(autouse=True)
def _same_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_HOME", str(home))


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    assert home.is_dir()
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
        found = driver.chromium.launch(executable_path=debian.browser(), args=options)
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with visiting(browser, address) as found:
        yield found


@contextlib.contextmanager
def visiting(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A page whose console must stay empty: no error, nothing that its policy had to forbid."""
    context = browser.new_context(**options)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    found = context.new_page()
    found.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    asked: list[str] = []
    found.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("request", lambda request: asked.append(request.url))
    found.goto(address)
    ready(found)
    yield found
    context.close()
    assert complaints == []
    assert {url for url in asked if not url.startswith(f"{address}/")} == set()


def ready(page: Page) -> None:
    page.wait_for_selector("html[data-ready=true]")


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def rests(page: Page) -> None:
    playwright.expect(page.get_by_role("button", name="Stop")).to_be_disabled(timeout=WAIT_MS)


def answers(page: Page) -> list[str]:
    rests(page)
    return [item.inner_text() for item in page.locator(".turn.assistant .said").all()]


def streaming(page: Page) -> None:
    """Wait until an answer is on its way, and seen to grow."""
    comes(page, "document.querySelector('.turn.growing .open')?.innerText.length > 20")


def comes(page: Page, condition: str) -> None:
    """Wait until this is true. Playwright's own way to wait is forbidden by the page's policy: it is `eval`."""
    end = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(5)


# ---- what one does


def test_send_and_watch_it_stream(page: Page) -> None:
    send(page, LONG)
    streaming(page)
    shown = page.locator(".turn.assistant .said")
    first = len(shown.inner_text())
    comes(page, f"document.querySelector('.turn.assistant .said').innerText.length > {first + 20}")
    playwright.expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    (whole,) = answers(page)
    assert whole.split() == [str(i) for i in range(200)]
    assert "tok/s" in page.locator("#timing").inner_text()
    assert re.search(r"free [\d.]+ of [\d.]+ GiB", page.locator("#memory").inner_text())


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop(page: Page, how: str) -> None:
    send(page, LONG)
    streaming(page)
    if how == "key":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop").click()
    rests(page)
    page.wait_for_selector(".remark:has-text('stopped')")
    (text,) = answers(page)
    assert 5 < len(text.split()) < 200
    name = page.evaluate("location.hash.slice(1)")
    assert sessions.load(name).turns[1].finish == "cancelled"
    send(page, "say hello")
    assert answers(page)[1] == "hello"


def test_regenerate(page: Page) -> None:
    send(page, "say one")
    assert answers(page) == ["one"]
    page.get_by_role("button", name="Regenerate").click()
    comes(page, "document.querySelector('#said').innerText === 'the answer is complete'")
    assert answers(page) == ["one"]
    assert page.locator(".turn.user").count() == 1


def test_reload_and_find_the_conversation(page: Page) -> None:
    send(page, RICH)
    rests(page)
    before = page.locator(".turn.assistant .settled").inner_html()
    page.reload()
    ready(page)
    assert page.locator(".turn.user .said").text_content() == RICH
    assert page.locator(".turn.assistant .settled").inner_html() == before
    assert page.locator("#sessions button[aria-current=true]").count() == 1
    send(page, "say more")
    assert answers(page)[1] == "more"


def test_reloading_in_the_middle_keeps_what_was_said(page: Page) -> None:
    send(page, LONG)
    streaming(page)
    page.reload()
    ready(page)
    (text,) = answers(page)
    assert text.startswith("0 1 2")
    assert page.locator(".remark").inner_text() == "stopped"


def test_edit_and_branch(page: Page) -> None:
    send(page, "say one")
    rests(page)
    send(page, "say two")
    rests(page)
    first = page.evaluate("location.hash")
    page.get_by_role("button", name="Edit this message: say two").click()
    playwright.expect(page.locator("#branching")).to_be_visible()
    send(page, "say three")
    assert answers(page) == ["one", "three"]
    assert page.evaluate("location.hash") != first
    assert [turn.content for turn in sessions.load(first.lstrip("#")).turns][2:] == ["say two", "two"]
    page.get_by_role("button", name="Edit this message: say one").click()
    page.get_by_role("button", name="Cancel").click()
    playwright.expect(page.locator("#branching")).to_be_hidden()


def test_conversations_are_chosen_and_deleted(page: Page) -> None:
    send(page, "say first thing")
    rests(page)
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".turn").count() == 0
    send(page, "say second thing")
    rests(page)
    page.get_by_role("button", name="say first thing", exact=True).first.click()
    playwright.expect(page.locator(".turn.user .said")).to_have_text("say first thing")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete say first thing").first.click()
    playwright.expect(page.locator(".turn")).to_have_count(0)


def test_settings_and_model_reach_the_request(page: Page) -> None:
    page.get_by_label("Model").select_option("other")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Longest answer").fill("5")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("System prompt").fill("be kind")
    page.get_by_role("button", name="Done").click()
    playwright.expect(page.locator("#settings")).to_be_hidden()
    send(page, "say abcdefgh")
    assert answers(page) == ["abcde"]
    assert page.locator(".remark").inner_text() == "cut off"
    saved = sessions.load(page.evaluate("location.hash.slice(1)"))
    assert (saved.model, saved.settings["max_tokens"], saved.turns[0].content) == ("other", 5, "be kind")
    page.reload()
    ready(page)
    assert page.get_by_label("Longest answer").input_value() == "5"
    assert page.get_by_label("Model").input_value() == "other"


def test_all_of_it_by_the_keyboard(page: Page) -> None:
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("say one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    assert answers(page) == ["one\ntwo"]
    page.keyboard.press("Alt+r")
    rests(page)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"model", "theme", "open-settings", "new", "send", "again", "scroll", "Edit", "Copy"} <= reached
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.press("Alt+n")
    assert page.locator(".turn").count() == 0


def test_copying_an_answer(page: Page) -> None:
    send(page, "say one")
    rests(page)
    page.get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == "one"


# ---- what goes wrong


def test_an_error_is_said_and_the_question_given_back(page: Page) -> None:
    text = "y" * 5000
    send(page, text)
    playwright.expect(page.get_by_role("alert")).to_contain_text("the context holds 4096")
    rests(page)
    assert page.get_by_label("Message", exact=True).input_value() == text


def test_a_server_that_has_gone_is_said(browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    with serving() as url:
        page.goto(url)
        ready(page)
    send(page, "say one")
    playwright.expect(page.get_by_role("alert")).to_contain_text("does not answer", timeout=WAIT_MS)
    assert page.get_by_label("Message", exact=True).input_value() == "say one"
    context.close()


def test_a_key_is_asked_for(browser: Browser) -> None:
    with serving(key=KEY) as url:
        context = browser.new_context()
        assert context.request.get(url).status == 401
        context.close()
        with visiting(browser, url, http_credentials={"username": "me", "password": KEY}) as page:
            send(page, "say one")
            assert answers(page) == ["one"]


def test_what_a_model_says_is_never_run(browser: Browser, address: str) -> None:
    hostile = (
        "<script>window.bad=1</script><img src=x onerror='window.bad=1'>[a](javascript:window.bad=1)\n\n"
        "```html\n<script>window.bad=1</script>\n```\n<svg onload=window.bad=1>\n"
    )
    sessions.save(Session("hostile", "scripted", (Turn("user", hostile), Turn("assistant", hostile, "stop"))))
    page = browser.new_context().new_page()
    page.goto(address)
    ready(page)
    send(page, f"say {hostile}")
    rests(page)
    page.goto(f"{address}/#hostile")
    page.reload()
    ready(page)
    assert "window.bad" in page.locator(".turn.user .said").inner_text()
    assert page.evaluate("window.bad") is None
    assert page.locator("#turns script, #turns img, #turns svg, #turns iframe").count() == 0
    # Nothing but what was rendered becomes HTML, whoever tries.
    refused = "(() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } })()"
    assert page.evaluate(refused) is True
    page.context.close()


# ---- how it looks, and to those who do not see


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1200, 800), (420, 800)], ids=["wide", "narrow"])
def test_axe_finds_nothing_serious(
    browser: Browser, address: str, tmp_path: Path, scheme: Any, size: tuple[int, int]
) -> None:
    """In both colours and at both widths; pictures are left in the folder that EDGEINFER_SCREENSHOTS names."""
    viewport = {"width": size[0], "height": size[1]}
    with visiting(browser, address, color_scheme=scheme, viewport=viewport, bypass_csp=True) as page:
        send(page, RICH)
        rests(page)
        assert page.locator("html").get_attribute("data-theme") == scheme
        folder = Path(os.environ.get("EDGEINFER_SCREENSHOTS") or tmp_path)
        page.screenshot(path=folder / f"page-{scheme}-{size[0]}.png")
        serious = violations(page)
        page.get_by_role("button", name="Settings").click()
        page.screenshot(path=folder / f"settings-{scheme}-{size[0]}.png")
        serious += violations(page)
    assert serious == []


def violations(page: Page) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{entry['id']}: {node['html']} {node['failureSummary']}"
        for entry in found
        if entry["impact"] in ("serious", "critical")
        for node in entry["nodes"]
    ]


def test_the_theme_is_remembered(page: Page) -> None:
    page.get_by_label("Theme").select_option("dark")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.reload()
    ready(page)
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.get_by_label("Theme").input_value() == "dark"


def test_a_screen_reader_is_told(page: Page) -> None:
    send(page, LONG)
    playwright.expect(page.get_by_role("status")).to_have_text("answering")
    playwright.expect(page.get_by_role("status")).to_have_text("the answer is complete", timeout=WAIT_MS)
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
