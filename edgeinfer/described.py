"""A model as it lies on disk, whatever its form: a GGUF file, or an ONNX package whose vocabulary is one.

    read(path)         -> GGUFFile | Package     what it is, proven from its header or manifest alone
    info(model)        -> ModelInfo              what people and records want to know of it
    sizes(model)       -> Dimensions
    vocabulary(model)  -> Path                   the GGUF file with tokenizer and template
    engine_of(model)   -> str                    which engine runs it

Loads nothing and knows no engine but by name.
"""

from __future__ import annotations

import math
from pathlib import Path

from edgeinfer import gguf
from edgeinfer.core import ModelInfo
from edgeinfer.errors import UnsupportedModel, UsageError
from edgeinfer.gguf import TENSOR_TYPES, Dimensions, GGUFFile
from edgeinfer.onnx import package as packages
from edgeinfer.onnx.package import Package

__all__ = [
    "Described",
    "engine_of",
    "info",
    "read",
    "shape_of",
    "shown_name",
    "sizes",
    "vocabulary",
    "vocabulary_file",
    "weight_files",
]

Described = GGUFFile | Package

_ENGINES = {"auto", "llamacpp", "onnx"}


def read(path: Path, engine: str = "auto") -> Described:
    """Raises what `edgeinfer.gguf.read` and `edgeinfer.onnx.package.read` raise, and `UnsupportedModel` where
    ``engine`` does not run this form."""
    model = packages.read(path) if path.is_dir() else gguf.read(path)
    own = engine_of(model)
    if engine not in ("auto", own) and engine in _ENGINES:
        advice = (
            f"make one with: edgeinfer convert {path} DIR --to onnx"
            if engine == "onnx"
            else "give the .gguf file itself"
        )
        form = "ONNX packages" if engine == "onnx" else "GGUF files"
        raise UnsupportedModel(f"engine {engine} runs {form}, and {path} is none; {advice}")
    if engine not in _ENGINES:
        raise UsageError(f"no engine {engine!r}; there are: {', '.join(sorted(_ENGINES))}")
    return model


def engine_of(model: Described) -> str:
    return "onnx" if isinstance(model, Package) else "llamacpp"


def vocabulary(model: Described) -> Path:
    """A file that `edgeinfer.text.Tokenizer.from_gguf` takes."""
    return model.vocabulary if isinstance(model, Package) else model.path


def vocabulary_at(path: Path) -> Path:
    """`vocabulary` of a model that has not been read, and of which nothing else need be sound."""
    return packages.read(path).vocabulary if path.is_dir() else path


def vocabulary_file(model: Described) -> GGUFFile:
    """Its header."""
    return gguf.read_structure(model.vocabulary) if isinstance(model, Package) else model


def sizes(model: Described) -> Dimensions:
    """Raises `FormatError`."""
    return gguf.dimensions(vocabulary_file(model))


def shown_name(model: Described) -> str:
    """What a message calls it: the file's name, or the folder's."""
    return model.folder.resolve().name if isinstance(model, Package) else model.path.name


def weight_files(package: Package) -> list[Path]:
    """The files that a package's answers depend on: those of all its variants."""
    names = {name for variant in package.variants.values() for name in variant.files}
    return [package.path(name) for name in sorted(names)]


def info(model: Described, *, name: str | None = None) -> ModelInfo:
    """Raises as `read`."""
    if not isinstance(model, Package):
        return gguf.model_info(model, name=name)
    file, dims, hyper = vocabulary_file(model), sizes(model), model.hyperparameters
    n_bytes = {variant: sum(part.bytes for part in files.files.values()) for variant, files in model.variants.items()}
    n_params, quant_mix = _parameters(model)
    template, licence = file.metadata.get("tokenizer.chat_template"), file.metadata.get("general.license")
    first = next(iter(n_bytes.values()))
    return ModelInfo(
        name=name or model.name,
        path=str(model.folder),
        architecture=model.architecture,
        file_bytes=sum(n_bytes.values()) + sum(part.bytes for part in model.files.values()),
        n_params=n_params,
        n_vocab=dims.n_vocab,
        n_ctx_train=hyper.n_ctx_train,
        n_layers=hyper.n_layers,
        n_embd=hyper.n_embd,
        n_heads=hyper.n_heads,
        n_kv_heads=hyper.n_kv_heads,
        head_dim=hyper.head_dim,
        quant_mix=quant_mix,
        bits_per_weight=8 * n_bytes.get("cpu", first) / n_params,
        chat_template=template if isinstance(template, str) else None,
        licence=licence if isinstance(licence, str) else None,
    )


def shape_of(package: Package, tensor: str) -> tuple[int, int]:
    """(rows, columns) of a matrix, which its name and the hyper-parameters say; (0, 0) for what is no matrix."""
    hyper = package.hyperparameters
    q, kv = hyper.n_heads * hyper.head_dim, hyper.n_kv_heads * hyper.head_dim
    shapes = {
        "token_embd": (hyper.n_vocab, hyper.n_embd),
        "output": (hyper.n_vocab, hyper.n_embd),
        "position_embd": (0 if hyper.causal else hyper.n_ctx_train, hyper.n_embd),
        "attn_qkv": (q + 2 * kv, hyper.n_embd),
        "attn_q": (q, hyper.n_embd),
        "attn_k": (kv, hyper.n_embd),
        "attn_v": (kv, hyper.n_embd),
        "attn_output": (hyper.n_embd, q),
        "ffn_gate": (hyper.n_ff, hyper.n_embd),
        "ffn_up": (hyper.n_ff, hyper.n_embd),
        "ffn_down": (hyper.n_embd, hyper.n_ff),
        "ffn_gate_inp": (hyper.n_experts, hyper.n_embd),
        "ffn_gate_exps": (hyper.n_experts * hyper.n_ff, hyper.n_embd),
        "ffn_up_exps": (hyper.n_experts * hyper.n_ff, hyper.n_embd),
        "ffn_down_exps": (hyper.n_experts * hyper.n_embd, hyper.n_ff),
    }
    stem = tensor.removesuffix(".weight").rpartition(".")[2] if tensor.endswith(".weight") else ""
    return shapes.get(stem, (0, 0))


def _parameters(package: Package) -> tuple[int, dict[str, float]]:
    """How many weights the matrices of a package hold, and the share of each type of the source in their bytes."""
    bits = {kind.name: kind.bits_per_weight for kind in TENSOR_TYPES.values()}
    by_type: dict[str, float] = {}
    n_params = 0
    for name, form in package.tensors.items():
        n = math.prod(shape_of(package, name))
        n_params += n
        by_type[form.type] = by_type.get(form.type, 0.0) + n * bits.get(form.type, 32.0)
    total = sum(by_type.values()) or 1.0
    mix = {name: part / total for name, part in sorted(by_type.items(), key=lambda item: (-item[1], item[0])) if part}
    return max(1, n_params), mix
