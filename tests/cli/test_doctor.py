"""The doctor on this machine and on worse ones: it speaks where nothing else works."""

from __future__ import annotations

import builtins
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import gguf_files
import pytest
import scripted_drafts
from kv_states import MODEL, TALK, save

from edgeinfer import catalog, device, drafting, env, gguf, kernels, memory, tune
from edgeinfer.cli import checkup, doctor, main
from edgeinfer.errors import BackendUnavailable
from edgeinfer.kv.store import Store
from edgeinfer.speculate import costs


@pytest.fixture(autouse=True)
def _no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that were not measured, so that a test takes milliseconds."""
    monkeypatch.setattr(kernels, "read_bandwidth", lambda _n: 21.5e9)
    monkeypatch.setattr(kernels, "int8_peak", lambda _n: 700e9)


def facts(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["doctor", "--json"]) == code
    captured = capsys.readouterr()
    found: dict[str, Any] = json.loads(captured.out.splitlines()[-1])
    return found


def what(found: dict[str, Any]) -> str:
    return "\n".join(f"{entry['what']} -> {entry['how']}" for entry in found["missing"])


def test_a_sound_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys)
    assert found["usable"] is True
    assert found["cpu"]["read_bytes_per_s"] == 21.5e9
    assert found["cpu"]["isa"] in found["cpu"]["features"]
    assert found["memory"]["total_bytes"] > 0
    assert [engine["name"] for engine in found["engines"]] == ["llamacpp", "onnxruntime"]
    assert "CPUExecutionProvider" in found["engines"][1]["providers"]
    assert [entry["ok"] for entry in found["libraries"] if entry["name"] == "numpy"] == [True]
    assert {folder["purpose"] for folder in found["folders"]} == {"models", "cache", "data"}


def test_saved_conversations_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert facts(capsys)["kv_cache"]["n_states"] == 0
    store = Store(said=print)
    save(store, MODEL, TALK, n_bytes=5000)
    found = facts(capsys)["kv_cache"]
    assert found["n_states"] == 1
    assert found["bytes"] > 5000
    assert found["path"] == str(store.folder)
    assert "1 conversation;" in dict(rows(facts(capsys)))["saved KV"]


def test_text_is_aligned_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"memory bandwidth +21\.5 GB/s", text)
    assert "700 GOPS" in text
    assert "\x1b" not in text
    labels = [line for line in text.splitlines() if line.startswith("  ") and "->" not in line]
    assert len({len(line) - len(line[2:].lstrip()) for line in labels}) == 1


def test_terminal_shows_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {"models": [("a[b]", "path/\x1b[31m.gguf")], "missing": []}
    monkeypatch.setenv("COLUMNS", "100")
    doctor._print_table(shown)
    text = capsys.readouterr().out
    assert "a[b]" in text, "names are not markup"
    assert "\\x1b[31m.gguf" in text, "nor escape sequences"


def test_without_llama_cpp_nothing_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: Any) -> Any:
        if name == "llama_cpp":
            raise OSError("libllama.so: cannot open\nshared object")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    found = facts(capsys, code=5)
    assert found["usable"] is False
    assert "libllama.so: cannot open shared object" in what(found)
    assert "pip install llama-cpp-python==" in what(found)


def test_without_kernels_it_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels, "available", lambda: False)
    monkeypatch.setattr(kernels, "why_not", lambda: "the kernel library is not at x")
    found = facts(capsys)
    assert "the kernel library is not at x" in what(found)
    assert found["cpu"]["read_bytes_per_s"] is None


def test_a_forced_instruction_set_that_is_not_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> Any:
        raise BackendUnavailable("EDGEINFER_FORCE_ISA=sve is not available on this machine")

    monkeypatch.setattr(kernels, "capabilities", refuse)
    monkeypatch.setattr(kernels, "best_isa", refuse)
    assert "EDGEINFER_FORCE_ISA=sve" in what(facts(capsys, code=5))


def test_a_missing_and_a_damaged_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEINFER_MODELS", str(tmp_path))
    assert f"edgeinfer models pull {catalog.DEFAULT_MODEL}" in what(facts(capsys))
    (tmp_path / catalog.cards()[catalog.DEFAULT_MODEL].file).write_bytes(b"GGUF")
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    found = facts(capsys)
    assert "is damaged" in what(found)
    mine = next(entry for entry in found["models"] if entry["path"].endswith("mine.gguf"))
    assert (mine["name"], mine["kernels"]) == (None, None)
    assert "mine.gguf" in mine["problem"]
    assert doctor.sections(found)["models"][-1] == ("its kernels", f"none: {mine['problem']}")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EDGEINFER_MODELS", str(tmp_path))
    return gguf_files.model().write(tmp_path / "tiny.gguf")


def test_which_kernels_a_model_gets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    monkeypatch.setattr(kernels, "expected", lambda: kernels.KernelReport(True, isa=kernels.best_isa()))
    found = facts(capsys)
    (entry,) = [entry for entry in found["models"] if entry["path"] == str(tiny)]
    assert entry["kernels"]["n_matrices"] == {"Q4_0": 4, "Q8_0": 3}
    assert set(entry["kernels"]["types"].values()) <= set(kernels.capabilities())
    assert entry["kernels"]["same_answers"] is True
    isa = entry["kernels"]["types"]["Q4_0"]
    text = f"Q4_0 (4 matrices): {isa}; Q8_0 (3): {isa}; same answers in any company: yes"
    assert ("its kernels", text) in doctor.sections(found)["models"]


def test_why_a_model_gets_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr(kernels, "expected", lambda: kernels.KernelReport(False, "our kernels are on strike"))
    found = facts(capsys)
    assert found["models"][-1]["path"] == str(tiny)
    assert ("its kernels", "llama.cpp's own: our kernels are on strike") in doctor.sections(found)["models"]
    assert main(["models", "show", str(tiny)]) == 0
    assert "kernels:       llama.cpp's own: our kernels are on strike" in capsys.readouterr().out
    assert main(["models", "show", str(tiny), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["kernels"] == found["models"][-1]["kernels"]


def test_drafts_for_a_model(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    """The catalogue's partner and whether it is here, and what was measured of the model's own passes on this
    machine."""
    name, partner, info = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", gguf.model_info(gguf.read(tiny), name="tiny")
    cards = catalog.cards()
    for card in (cards[name], cards[partner]):
        small = dataclasses.replace(card, bytes=tiny.stat().st_size)
        cards = {**cards, card.name: small}
    monkeypatch.setattr(catalog, "cards", lambda: cards)
    shutil.copy(tiny, tiny.parent / cards[name].file)

    def shown() -> tuple[dict[str, Any], str, str]:
        (entry,) = [entry for entry in facts(capsys)["models"] if entry["name"] == name]
        assert main(["doctor"]) == 0
        doctors = " ".join(capsys.readouterr().out.split())
        assert main(["models", "show", name]) == 0
        return entry, doctors, capsys.readouterr().out

    entry, doctors, models = shown()
    assert (entry["draft"], entry["draft_here"], entry["costs"]) == (partner, False, [])
    words = f"{partner} (not here; get it with: edgeinfer models pull {partner})"
    assert f"its draft model {words}" in doctors
    assert f"draft:         {words}" in models
    assert "pass costs" not in models
    shutil.copy(tiny, tiny.parent / cards[partner].file)
    costs.remember(scripted_drafts.STEEP, *drafting._whose(info), "2/2 threads", "f16 KV")
    entry, doctors, models = shown()
    (entry_costs,) = entry["costs"]
    assert entry["draft_here"] is True
    assert (entry_costs["with"], entry_costs["depths"]) == ("2/2 threads f16 KV", [32, 512])
    assert [growth["8"] for growth in entry_costs["v"]] == pytest.approx([8, 8])
    assert f"its draft model {partner} (here)" in doctors
    words = "v(2) 2.00, v(4) 4.00, v(8) 8.00, v(16) 16.00 after 32 tokens; 2/2 threads f16 KV"
    assert f"cost of its passes {words}" in doctors
    assert f"pass costs:    {words}" in models


def test_little_memory_and_a_folder_that_is_not_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 100 << 20)
    monkeypatch.setattr(os, "access", lambda *_: False)
    text = what(facts(capsys))
    assert "100 MiB" in text
    assert "the right to write" in text


def test_measured_threads_of_this_machine_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "edgeinfer tune" in what(facts(capsys))
    here = tune.Tuned("llama-1", device.machine_key(), 3, 4, {3: 1.0}, {4: 2.0})
    there = tune.Tuned("llama-1", "another machine", 9, 9, {9: 1.0}, {9: 2.0})
    monkeypatch.setattr(tune, "remembered", lambda: [here, there])
    found = facts(capsys)
    assert found["threads"]["tuned"] == [{"model": "llama-1", "n_threads": 3, "n_threads_batch": 4}]
    assert "edgeinfer tune" not in what(found)
    assert ("threads, measured", "4 for prefill, 3 for decode of llama-1") in doctor.sections(found)["machine"]


def test_variables_in_effect_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("EDGEINFER_OFFLINE", "1")
    found = facts(capsys)
    assert found["settings"]["variables"]["EDGEINFER_OFFLINE"] == "1"
    assert found["settings"]["variables"]["HF_TOKEN"] == "set"
    assert "hf_secret" not in json.dumps(found)
    assert env.settings() == found["settings"]["variables"]


def test_packed_weights_on_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = env.cache_dir() / "packed"
    assert ("packed weights", f"{folder} (0 MiB of 0 models; switched off)") in rows(facts(capsys))
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(3 << 20))
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "20G")
    found = facts(capsys)
    assert (found["packed"]["bytes"], found["packed"]["cap_bytes"]) == (3 << 20, 20 << 30)
    assert ("packed weights", f"{folder} (3 MiB of 1 model; at most 20.0 GiB)") in rows(found)
    monkeypatch.setenv("EDGEINFER_PACKED_CACHE", "much")
    assert "a size in EDGEINFER_PACKED_CACHE (size 'much' is not understood" in what(facts(capsys))


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    return doctor.sections(found)["folders and settings"]


def test_kinds_of_cores_in_words() -> None:
    cpu = {"n_cores": 10, "n_performance": 2, "n_efficiency": 8, "n_threads": 12, "n_usable": 4, "quota": 1.5}
    assert doctor._cores(cpu) == "10 (2 performance, 8 efficiency), 12 threads, 4 of them ours, limited to 1.5 CPUs"


@pytest.mark.parametrize(
    ("found", "operator", "wanted", "good"),
    [
        ("1.26.4", ">=", "1.26", True),
        ("1.9", ">=", "1.26", False),
        ("2", ">=", "2.0.0", True),
        ("0.3.36", "==", "0.3.36", True),
        ("0.3.36.1", "==", "0.3.36", False),
        ("2.13.0.dev1+cpu", ">=", "2.4", True),
        ("anything", "", "", True),
    ],
)
def test_versions(found: str, operator: str, wanted: str, good: bool) -> None:
    assert checkup.meets(found, operator, wanted) is good


def test_llama_built_for_another_machine() -> None:
    system = "CPU : SSE3 = 1 | AVX2 = 1 | AVX512_VNNI = 0 | LLAMAFILE = 1"
    assert checkup.lacking_features(system, ("scalar", "avx2", "avx512vnni")) == ["AVX512_VNNI"]
    assert checkup.lacking_features(system, ("scalar", "avx2")) == []
