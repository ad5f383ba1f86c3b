"""`edgeinfer serve`: what it makes of its flags, and how it refuses."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from edgeinfer import catalog
from edgeinfer.cli import main
from edgeinfer.server import running
from edgeinfer.server.config import ServerConfig
from edgeinfer.server.workers.models import Models

KEY = "a-key-of-some-length"


class Ran:
    """Stands in for the server."""

    def __init__(self) -> None:
        self.config: ServerConfig | None = None
        self.models: Models
        self.preload: tuple[str, ...] = ()

    def __call__(self, config: ServerConfig, models: Models, *, preload: tuple[str, ...], **_: Any) -> None:
        self.config, self.models, self.preload = config, models, preload


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ran:
    found = Ran()
    monkeypatch.setattr(running, "run", found)
    monkeypatch.setattr("edgeinfer.cli.loading.fetch", lambda _name: None)
    monkeypatch.setenv("EDGEINFER_MODELS", str(tmp_path / "models"))
    return found


def model_file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"GGUF")
    return path


def here(name: str) -> None:
    """The catalogue's model, as far as one looks at its size."""
    card = catalog.cards()[name]
    catalog.models_dir().mkdir(exist_ok=True)
    with (catalog.models_dir() / card.file).open("wb") as stream:
        stream.truncate(card.bytes)


def test_defaults(ran: Ran) -> None:
    here("smollm2-135m")
    here("qwen2.5-coder-0.5b")
    assert main(["serve"]) == 0
    assert ran.config == ServerConfig()
    assert list(ran.models.specs()) == ["smollm2-135m", "qwen2.5-coder-0.5b"]
    assert ran.preload == ("smollm2-135m",)
    arguments = ran.models.find(None).arguments
    assert arguments["n_parallel"] == [8, 4, 2, 1]
    assert arguments["kv_cache"] == "4g"
    assert "memory" not in arguments


def test_models_and_their_names(ran: Ran, tmp_path: Path) -> None:
    here("smollm2-135m")
    mine = model_file(tmp_path / "mine" / "my-model.gguf")
    assert main(["serve", "-m", str(mine), "-m", f"other={mine}", "-np", "2", "-c", "512", "--memory", "2G"]) == 0
    assert list(ran.models.specs()) == ["my-model", "other", "smollm2-135m"]
    assert ran.models.find("other").arguments["model"] == str(mine)
    assert ran.models.find("smollm2-135m").arguments["n_ctx"] == 512
    assert ran.models.find("other").arguments["n_parallel"] == 2
    assert ran.config is not None
    assert ran.config.memory_bytes == 2 << 30
    assert ran.preload == ("my-model",)


def test_keys_and_limits(ran: Ran, tmp_path: Path) -> None:
    here("smollm2-135m")
    key = tmp_path / "key"
    key.write_text(f"{KEY}\n")
    flags = ["--api-key-file", str(key), "--host", "0.0.0.0", "--allow-host", "box.local:8080"]
    flags += ["--allow-origin", "tauri://localhost", "--max-queue", "3", "--max-body", "1M", "--max-time", "60"]
    assert main(["serve", *flags]) == 0
    assert ran.config is not None
    assert ran.config.api_key == KEY
    assert ran.config.allowed_hosts == ("box.local:8080",)
    limits = ran.config.limits
    assert (limits.n_queue, limits.body_bytes, limits.request_s) == (3, 1 << 20, 60)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--host", "0.0.0.0"], 2, "set a key"),
        (["--api-key", "short"], 2, "at least 8"),
        (["--allow-origin", "*"], 2, "not an origin"),
        (["-m", "no-such-model"], 4, "no model"),
        (["-m", "/nowhere/x.gguf"], 4, "no file"),
        (["--max-body", "lots"], 2, "lots"),
        (["--port", "99999"], 2, "99999"),
    ],
)
def test_what_cannot_be(ran: Ran, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, said: str) -> None:
    here("smollm2-135m")
    assert main(["serve", *flags]) == code
    assert said in capsys.readouterr().err
    assert ran.config is None


def test_two_of_one_name(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = model_file(tmp_path / "a" / "x.gguf"), model_file(tmp_path / "b" / "x.gguf")
    assert main(["serve", "-m", str(a), "-m", str(b)]) == 2
    assert "two models are called 'x'" in capsys.readouterr().err
    assert ran.config is None


def test_an_address_that_is_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        mine = model_file(tmp_path / "mine" / "x.gguf")
        assert main(["serve", "-m", str(mine), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen at" in capsys.readouterr().err


def test_a_model_that_cannot_be_opened_ends_the_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mine = model_file(tmp_path / "mine" / "x.gguf")
    assert main(["serve", "-m", str(mine), "--port", "0"]) == 1
    assert "x.gguf" in capsys.readouterr().err.splitlines()[-1]
