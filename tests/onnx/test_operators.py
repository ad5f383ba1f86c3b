"""Our operators inside ONNX Runtime: the kernels' bits for any shape, any threads, any company; right numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_graphs import Floats, forced, run
from products import FORMATS, Matrix, isas, pack, product, same_bits
from tiny_models import random_weights

from edgeinfer.gguf.formats import TENSOR_TYPES
from edgeinfer.kernels.formats import FORMATS as BLOCKS
from edgeinfer.onnx import operators

pytestmark = pytest.mark.skipif(bool(operators.why_not()), reason=f"without our operators: {operators.why_not()}")

Mask = npt.NDArray[np.float16]
BEST = max(isas(), key=lambda name: isas()[name])


def matrix_of(name: str, n_rows: int, n_cols: int, rng: np.random.Generator) -> Matrix:
    kind = TENSOR_TYPES[FORMATS[name]]
    rows = np.frombuffer(random_weights(name, (n_cols, n_rows), rng), np.uint8)
    return Matrix(name, n_cols, rows.reshape(n_rows, n_cols // kind.block_size * kind.block_bytes))


def floats_of(matrix: Matrix) -> Floats:
    kind = TENSOR_TYPES[FORMATS[matrix.format]]
    blocks = BLOCKS[matrix.format].dequantize_blocks(matrix.rows.reshape(-1, kind.block_bytes))
    return blocks.reshape(-1, matrix.n_cols)


# ---- products


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(FORMATS)), min_size=1, max_size=4),
    n_rows=st.lists(st.integers(1, 90), min_size=4, max_size=4),
    biased=st.lists(st.booleans(), min_size=4, max_size=4),
    m=st.integers(1, 40),
    wide=st.booleans(),
    n_threads=st.integers(1, 3),
    isa=st.sampled_from(["scalar", BEST]),
    seed=st.integers(0, 1000),
)
def test_products_with_one_input(
    names: list[str],
    n_rows: list[int],
    biased: list[bool],
    m: int,
    wide: bool,
    n_threads: int,
    isa: str,
    seed: int,
) -> None:
    """Each is that of the scalar kernel, to the bit; formats that quantize x alike share it."""
    rng, n_cols = np.random.default_rng(seed), 1024 if wide else 256
    matrices = [matrix_of(name, n, n_cols, rng) for name, n in zip(names, n_rows, strict=False)]
    x = rng.standard_normal((m, n_cols)).astype(np.float32)
    inputs, constants, wanted = ["x"], {}, []
    for i, matrix in enumerate(matrices):
        panels = pack(matrix)
        inputs.append(f"w{i}")
        constants[f"w{i}"] = panels.bytes
        y = product(matrix, panels, x, isas()["scalar"])
        if biased[i]:
            constants[f"b{i}"] = rng.standard_normal(matrix.n_rows).astype(np.float32)
            inputs.append(f"b{i}")
            y = y + constants[f"b{i}"]
        wanted.append(y)
    with forced(isa):
        found = run(
            "Multiply",
            inputs,
            [f"y{i}" for i in range(len(matrices))],
            {"x": x[None]},
            constants,
            n_threads=n_threads,
            n_cols=n_cols,
            n_rows=[matrix.n_rows for matrix in matrices],
            formats=[FORMATS[matrix.format] for matrix in matrices],
            biased=[int(each) for each in biased[: len(matrices)]],
        )
    for y, right in zip(found, wanted, strict=True):
        assert y.shape == (1, m, right.shape[1])
        assert same_bits(y[0], right)


@pytest.mark.parametrize("m", [1, 2, 9, 40])
def test_two_terms_are_one_input_of_more_bits(m: int) -> None:
    """A hundredth of the error of one term; the same bits alone and in company, on any threads, by any kernel."""
    rng, n_cols = np.random.default_rng(m), 320
    matrices = [matrix_of("Q8_0", n, n_cols, rng) for n in (90, 7)]
    x = (rng.standard_normal((m, n_cols)) * rng.uniform(1e-3, 1e3, (m, 1))).astype(np.float32)
    x[0, :32], x[-1, 32:64] = 0, 1e-33  # blocks that have no scale
    bias = rng.standard_normal(7).astype(np.float32)
    constants = {"w0": pack(matrices[0]).bytes, "w1": pack(matrices[1]).bytes, "b1": bias}

    def products(rows: Floats, two_terms: int, n_threads: int = 2, isa: str = BEST) -> list[Any]:
        with forced(isa):
            return run(
                "Multiply",
                ["x", "w0", "w1", "b1"],
                ["y0", "y1"],
                {"x": rows[None]},
                constants,
                n_threads=n_threads,
                n_threads_batch=n_threads,
                n_cols=n_cols,
                n_rows=[90, 7],
                formats=[8, 8],
                biased=[0, 1],
                two_terms=two_terms,
            )

    found, coarse = products(x, 1), products(x, 0)
    for i, added in enumerate((np.float32(0), bias)):
        right = x.astype(np.float64) @ floats_of(matrices[i]).astype(np.float64).T + added
        off, was = (np.abs(y[i][0] - right).max(axis=1) for y in (found, coarse))
        assert (off < 0.02 * was).all()
    for n_threads, isa in ((1, BEST), (3, BEST), (2, "scalar")):
        again = products(x, 1, n_threads, isa)
        assert all(same_bits(a, b) for a, b in zip(again, found, strict=True))
    alone = products(x[-1:], 1)
    assert all(same_bits(a[0, 0], b[0, -1]) for a, b in zip(alone, found, strict=True))


def test_two_terms_of_other_formats() -> None:
    matrix = matrix_of("Q4_0", 20, 64, np.random.default_rng(1))
    sizes = {"n_cols": 64, "n_rows": [20], "formats": [2], "biased": [0]}
    feeds = {"x": np.ones((1, 1, 64), np.float32)}
    with pytest.raises(Exception, match="two_terms are for Q8_0, not format 2"):
        run("Multiply", ["x", "w"], ["y"], feeds, {"w": pack(matrix).bytes}, **sizes, two_terms=1)


def test_no_columns_at_all() -> None:
    matrix = matrix_of("Q8_0", 20, 64, np.random.default_rng(1))
    (y,) = run(
        "Multiply",
        ["x", "w"],
        ["y"],
        {"x": np.empty((1, 0, 64), np.float32)},
        {"w": pack(matrix).bytes},
        n_cols=64,
        n_rows=[20],
        formats=[8],
        biased=[0],
    )
    assert y.shape == (1, 0, 20)


# ---- norms and gates


def normalized(x: Floats, weight: Floats, skip: Floats | None = None) -> list[Any]:
    feeds = {"x": x} if skip is None else {"x": x, "skip": skip}
    inputs, outputs = (["x", "w"], ["y"]) if skip is None else (["x", "w", "skip"], ["y", "sum"])
    return run("Normalize", inputs, outputs, feeds, {"w": weight}, epsilon=1e-6)


@pytest.mark.parametrize("n", [1, 15, 16, 64, 100, 1536])
@pytest.mark.parametrize("heads", [1, 3])
def test_norms(n: int, heads: int) -> None:
    rng = np.random.default_rng(n)
    x, skip = rng.standard_normal((2, 1, 40, heads * n)).astype(np.float32)
    weight = rng.standard_normal(n).astype(np.float32)
    y, both = normalized(x, weight, skip)
    assert np.array_equal(both, x + skip)
    assert np.array_equal(normalized(x + skip, weight)[0], y)
    runs = both.astype(np.float64).reshape(40, heads, n)
    right = runs / np.sqrt((runs**2).mean(axis=2, keepdims=True) + 1e-6) * weight
    assert np.allclose(y.reshape(40, heads, n), right, rtol=3e-6, atol=1e-6)
    for i in range(40):
        assert np.array_equal(normalized(x[:, i : i + 1], weight, skip[:, i : i + 1])[0][0, 0], y[0, i])


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_gates(activation: str) -> None:
    rng = np.random.default_rng(3)
    special = np.array([0, -0.0, 1e-30, -1e-30, 30, -30, 79, -81, 1e30, -1e30, np.inf, np.nan], np.float32)
    gate = np.concatenate([special, rng.standard_normal(20_000).astype(np.float32) * 4])
    up = rng.standard_normal(gate.size).astype(np.float32)
    results = []
    for isa in ("scalar", BEST):
        with forced(isa):
            results.append(run("Gate", ["g", "u"], ["y"], {"g": gate, "u": up}, activation=activation)[0])
    assert same_bits(*results)
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        z = wide if activation == "silu" else 2 * np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
        right = wide / (1 + np.exp(-z)) * up
    usual = np.isfinite(wide) & (np.abs(wide) < 1e29)
    assert np.allclose(results[0][usual], right[usual], rtol=2e-6 if activation == "silu" else 2e-5, atol=1e-30)
    assert np.isnan(results[0][11])
    for n in (1, 7, 16, 17):  # an element is the same wherever it is in a vector
        (part,) = run("Gate", ["g", "u"], ["y"], {"g": gate[5 : 5 + n], "u": up[5 : 5 + n]}, activation=activation)
        assert same_bits(part, results[0][5 : 5 + n])


# ---- attention


class Text:
    """Sequences of tokens: queries, keys and values of each, in a pool of cells in any order."""

    def __init__(self, seed: int, *, heads: int, kv_heads: int, dim: int, kv: str, rotated: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.heads, self.kv_heads, self.dim, self.kv = heads, kv_heads, dim, kv
        self.n_cells = 96
        angles = np.arange(64)[:, None] * 0.7 ** np.arange(dim // 2)[None]
        self.tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
        self.rotated = rotated
        self.pool = np.zeros((3, 2, self.n_cells, self.cell_bytes), np.uint8)

    @property
    def cell_bytes(self) -> int:
        width = self.kv_heads * self.dim
        return width * 2 if self.kv == "f16" else width // 32 * 34

    def tokens(self, n: int) -> dict[str, Floats]:
        shapes = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        return {
            name: self.rng.standard_normal((n, heads * self.dim)).astype(np.float32) for name, heads in shapes.items()
        }

    def attend(
        self, part: dict[str, Floats], positions: list[int], cells: list[int], mask: Mask, n_threads: int = 2
    ) -> Floats:
        feeds: dict[str, Any] = {name: array[None] for name, array in part.items()}
        feeds |= {"positions": np.array(positions, np.int64), "cells": np.array(cells, np.int64), "mask": mask}
        tables = ["cos", "sin"] if self.rotated else ["", ""]
        (found,) = run(
            "Attention",
            ["q", "k", "v", *tables, "positions", "cells", "mask", "pool"],
            ["y"],
            {**feeds, "pool": self.pool},
            self.tables if self.rotated else {},
            n_threads=n_threads,
            layer=1,
            n_heads=self.heads,
            n_kv_heads=self.kv_heads,
            kv_format=1 if self.kv == "f16" else 8,
            scale=self.dim**-0.5,
        )
        out: Floats = found[0]
        return out

    def right(self, part: dict[str, Floats], positions: list[int]) -> npt.NDArray[np.float64]:
        """Of one sequence from its first token on, in plain arithmetic."""
        n, half = len(positions), self.dim // 2
        q, k, v = (part[name].astype(np.float64).reshape(n, -1, self.dim) for name in "qkv")
        if self.rotated:
            cos, sin = (self.tables[name][positions].astype(np.float64)[:, None] for name in ("cos", "sin"))

            def turned(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
                a, b = t[..., :half], t[..., half:]
                return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

            q, k = turned(q), turned(k)
        group = self.heads // self.kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("ihd,jhd->hij", q, k) * self.dim**-0.5
        scores = np.where(np.tri(n, dtype=np.bool_), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        out: npt.NDArray[np.float64] = np.einsum("hij,jhd->ihd", weights, v).reshape(n, -1)
        return out


def seen(rows: list[list[int]], n_kv: int) -> Mask:
    mask = np.full((len(rows), n_kv), -np.inf, np.float16)
    for row, cells in zip(mask, rows, strict=True):
        row[cells] = 0
    return mask


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 64), (3, 1, 32), (2, 2, 128)])
def test_attention_is_right(heads: int, kv_heads: int, dim: int, rotated: bool, kv: str) -> None:
    text = Text(1, heads=heads, kv_heads=kv_heads, dim=dim, kv=kv, rotated=rotated)
    part, n = text.tokens(40), 40
    cells = text.rng.permutation(60)[:n].tolist()
    found = text.attend(part, list(range(n)), cells, seen([cells[: i + 1] for i in range(n)], 60))
    right = text.right(part, list(range(n)))
    assert np.abs(found - right).max() < (0.004 if kv == "f16" else 0.05) * np.abs(right).max()
    used = np.zeros(text.n_cells, np.bool_)
    used[cells] = True
    assert text.pool[1][:, used].any(axis=2).all()
    assert not text.pool[1][:, ~used].any(), "a cell that is no token's was written to"
    assert not text.pool[[0, 2]].any(), "another layer was written to"


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kv=st.sampled_from(["f16", "q8_0"]),
    cuts=st.lists(st.integers(1, 39), max_size=5),
    n_threads=st.integers(1, 3),
    isa=st.sampled_from(["scalar", BEST]),
)
def test_company_and_places_change_no_bit(seed: int, kv: str, cuts: list[int], n_threads: int, isa: str) -> None:
    """Two sequences in passes of both, cut anywhere, in cells of any order, against each alone and at once."""
    alone, n = [], 40
    parts = []
    for text_seed in (seed, seed + 1):
        text = Text(text_seed, heads=4, kv_heads=2, dim=32, kv=kv)
        part = text.tokens(n)
        parts.append(part)
        alone.append(text.attend(part, list(range(n)), list(range(n)), seen([list(range(i + 1)) for i in range(n)], n)))
    shared = Text(seed, heads=4, kv_heads=2, dim=32, kv=kv)
    cells = np.random.default_rng(seed).permutation(shared.n_cells)[: 2 * n].reshape(2, n).tolist()
    ends = sorted({0, *cuts, n})
    with forced(isa):
        for begin, end in itertools.pairwise(ends):
            both = {name: np.concatenate([part[name][begin:end] for part in parts]) for name in "qkv"}
            rows = [cells[i][: at + 1] for i in (0, 1) for at in range(begin, end)]
            places = [cells[i][at] for i in (0, 1) for at in range(begin, end)]
            positions = list(range(begin, end)) * 2
            found = shared.attend(both, positions, places, seen(rows, shared.n_cells), n_threads)
            for i in (0, 1):
                assert np.array_equal(found[i * (end - begin) : (i + 1) * (end - begin)], alone[i][begin:end])


def test_many_cells_are_shared_out_among_threads() -> None:
    """Long enough for one token's cells to be dealt out in parts."""
    text = Text(5, heads=2, kv_heads=1, dim=32, kv="f16")
    text.n_cells = 6000
    text.pool = text.rng.integers(
        0, 60, (3, 2, text.n_cells, text.cell_bytes), np.uint8
    )  # small numbers, no infinities
    part, row = text.tokens(1), [list(range(6000))]
    one, many = (text.attend(part, [3], [17], seen(row, 6000), n_threads) for n_threads in (1, 4))
    assert np.array_equal(one, many)
    assert np.isfinite(one).all()


def test_a_token_that_sees_nothing() -> None:
    text = Text(6, heads=2, kv_heads=1, dim=32, kv="f16")
    part = text.tokens(2)
    found = text.attend(part, [0, 1], [4, 5], seen([[], [5]], 20))
    assert np.isfinite(found[1]).all()
    assert not np.isfinite(found[0]).any() or not found[0].any()


def test_a_key_that_is_no_number_is_an_error_where_it_cannot_be_stored() -> None:
    text = Text(7, heads=2, kv_heads=1, dim=32, kv="q8_0")
    part = text.tokens(1)
    part["k"][0, 3] = np.nan
    with pytest.raises(Exception, match=r"the\.node: a key or a value is not a number"):
        text.attend(part, [0], [0], seen([[0]], 1))
