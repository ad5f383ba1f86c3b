"""The ARM kernels under emulation, and the tool behind it: what it installs, when it stands aside, what it refuses."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from typing import Any

import bootstrap
import cross_test
import pytest
import running

emulated = pytest.mark.skipif(
    bool(cross_test.missing_packages()),
    reason=f"ARM is not emulated here: {', '.join(cross_test.missing_packages())} not installed",
)


@pytest.fixture(scope="module")
def programs() -> None:
    try:
        cross_test.build()
    except cross_test.Unavailable as error:
        pytest.skip(str(error))


@emulated
@pytest.mark.parametrize("cpu", cross_test.INSTRUCTION_SETS)
def test_kernels_under_emulation(programs: None, cpu: str) -> None:  # noqa: ARG001
    try:
        assert "100% tests passed" in cross_test.test(cpu)
    except cross_test.Unavailable as error:
        pytest.skip(str(error))


@emulated
def test_a_processor_without_its_instructions_fails(programs: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setitem(cross_test.INSTRUCTION_SETS, "cortex-a72", ("neon", "neon_dotprod"))
    with pytest.raises(cross_test.Failed, match="would cover scalar neon, not"):
        cross_test.test("cortex-a72")


# ---- installing


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A made-up Debian: the programs it has, who we are, and whether sudo would ask."""
    facts: dict[str, Any] = {"programs": {"apt-get", "sudo"}, "uid": 0, "sudo": 0, "machine": "x86_64"}

    def which(name: str) -> str | None:
        return f"/usr/bin/{name}" if name in facts["programs"] else None

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, facts["sudo"])

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: facts["machine"])
    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(os, "geteuid", lambda: facts["uid"], raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    return facts


def test_root_installs_what_is_missing(machine: dict[str, Any]) -> None:
    machine["programs"].add("qemu-aarch64-static")
    packages = cross_test.missing_packages()
    assert packages == ["g++-aarch64-linux-gnu"]
    update, install = cross_test.install_commands(packages)
    assert update[-1] == "update"
    assert install[-3:] == ["install", "-y", "g++-aarch64-linux-gnu"]
    assert "sudo" not in " ".join(install)


def test_others_use_sudo_only_where_it_does_not_ask(machine: dict[str, Any]) -> None:
    machine["uid"] = 1000
    assert cross_test.install_commands(["x"])[0][:2] == ["/usr/bin/sudo", "-n"]
    machine["sudo"] = 1
    with pytest.raises(cross_test.Unavailable, match="sudo apt-get install x"):
        cross_test.install_commands(["x"])


@pytest.mark.parametrize(
    ("fact", "value", "reason"), [("programs", set(), "no apt-get"), ("machine", "aarch64", "an ARM itself")]
)
def test_elsewhere_it_says_why_not(machine: dict[str, Any], fact: str, value: Any, reason: str) -> None:
    machine[fact] = value
    with pytest.raises(cross_test.Unavailable, match=reason):
        cross_test.install_commands(["x"])


def test_set_up_goes_on_without_the_packages(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise running.SetupError("installing failed with exit code 100", "check the network")

    monkeypatch.setattr(bootstrap, "step", fails)
    bootstrap.install_emulator()
    machine["programs"].clear()
    bootstrap.install_emulator()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("ARM is not emulated here: ") for line in lines)


def test_set_up_installs_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(bootstrap, "step", lambda *_: pytest.fail("installed what was there"))
    bootstrap.install_emulator()
