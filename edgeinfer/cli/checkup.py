"""What ``edgeinfer doctor`` finds out: each part of the machine and of the installation asked once, as plain data.

Measures memory bandwidth and arithmetic (about a second); knows nothing of how it is shown. A part that fails to answer
becomes an entry under ``missing``, never an exception: the doctor has to speak where nothing else works.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeinfer import __version__, device, env, kernels
from edgeinfer.errors import EdgeInferError, ModelNotFound

__all__ = ["examine"]

Facts = dict[str, Any]

# What llama.cpp's system line must say where our kernels find a feature: else it was built for another machine.
_BUILT_FOR = {"avx2": "AVX2", "avx512vnni": "AVX512_VNNI", "neon_dotprod": "DOTPROD", "neon_i8mm": "MATMUL_INT8"}
_LLAMA_AGAIN = "pip install --force-reinstall --no-deps --no-cache-dir"
_EXTRAS = {"hf": "models named hf:owner/repo"}  # extras whose absence a user may run into
_LITTLE_MEMORY = 512 << 20
_LITTLE_DISK = 2 << 30


def examine() -> Facts:
    """Everything, as one JSON-ready object; ``usable`` is False when no model can run."""
    missing: list[Facts] = []
    facts = {
        "edgeinfer": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(missing),
        "memory": _memory(missing),
        "power": _power(),
        "threads": _threads(missing),
        "engines": _engines(missing),
        "devices": _devices(),
        "libraries": _libraries(missing),
        "models": _models(missing),
        "folders": _folders(missing),
        "packed": _packed(missing),
        "kv_cache": _kv_cache(missing),
        "settings": {
            "config_file": str(env.config_file()),
            "exists": env.config_file().exists(),
            "variables": env.settings(),
        },
    }
    return {"usable": not any(entry["fatal"] for entry in missing), **facts, "missing": missing}


def _lack(missing: list[Facts], what: str, how: str, *, fatal: bool = False) -> None:
    missing.append({"what": what, "how": how, "fatal": fatal})


# ---- the machine


def _cpu(missing: list[Facts]) -> Facts:
    cpu = device.cpu()
    facts: Facts = {
        "model": cpu.model,
        "architecture": cpu.architecture,
        "n_cores": cpu.n_cores(),
        "n_performance": cpu.n_cores("performance"),
        "n_efficiency": cpu.n_cores("efficiency"),
        "n_threads": cpu.n_logical,
        "n_usable": len(device.usable_cpus()),
        "quota": device.cpu_quota(),
        "features": [],
        "isa": None,
        "read_bytes_per_s": None,
        "int8_ops_per_s": None,
        "n_threads_measured": device.default_threads(),
    }
    if not kernels.available():
        _lack(missing, f"our CPU kernels ({kernels.why_not()})", "make setup in the clone, with a C++ compiler at hand")
        return facts
    try:
        facts["features"] = list(kernels.capabilities())
        facts["isa"] = kernels.best_isa()
        facts["read_bytes_per_s"] = kernels.read_bandwidth(facts["n_threads_measured"])
        facts["int8_ops_per_s"] = kernels.int8_peak(facts["n_threads_measured"])
    except EdgeInferError as error:
        _lack(missing, str(error), "change or unset EDGEINFER_FORCE_ISA", fatal=True)
    except MemoryError:
        _lack(missing, "memory to measure its bandwidth", "close other programs")
    return facts


def _memory(missing: list[Facts]) -> Facts:
    """``available_bytes`` is what this process may have in all, the limits of containers included."""
    import psutil

    from edgeinfer import memory

    available = memory.available()
    if available < _LITTLE_MEMORY:
        how = "close other programs, or take a smaller model"
        _lack(missing, f"memory: only {available / 2**20:.0f} MiB may be used", how)
    return {"total_bytes": int(psutil.virtual_memory().total), "available_bytes": available}


def _power() -> Facts | None:
    state = device.battery()
    return None if state is None else {"percent": state.percent, "plugged_in": state.plugged_in}


def _threads(missing: list[Facts]) -> Facts:
    from edgeinfer import tune

    tuned: list[Facts] = []
    with contextlib.suppress(EdgeInferError):  # a forced instruction set that is not there: said by _cpu
        machine = device.machine_key()
        tuned = [
            {"model": entry.model, "n_threads": entry.n_threads, "n_threads_batch": entry.n_threads_batch}
            for entry in tune.remembered()
            if entry.machine == machine
        ]
    if not tuned:
        _lack(missing, "measured thread counts (the default is used)", "edgeinfer tune")
    return {"default": device.default_threads(), "tuned": tuned}


# ---- what runs models


def _engines(missing: list[Facts]) -> list[Facts]:
    return [_llamacpp(missing), _onnxruntime(missing)]


def _llamacpp(missing: list[Facts]) -> Facts:
    facts: Facts = {"name": "llamacpp", "package": "llama-cpp-python", "version": None, "system": "", "gpu": False}
    try:
        import llama_cpp

        facts["version"] = llama_cpp.__version__
        facts["system"] = llama_cpp.llama_print_system_info().decode(errors="replace").strip(" |")
        facts["gpu"] = bool(llama_cpp.llama_supports_gpu_offload())
    except Exception as error:  # a shared library that does not load raises all sorts of errors
        wanted = _requirement("llama-cpp-python")
        _lack(missing, f"llama.cpp ({' '.join(str(error).split())})", f"pip install {wanted}", fatal=True)
        return facts
    lacking = [] if not kernels.available() else lacking_features(facts["system"], _features())
    if lacking:
        what = f"{', '.join(lacking)} in llama.cpp's build, though this processor has it"
        _lack(missing, what, f"{_LLAMA_AGAIN} {_requirement('llama-cpp-python')}")
    return facts


def _features() -> tuple[str, ...]:
    with contextlib.suppress(EdgeInferError):
        return kernels.capabilities()
    return ()


def lacking_features(system: str, features: tuple[str, ...]) -> list[str]:
    """Instruction sets of this machine that llama.cpp's system line (``AVX2 = 1 | …``) does not claim."""
    built = {name for name, value in re.findall(r"(\w+) = (\d+)", system) if value != "0"}
    return [name for feature, name in _BUILT_FOR.items() if feature in features and name not in built]


