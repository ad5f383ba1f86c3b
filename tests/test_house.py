"""Rules of the house that no reader sees in one file: who imports whom, what exists once, what never occurs."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import edgeinfer

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgeinfer"

# Lowest first. A module imports from its own layer and those below. A new module gets its place here when it is born.
LAYERS = (
    {"errors"},
    {"core", "env", "files", "metrics", "process", "reports"},
    {"gguf", "kernels", "device", "catalog"},
    {"packed", "onnx"},
    {"coverage", "described", "engines", "memory", "memory_onnx"},
    {"sampling", "text", "kv", "speculate"},
    {"line", "loop", "request", "scheduler"},
    {
        "bench",
        "bench_prompts",
        "bodies",
        "calibrate",
        "conversation",
        "drafting",
        "embedding",
        "evaluate",
        "keeping",
        "llm",
        "opening",
        "options",
        "prompt",
        "sessions",
        "side",
        "stream",
        "tune",
        "verify",
    },
    {"__main__", "batch", "cli", "desktop", "pyinstaller", "respond", "server"},
)
LAYER = {name: depth for depth, names in enumerate(LAYERS) for name in names}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules(folder: Path = PACKAGE) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def place(path: Path) -> str:
    """``edgeinfer/text/stream.py`` -> ``text``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under ``if TYPE_CHECKING``: names that only annotations use pull nothing in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from runtime_nodes(child)


def imported(path: Path) -> set[str]:
    """Full names of what a module imports, wherever in it."""
    found = set()
    for node in runtime_nodes(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def called(node: ast.AST) -> str:
    """``a.b.c`` of a call's function; empty for anything that is not a plain name."""
    if isinstance(node, ast.Attribute):
        return f"{called(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


# ---- who imports whom


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    own = place(path)
    if own in ("__init__", "converters"):
        return
    assert own in LAYER, f"give {own} its place in LAYERS"
    for name in imported(path):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "edgeinfer" and other in LAYER:
            assert LAYER[other] <= LAYER[own], f"{name_of(path)} imports {name}, which lies above it"
        elif package == "edgeinfer":
            assert other in ("__version__", "converters"), f"{name_of(path)} imports {name}: give it a place in LAYERS"


def test_converters_and_engines_do_not_know_each_other() -> None:
    for path in modules(PACKAGE / "engines"):
        assert not [name for name in imported(path) if "converters" in name], name_of(path)
    for path in modules(ROOT / "converters"):
        assert not [name for name in imported(path) if name.startswith("edgeinfer.engines")], name_of(path)


def test_public_names() -> None:
    assert len(edgeinfer.__all__) <= 12
    for name in edgeinfer.__all__:
        assert getattr(edgeinfer, name) is not None


def test_one_version() -> None:
    match = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert match
    assert match[1] == edgeinfer.__version__


# ---- what exists once


def test_one_place_renders_templates() -> None:
    """A second renderer would be the one that forgets the sandbox (CVE-2024-34359, and its sibling years later)."""
    makers = []
    for path in [*modules(), *modules(ROOT / "converters")]:
        from_jinja = any(name.partition(".")[0] == "jinja2" for name in imported(path))
        for node in ast.walk(tree(path)):
            names = [called(node.func)] if isinstance(node, ast.Call) else []
            names = [called(base) for base in node.bases] if isinstance(node, ast.ClassDef) else names
            for name in (name.rpartition(".")[2] for name in names):
                if name.endswith("Environment") or (from_jinja and name == "Template"):
                    makers.append((name_of(path), name))
    assert [name for _, name in makers] == ["ImmutableSandboxedEnvironment"], makers


def test_the_environment_is_read_in_one_place() -> None:
    """Flags' variables are declared in cli/options.py and read by click; all others in env.py."""
    allowed = {"edgeinfer/env.py": None, "edgeinfer/cli/__init__.py": "_EDGEINFER_COMPLETE"}
    for path in modules():
        harmless = set()  # setting a variable, or handing all of them on to a child
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                harmless.add(id(node.value))
            elif isinstance(node, ast.Dict):
                harmless |= {id(value) for key, value in zip(node.keys, node.values, strict=True) if key is None}
        for node in ast.walk(tree(path)):
            if (
                isinstance(node, ast.Attribute)
                and called(node) in ("os.environ", "os.getenv")
                and id(node) not in harmless
            ):
                assert name_of(path) in allowed, f"{name_of(path)}:{node.lineno} reads the environment"
                line = path.read_text(encoding="utf-8").splitlines()[node.lineno - 1]
                assert (allowed[name_of(path)] or "") in line, f"{name_of(path)}:{node.lineno}"


def test_every_variable_is_described() -> None:
    text = (PACKAGE / "env.py").read_text(encoding="utf-8")
    description = ast.get_docstring(tree(PACKAGE / "env.py")) or ""
    for name in set(re.findall(r'"(EDGEINFER_[A-Z_]*[A-Z])"', text)):
        assert name in description, f"{name} is read but not described at the head of env.py"


# ---- what never occurs

UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "yaml.load", "tempfile.mktemp"}


@pytest.mark.parametrize("path", [*modules(), *modules(ROOT / "converters"), *modules(ROOT / "tools")], ids=name_of)
def test_nothing_unsafe(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imported(path)} & UNSAFE_MODULES
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        where = f"{name_of(path)}:{node.lineno}"
        assert called(node.func) not in UNSAFE_CALLS, where
        for keyword in node.keywords:
            if keyword.arg in ("shell", "allow_pickle"):
                assert isinstance(keyword.value, ast.Constant), where
                assert keyword.value.value is False, where


@pytest.mark.parametrize("path", [*modules(), *modules(ROOT / "converters"), *modules(ROOT / "tools")], ids=name_of)
def test_shape_of_a_module(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 500, "split it: a module is one noun"
    if text.strip():
        assert ast.get_docstring(tree(path)), "say what it owns and what it does not know"
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), (
            f"line {node.lineno}: assert vanishes under -O and says nothing to a user"
        )
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"line {node.lineno}: bare except"


def tracked() -> list[Path]:
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_or_index_is_named() -> None:
    """What is committed works on anybody's machine, through whatever index pip is set up to use."""
    machines = r"(?<![\w.}])/(?:work|root|home/\w+|Users/\w+)/"
    indexes = "|".join(re.escape(host) for host in ("pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org"))
    offence = re.compile(f"{machines}|{indexes}|TO" + "DO|FIX" + "ME")
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if offence.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)
