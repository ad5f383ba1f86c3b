"""A load without a model: buffers in memory, weights in them, and a file that they are said to come from."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeinfer.kernels.recording import Buffer, Image, Recording, Weight
from edgeinfer.packed.identity import identify

GAP = 192  # between weights: what is not ours, and no business of an image


@dataclass
class FakeLoad:
    """``memory`` keeps what `load` points at."""

    load: Recording
    memory: list[ctypes.Array[ctypes.c_char]]
    model: Path
    key: str


def fake_load(folder: Path, sizes: tuple[tuple[int, ...], ...] = ((4096, 64), (70000,)), name: str = "m") -> FakeLoad:
    """``sizes``: bytes of each weight of each buffer."""
    load, memory = Recording(), []
    random = np.random.default_rng(1)
    for i, weights in enumerate(sizes):
        n_bytes = sum(weights) + GAP * len(weights)
        memory.append(ctypes.create_string_buffer(random.bytes(n_bytes), n_bytes))
        load.buffers.append(Buffer(ctypes.addressof(memory[-1]), n_bytes, mapped=False))
        at = 0
        for k, size in enumerate(weights):
            load.weights.append(Weight(f"blk.{i}.{k}".encode(), 8, i, (32, size // 32, 1), at, size))
            at += size + GAP
    model = folder / f"{name}.gguf"
    model.write_bytes(random.bytes(100_000))
    time.sleep(0.03)  # or it would be too new to be sure of
    found = identify(model)
    assert found is not None
    assert found.settled
    return FakeLoad(load, memory, model, found.key)


def holds(image: Image, fake: FakeLoad) -> bool:
    """Whether the image has the bytes of every weight of the load."""
    stored = b""
    with open(image.descriptor, "rb", closefd=False) as stream:
        stream.seek(0)
        stored = stream.read()
    for weight in fake.load.weights:
        begin = image.buffers[weight.buffer][1] + weight.offset
        expected = fake.memory[weight.buffer].raw[weight.offset : weight.offset + weight.n_bytes]
        if stored[begin : begin + weight.n_bytes] != expected:
            return False
    return [n for n, _ in image.buffers] == [
        b.n_bytes for b in fake.load.buffers
    ] and image.weights == fake.load.weights