def _onnxruntime(missing: list[Facts]) -> Facts:
    facts: Facts = {"name": "onnxruntime", "package": "onnxruntime", "version": None, "providers": []}
    try:
        import onnxruntime

        facts["version"] = onnxruntime.__version__
        facts["providers"] = list(onnxruntime.get_available_providers())
    except Exception as error:
        _lack(missing, f"ONNX Runtime ({' '.join(str(error).split())})", f"pip install '{_requirement('onnxruntime')}'")
    return facts


def _devices() -> list[Facts]:
    """Where models can run: what is on this machine, as far as that can be told, and which execution providers of ONNX
    Runtime are installed for it."""
    from edgeinfer.engines import devices

    usable = _providers()
    found: list[Facts] = [{"name": "cpu", "present": True, "usable": True, "providers": ["cpu"], "note": ""}]
    for name, present in (("gpu", _has_nvidia()), ("npu", _has_npu())):
        words = sorted({each.provider.word for each in devices.choices(name)} & set(usable))
        note = "" if words else f"present, but not usable; {devices.how_to_get(name)}" if present else "none found"
        found.append({"name": name, "present": present, "usable": bool(words), "providers": words, "note": note})
    return found


def _providers() -> list[str]:
    """The words of the execution providers that are installed."""
    try:
        from edgeinfer.engines import ort_provider

        return ort_provider.usable()
    except Exception:  # `_onnxruntime` says what is the matter with it
        return []


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _has_npu() -> bool:
    """Linux has a device file for each; every Apple processor has one; Windows does not tell cheaply."""
    return any(Path("/dev/accel").glob("accel*")) or (sys.platform == "darwin" and platform.machine() == "arm64")


# ---- what is installed, and where things lie


def _requirements() -> Iterator[tuple[str, str, str, str]]:
    """(name, operator, version, extra) of everything that our own metadata asks of this Python."""
    for text in importlib.metadata.requires("edgeinfer") or ():
        requirement, _, marker = text.partition(";")
        match = re.match(r"\s*([\w.-]+)(?:\[.*?\])?\s*(==|>=)?\s*([\w.]*)", requirement)
        older = re.search(r"python_version\s*<\s*['\"]([\d.]+)", marker)
        if match and not (older and sys.version_info[:2] >= _numbers(older[1])):
            extra = re.search(r"extra\s*==\s*['\"](\w+)", marker)
            yield match[1], match[2] or "", match[3], extra[1] if extra else ""


