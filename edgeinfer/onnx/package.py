"""A model as ONNX: the folder that `edgeinfer convert --to onnx` writes and the ONNX engine reads.

    edgeinfer.json                      what the model is, and every other file with its hash: this module's schema
    vocab.gguf                          the source's metadata and vocabulary, without tensors
    model.onnx, model.onnx.data         variants ``cpu`` and ``cuda``: one graph
    npu/…                               variant ``npu``: graphs of fixed shapes
    genai_config.json, tokenizer.json   for ONNX Runtime GenAI

Owns the schema and proves that a folder keeps to it, before any of its files is opened. Graphs are not looked into
here, and no runtime is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeinfer.errors import FormatError, ModelNotFound
from edgeinfer.onnx.fields import Fields

__all__ = [
    "FORMAT",
    "MANIFEST",
    "MODES",
    "STATIC_MODES",
    "VERSION",
    "Calibration",
    "File",
    "Hyperparameters",
    "Origin",
    "Package",
    "TensorForm",
    "Variant",
    "read",
]

FORMAT = "edgeinfer-onnx"
VERSION = 1
MANIFEST = "edgeinfer.json"
VOCABULARY = "vocab.gguf"
HIDDEN_STATES = "last_hidden_state"
"""What an encoder's graph calls its output, as everybody does."""
STATIC_MODES = ("int8-static", "int4-static")
"""Those whose products take integers in ranges that were found beforehand."""
MODES = ("keep", "f32", "f16", "bf16", "int4", "int8", "int8-dynamic", *STATIC_MODES)
FORMS = ("nbits4", "nbits8", "rows8", "float")
_MAX_MANIFEST_BYTES = 16 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """A decoder's sizes and constants. ``sliding_window``: a windowed layer sees that many tokens, its own among them;
    layer i is windowed unless ``window_pattern`` divides i + 1 (None: all are). ``rope_theta_local`` is for windowed
    layers. Where the rope is not that of ``rope_theta`` alone, ``rope_frequencies`` has the radians a position of each
    pair, and cosines and sines are multiplied by ``rope_magnitude``; where they are fewer than a head has, the rest of
    it is not rotated. In a context of more than ``n_ctx_short`` tokens, if that is given, it is
    ``rope_frequencies_long`` instead. ``head_dim``: of keys and values as they are kept, which may be more than the
    model's. Scores and logits x become cap * tanh(x / cap) where there are caps. Of ``n_experts`` feed-forward parts of
    ``n_ff`` each token goes through ``n_experts_used``; 0: there is one. ``causal``: not so of an
    encoder, whose tokens see each other, and which has hidden states instead of logits."""

    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    rope_theta: float
    norm_eps: float
    attention_scale: float
    activation: str = "silu"
    embedding_scale: float = 1.0
    rope_theta_local: float | None = None
    sliding_window: int | None = None
    window_pattern: int | None = None
    tied_embeddings: bool = False
    rope_frequencies: tuple[float, ...] | None = None
    rope_magnitude: float = 1.0
    rope_frequencies_long: tuple[float, ...] | None = None
    n_ctx_short: int | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    n_experts: int = 0
    n_experts_used: int = 0
    causal: bool = True

    def long(self, n_ctx: int) -> bool:
        """Whether a context of that many tokens is one for ``rope_frequencies_long``."""
        return self.n_ctx_short is not None and n_ctx > self.n_ctx_short

    def windowed(self, layer: int) -> bool:
        """Whether a layer looks back only ``sliding_window`` tokens."""
        return self.sliding_window is not None and (not self.window_pattern or (layer + 1) % self.window_pattern != 0)


@dataclass(frozen=True, slots=True)
class TensorForm:
    """How a tensor of the source became an initializer. ``type`` is its GGUF type; ``block`` the weights that share a
    scale (0: floats, or a row does); ``correction``: its blocks have a least value of their own, added by a second
    product. ``zero_points``: its blocks step around points of their own."""

    type: str
    form: str
    block: int
    correction: bool = False
    zero_points: bool = False


