"""Small models to make drafts of: each architecture that a draft can have, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf_files import F32, STRING, U32, File, Tensor
from tiny_models import runnable

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
N_VOCAB = 300


class Heard:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.updates: list[tuple[int, int]] = []

    def update(self, done_bytes: int, total_bytes: int) -> None:
        self.updates.append((done_bytes, total_bytes))

    def note(self, text: str) -> None:
        self.notes.append(text)


def small_model(architecture: str = "llama", *, tied: bool = False, default: str = "Q8_0", seed: int = 0) -> File:
    """Two layers of 256 and a vocabulary of 300, of which the first 256 are bytes. ``tied``: no output head of its
    own."""
    made = runnable(default=default, seed=seed)
    made.keys = {key.replace("llama.", f"{architecture}.", 1): stored for key, stored in made.keys.items()}
    made.keys["general.architecture"] = (STRING, architecture)
    if tied:
        made.tensors = [tensor for tensor in made.tensors if tensor.name != "output.weight"]
    rng = np.random.default_rng(seed + 1)

    def vector(name: str, n: int, around: float) -> Tensor:
        data = (around + 0.1 * rng.standard_normal(n)).astype(np.float32)
        return Tensor(name, (n,), data=data.tobytes())

    for layer in (f"blk.{i}" for i in range(2)):
        if architecture == "qwen2":
            made.tensors += [vector(f"{layer}.attn_{x}.bias", n, 0) for x, n in (("q", 256), ("k", 128), ("v", 128))]
        if architecture in ("qwen3", "gemma3"):
            made.tensors += [vector(f"{layer}.attn_{x}_norm.weight", 64, 1) for x in "qk"]
        if architecture == "gemma3":
            made.tensors += [vector(f"{layer}.post_{x}_norm.weight", 256, 1) for x in ("attention", "ffw")]
    if architecture == "gemma3":
        made.keys["gemma3.attention.sliding_window"] = (U32, 32)
        made.keys["gemma3.rope.freq_base"] = (F32, 10000.0)
    return made


def written(made: File, folder: Path, name: str = "tiny.gguf") -> Path:
    return made.write(folder / name)