def _requirement(name: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return next((f"{n}{operator}{version}" for n, operator, version, _ in _requirements() if n == name), name)
    return name


def _numbers(version: str) -> tuple[int, ...]:
    """``1.26.4rc1`` -> (1, 26, 4): enough to compare releases with."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version)[0]))


def meets(found: str, operator: str, wanted: str) -> bool:
    """Whether a version satisfies ``==`` or ``>=`` another; trailing zeros count for nothing."""
    have, want = _numbers(found), _numbers(wanted)
    width = max(len(have), len(want))
    have, want = have + (0,) * (width - len(have)), want + (0,) * (width - len(want))
    return {"==": have == want, ">=": have >= want}.get(operator, True)


def _libraries(missing: list[Facts]) -> list[Facts]:
    """Required libraries, and those of extras that are installed; ``ok`` is whether the version fits."""
    entries, seen = [], set()
    try:
        requirements = list(_requirements())
    except importlib.metadata.PackageNotFoundError:
        _lack(missing, "edgeinfer's own package data: it runs from a folder that was not installed", "make setup")
        return []
    for name, operator, version, extra in requirements:
        try:
            found: str | None = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = _stand_in(name)
        if name in seen or (found is None and extra):
            if extra in _EXTRAS and found is None:
                _lack(missing, f"{name}, for {_EXTRAS[extra]}", f"pip install '{name}{operator}{version}'")
            continue
        seen.add(name)
        ok = found is not None and meets(found, operator, version)
        entries.append({"name": name, "wanted": operator + version, "found": found, "extra": extra, "ok": ok})
        if not ok:
            _lack(
                missing,
                f"{name} {operator}{version} (here: {found or 'none'})",
                f"pip install '{name}{operator}{version}'",
            )
    return entries


def _stand_in(name: str) -> str | None:
    """The version of a package that is installed in the place of another: ONNX Runtime has one for each provider."""
    from edgeinfer.engines import devices

    if name == "onnxruntime":
        for package in {package.name for each in devices.PROVIDERS.values() for package in each.built_in}:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(package)
    return None


def _models(missing: list[Facts]) -> list[Facts]:
    """Models of the catalogue that are here, and other GGUF files beside them."""
    from edgeinfer import catalog

    found: list[Facts] = []
    for name in catalog.cards():
        try:
            path = catalog.resolve(name).path
        except ModelNotFound:
            if name == catalog.DEFAULT_MODEL:
                _lack(missing, f"the default model {name}", f"edgeinfer models pull {name}")
            continue
        except EdgeInferError as error:
            _lack(missing, f"a sound {name} ({error})", f"edgeinfer models pull {name}")
            continue
        found.append({"name": name, "path": str(path), "bytes": path.stat().st_size, **_about(path, name)})
    for path in catalog.packages():
        found.append({"name": None, "path": str(path), "bytes": catalog.size_bytes(path), **_about(path, None)})
    known = {entry["path"] for entry in found}
    for path in sorted(env.models_dir().glob("*.gguf")):
        if str(path) not in known and path.is_file():
            found.append({"name": None, "path": str(path), "bytes": path.stat().st_size, **_about(path, None)})
    return found


def _about(path: Path, name: str | None) -> Facts:
    """Which kernels a model gets, as the fields of `Coverage`, and what is known about drafts for it; of one that
    cannot be read, None and why."""
    from edgeinfer import catalog, described
    from edgeinfer.cli import drafts
    from edgeinfer.coverage import expected_coverage

    card = catalog.cards()[name] if name else None
    try:
        file = described.read(path)
        covered = expected_coverage(file)
        about = drafts.about(card, described.info(file, name=path.stem))
    except EdgeInferError as error:
        return {"kernels": None, "problem": str(error), **drafts.partner_facts(card), "costs": []}
    return {"kernels": dataclasses.asdict(covered), "problem": None, **about}


def _packed(missing: list[Facts]) -> Facts:
    """The images of packed weights; ``cap_bytes`` is 0 where they are switched off."""
    from edgeinfer import packed

    used, cap_bytes = packed.usage(), 0
    try:
        cap_bytes = packed.cap_bytes()
    except EdgeInferError as error:
        _lack(missing, f"a size in EDGEINFER_PACKED_CACHE ({error})", "change or unset it")
    return {
        "path": str(packed.folder()),
        "n_images": used.n_images,
        "bytes": used.n_bytes,
        "cap_bytes": cap_bytes,
    }


def _kv_cache(missing: list[Facts]) -> Facts:
    """The saved states of conversations."""
    from edgeinfer.kv.store import Store

    store = Store(said=lambda line: _lack(missing, f"a cache of conversations: {line}", "edgeinfer cache clear"))
    facts: Facts = {"path": str(store.folder), "n_states": 0, "bytes": 0}
    try:
        found = store.stats()
    except OSError as error:
        _lack(missing, f"the right to read {store.folder}: {error.strerror}", "EDGEINFER_HOME: another folder")
        return facts
    return facts | {"n_states": found.n_entries, "bytes": found.n_bytes}


def _folders(missing: list[Facts]) -> list[Facts]:
    folders: list[Facts] = []
    for purpose, path in (("models", env.models_dir()), ("cache", env.cache_dir()), ("data", env.data_dir())):
        there = next((folder for folder in (path, *path.parents) if folder.exists()), None)
        folders.append(
            {
                "purpose": purpose,
                "path": str(path),
                "exists": there == path,
                "writable": there is not None and os.access(there, os.W_OK),
                "free_bytes": shutil.disk_usage(there).free if there else 0,
            }
        )
    for folder in folders:
        if not folder["writable"]:
            _lack(
                missing, f"the right to write to {folder['path']}", "EDGEINFER_HOME or EDGEINFER_MODELS: another folder"
            )
    free: int = folders[0]["free_bytes"]
    if free < _LITTLE_DISK:
        _lack(missing, f"disk for models: {free / 2**30:.1f} GiB free", "edgeinfer models rm NAME, or EDGEINFER_MODELS")
    return folders