@dataclass(frozen=True, slots=True)
class File:
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the model. ``files``: all that it needs, by path in the package. ``s`` and ``n_ctx``: of graphs of
    fixed shapes, the tokens of one pass of each and the context; ``models`` names them in the order of ``s``."""

    model: str
    files: Mapping[str, File]
    s: tuple[int, ...] = ()
    n_ctx: int | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """A file, by name and hash."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """A text that a model read to find what it is to be like: its name, its hash, and how much of it was read."""

    text: str
    sha256: str
    tokens: int
    windows: int


@dataclass(frozen=True, slots=True)
class Package:
    """A package as its manifest describes it. ``tensors``: by name in the source. ``measured``: what the conversion
    cost, such as ``max_error``. ``origin``: where the source was a package, what the first of these was made from; the
    source's hash is then that of its manifest. ``calibration``: where a text decided about anything."""

    folder: Path
    name: str
    architecture: str
    hyperparameters: Hyperparameters
    source_file: str
    source_sha256: str
    converter: str
    mode: str
    tensors: Mapping[str, TensorForm]
    variants: Mapping[str, Variant]
    files: Mapping[str, File]
    measured: Mapping[str, float] = field(default_factory=dict)
    origin: Origin | None = None
    calibration: Calibration | None = None

    @property
    def vocabulary(self) -> Path:
        """The GGUF file with the tokenizer, the chat template and the metadata of the source."""
        return self.folder / VOCABULARY

    def path(self, name: str) -> Path:
        """Where a file of the package lies, proven to be a regular file inside it. Raises `FormatError`."""
        return _regular(self.folder, name)

    def manifest(self) -> dict[str, Any]:
        """The content of edgeinfer.json, of which `read` makes this object again."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "architecture": self.architecture,
            "hyperparameters": asdict(self.hyperparameters),
            "source": {"file": self.source_file, "sha256": self.source_sha256}
            | ({"origin": asdict(self.origin)} if self.origin else {}),
            "converter": self.converter,
            "quantization": {"mode": self.mode, "tensors": {name: asdict(form) for name, form in self.tensors.items()}},
            "variants": {name: _stored_variant(variant) for name, variant in self.variants.items()},
            "files": {path: asdict(file) for path, file in self.files.items()},
            "measured": dict(self.measured),
            **({"calibration": asdict(self.calibration)} if self.calibration else {}),
        }

    def json(self) -> str:
        """`manifest` as the text of the file."""
        return json.dumps(self.manifest(), indent=1) + "\n"

    def check_hashes(self) -> None:
        """Read every file of the package and hold it against its hash. Raises `FormatError`."""
        everything = dict(self.files)
        for variant in self.variants.values():
            everything |= variant.files
        for name, file in everything.items():
            digest = hashlib.sha256()
            with self.path(name).open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
            if digest.hexdigest() != file.sha256:
                raise FormatError(f"{self.folder / name} is damaged: its hash is not that in {MANIFEST}; convert again")


def read(folder: str | Path) -> Package:
    """Read a package's manifest and prove that every file it names is there, regular, inside the folder and of the
    claimed size. Hashes are left to `Package.check_hashes`.

    Raises `ModelNotFound` for a folder that is no package, `FormatError` with the field or file that is wrong.
    """
    folder = Path(folder)
    package = _parse(folder, _manifest(folder))
    for variant in package.variants.values():
        for name, file in variant.files.items():
            _check_file(folder, name, file)
    for name, file in package.files.items():
        _check_file(folder, name, file)
    return package


def _manifest(folder: Path) -> Fields:
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelNotFound(f"{folder} is no ONNX package: it has no {MANIFEST}; 'edgeinfer convert' makes one")
    _regular(folder, MANIFEST)
    with path.open("rb") as stream:
        data = stream.read(_MAX_MANIFEST_BYTES + 1)
    if len(data) > _MAX_MANIFEST_BYTES:
        raise FormatError(f"{path} is larger than {_MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    fields = Fields.of(content, str(path))
    if fields.text("format") != FORMAT:
        raise FormatError(f"{path}: format is {fields.text('format')!r}, not {FORMAT!r}")
    if fields.integer("version") != VERSION:
        raise FormatError(f"{path} is of version {fields.integer('version')}; this edgeinfer reads version {VERSION}")
    return fields


def _parse(folder: Path, top: Fields) -> Package:
    source, quantization = top.fields("source"), top.fields("quantization")
    measured = top.fields("measured")
    package = Package(
        folder=folder,
        name=top.text("name"),
        architecture=top.text("architecture"),
        hyperparameters=_hyperparameters(top.fields("hyperparameters")),
        source_file=source.text("file"),
        source_sha256=_hash(source, "sha256"),
        converter=top.text("converter"),
        mode=quantization.choice("mode", MODES),
        tensors={name: _tensor_form(form) for name, form in quantization.fields("tensors").each()},
        variants={name: _variant(variant) for name, variant in top.fields("variants").each()},
        files=_files(top.fields("files")),
        measured={name: measured.number(name) for name in measured.names},
        origin=_origin(source.fields("origin")) if source.get("origin") is not None else None,
        calibration=_calibration(top.fields("calibration")) if top.get("calibration") is not None else None,
    )
    if not package.variants:
        raise top.wrong("variants", "is empty")
    if VOCABULARY not in package.files:
        raise top.wrong("files", f"lacks {VOCABULARY}")
    return package


def _origin(fields: Fields) -> Origin:
    return Origin(fields.text("file"), _hash(fields, "sha256"))


def _hyperparameters(fields: Fields) -> Hyperparameters:
    def optional(key: str) -> int | None:
        return fields.integer(key, low=1) if fields.get(key) else None

    def cap(key: str) -> float | None:
        return fields.number(key, above=0) if fields.get(key) is not None else None

    def numbers(key: str) -> tuple[float, ...] | None:
        return tuple(fields.numbers(key)) if fields.get(key) else None

    counts = ("n_layers", "n_embd", "n_heads", "n_kv_heads", "head_dim", "n_ff", "n_vocab", "n_ctx_train")
    floats = ("rope_theta", "norm_eps", "attention_scale")
    plain: dict[str, Any] = {name: fields.integer(name, low=1, high=1 << 30) for name in counts}
    plain |= {name: fields.number(name, above=0) for name in floats}
    made = Hyperparameters(
        **plain,
        activation=fields.choice("activation", ("silu", "gelu")),
        embedding_scale=fields.number("embedding_scale", above=0),
        rope_theta_local=fields.number("rope_theta_local", above=0) if fields.get("rope_theta_local") else None,
        sliding_window=optional("sliding_window"),
        window_pattern=optional("window_pattern"),
        tied_embeddings=fields.flag("tied_embeddings"),
        rope_frequencies=numbers("rope_frequencies"),
        rope_magnitude=fields.number("rope_magnitude", above=0) if fields.get("rope_magnitude") else 1.0,
        rope_frequencies_long=numbers("rope_frequencies_long"),
        n_ctx_short=optional("n_ctx_short"),
        attention_cap=cap("attention_cap"),
        logit_cap=cap("logit_cap"),
        n_experts=optional("n_experts") or 0,
        n_experts_used=optional("n_experts_used") or 0,
        causal=fields.flag("causal") if fields.get("causal") is not None else True,
    )
    ropes = {"rope_frequencies": made.rope_frequencies, "rope_frequencies_long": made.rope_frequencies_long}
    for name, pairs in ropes.items():
        if pairs is not None and not 0 < len(pairs) <= made.head_dim // 2:
            raise fields.wrong(name, f"has {len(pairs)} of {made.head_dim // 2} pairs")
    if (made.n_ctx_short is None) != (made.rope_frequencies_long is None):
        raise fields.wrong("n_ctx_short", "comes with rope_frequencies_long, and that with it")
    if not bool(made.n_experts) == bool(made.n_experts_used) or made.n_experts_used > made.n_experts:
        raise fields.wrong("n_experts_used", f"is {made.n_experts_used} of {made.n_experts}")
    if made.n_heads % made.n_kv_heads:
        raise fields.wrong("n_kv_heads", f"is {made.n_kv_heads}, which does not divide {made.n_heads} heads")
    return made


def _tensor_form(fields: Fields) -> TensorForm:
    block = fields.integer("block", low=0, high=256)
    around = fields.get("zero_points") is not None and fields.flag("zero_points")  # packages of before have none
    return TensorForm(fields.text("type"), fields.choice("form", FORMS), block, fields.flag("correction"), around)


def _calibration(fields: Fields) -> Calibration:
    counts = (fields.integer(name, low=1) for name in ("tokens", "windows"))
    return Calibration(fields.text("text"), _hash(fields, "sha256"), *counts)


def _variant(fields: Fields) -> Variant:
    files = _files(fields.fields("files"))
    models = tuple(fields.texts("models")) if fields.get("models") is not None else ()
    made = Variant(
        fields.text("model"),
        files,
        tuple(fields.integers("s", low=1)) if fields.get("s") is not None else (),
        fields.integer("n_ctx", low=1) if fields.get("n_ctx") is not None else None,
        models,
    )
    for model in (made.model, *models):
        if model not in files:
            raise fields.wrong("model", f"names {model!r}, which is not among its files")
    if len(made.s) != len(models):
        raise fields.wrong("models", f"names {len(models)} graphs for {len(made.s)} shapes")
    return made


def _stored_variant(variant: Variant) -> dict[str, Any]:
    stored = asdict(variant)
    return {key: value for key, value in stored.items() if value not in ((), None)}


def _files(fields: Fields) -> dict[str, File]:
    found = {}
    for name, entry in fields.each():
        _plain(fields, name)
        found[name] = File(_hash(entry, "sha256"), entry.integer("bytes", low=0))
    return found


def _hash(fields: Fields, key: str) -> str:
    value = fields.text(key)
    if not _SHA256.fullmatch(value):
        raise fields.wrong(key, "is no SHA-256 in lower-case hexadecimal digits")
    return value


def _plain(fields: Fields, name: str) -> None:
    """A path that stays inside: names joined by '/', at most one folder deep."""
    parts = name.split("/")
    if len(parts) > 2 or not all(_PART.fullmatch(part) for part in parts):
        raise FormatError(f"{fields.where}: the path {name[:80]!r} could lead out of the package")


def _regular(folder: Path, name: str) -> Path:
    path = folder
    for part in name.split("/"):
        path = path / part
        if not _PART.fullmatch(part) or path.is_symlink():
            raise FormatError(f"{path} is a link or no plain name; the files of a package must lie in it")
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise FormatError(f"{folder} lacks {name}, which its {MANIFEST} names; convert again") from error
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path} is not a regular file")
    return path


def _check_file(folder: Path, name: str, file: File) -> None:
    n_bytes = _regular(folder, name).stat().st_size
    if n_bytes != file.bytes:
        raise FormatError(
            f"{folder / name} has {n_bytes} bytes, but {MANIFEST} says {file.bytes}; it is truncated or from another "
            "conversion; convert again"
        )
