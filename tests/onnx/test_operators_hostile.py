"""Graphs and inputs that nobody vouches for: each operator says what does not fit, and touches nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from operator_graphs import Array, run

from edgeinfer.onnx import operators

pytestmark = pytest.mark.skipif(bool(operators.why_not()), reason=f"without our operators: {operators.why_not()}")


def floats(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def integers(*values: int) -> Array:
    return np.array(values, np.int64)


def packed(n_bytes: int) -> Array:
    return np.zeros(n_bytes, np.uint8)


# 40 rows of 64 columns in Q8_0 are three panels of 16 rows of two blocks.
PANELS = 3 * 16 * 2 * 34
MULTIPLY: dict[str, Any] = {"n_cols": 64, "n_rows": [40], "formats": [8], "biased": [0]}


@pytest.mark.parametrize(
    ("feeds", "constants", "changes", "message"),
    [
        ({"x": floats(1, 2, 63)}, {}, {}, "x has rows of 63, not 64"),
        ({"x": floats(1, 2, 64).astype(np.float16)}, {}, {}, "float16|type"),
        ({"x": np.array(1, np.float32)}, {}, {}, "x has rows of 1, not 64"),
        ({}, {"w": packed(PANELS - 64)}, {}, "the packed weight has 3200 bytes, not 3264"),
        ({}, {"w": packed(PANELS).view(np.int32)}, {}, "elements of type 6, not 2"),
        ({}, {}, {"n_rows": [48, 48]}, "1 formats, 2 n_rows"),
        ({}, {}, {"n_rows": [49]}, "the packed weight has 3264 bytes, not 4352"),
        ({}, {}, {"n_rows": [0]}, "n_rows is 0"),
        ({}, {}, {"n_rows": [-5]}, "n_rows is -5"),
        ({}, {}, {"n_rows": [1 << 40]}, "n_rows is 1099511627776"),
        ({}, {}, {"n_cols": 0}, "n_cols is 0, but must be from 1"),
        ({}, {}, {"n_cols": 1 << 40}, "n_cols is 1099511627776"),
        ({}, {}, {"n_cols": 65}, "no product of format 8 with rows of 65"),
        ({}, {}, {"formats": [9]}, "no product of format 9"),
        ({}, {}, {"formats": [-1]}, "no product of format -1"),
        ({}, {}, {"formats": [1 << 32]}, "no product of format 4294967296"),
        ({}, {}, {"formats": [8] * 9}, "formats is missing, of another type, or too long"),
        ({}, {}, {"biased": [1]}, "2 inputs, not 3"),
        ({"w": packed(PANELS)}, {"w": None}, {}, "the packed weight is not an initializer"),
    ],
)
def test_products(feeds: dict[str, Array], constants: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    feeds = {"x": floats(1, 2, 64), **feeds}
    given = {name: value for name, value in {"w": packed(PANELS), **constants}.items() if value is not None}
    with pytest.raises(Exception, match=message):
        run("Multiply", ["x", "w"], ["y"], feeds, given, **{**MULTIPLY, **changes})


def test_a_bias_of_another_length() -> None:
    constants = {"w": packed(PANELS), "b": floats(39)}
    with pytest.raises(Exception, match="the bias has 39 elements, not 40"):
        run("Multiply", ["x", "w", "b"], ["y"], {"x": floats(1, 64)}, constants, **{**MULTIPLY, "biased": [1]})


@pytest.mark.parametrize("name", ["n_cols", "n_rows", "formats", "biased"])
def test_an_attribute_that_is_missing(name: str) -> None:
    rest = {key: value for key, value in MULTIPLY.items() if key != name}
    with pytest.raises(Exception, match=f"the.node: attribute {name} is missing"):
        run("Multiply", ["x", "w"], ["y"], {"x": floats(1, 64)}, {"w": packed(PANELS)}, **rest)


@pytest.mark.parametrize("n_threads", [-1, 0, 1 << 40])
def test_thread_counts_that_cannot_be(n_threads: int) -> None:
    (y,) = run(
        "Multiply",
        ["x", "w"],
        ["y"],
        {"x": floats(1, 64)},
        {"w": packed(PANELS)},
        **MULTIPLY,
        n_threads=2,
        n_threads_batch=n_threads,
    )
    assert not y.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": floats(7)}, "rows of 32 are not whole runs of the weight's 7"),
        ({"weight": floats(0)}, "not whole runs of the weight's 0"),
        ({"weight": floats(64)}, "not whole runs of the weight's 64"),
        ({"skip": floats(1, 3, 16)}, "skip is not of the shape of x"),
        ({"skip": floats(3, 32)}, "skip is not of the shape of x"),
        ({"x": floats(*[1] * 8, 32)}, "9 dimensions, more than 8"),
    ],
)
def test_norms(changes: dict[str, Array], message: str) -> None:
    feeds = {"x": floats(1, 3, 32), "weight": floats(32), "skip": floats(1, 3, 32), **changes}
    with pytest.raises(Exception, match=message):
        run("Normalize", ["x", "weight", "skip"], ["y", "sum"], feeds, epsilon=1e-5)


def test_gates() -> None:
    with pytest.raises(Exception, match="gate and up are not of one shape"):
        run("Gate", ["g", "u"], ["y"], {"g": floats(2, 8), "u": floats(2, 7)}, activation="silu")
    with pytest.raises(Exception, match="no activation is called relu"):
        run("Gate", ["g", "u"], ["y"], {"g": floats(2, 8), "u": floats(2, 8)}, activation="relu")
    with pytest.raises(Exception, match="attribute activation is missing, of another type, or too long"):
        run("Gate", ["g", "u"], ["y"], {"g": floats(2, 8), "u": floats(2, 8)}, activation="s" * 500)


# Three tokens, four heads that share two, of 32 elements; five cells.
ATTENTION: dict[str, Any] = {"layer": 1, "n_heads": 4, "n_kv_heads": 2, "kv_format": 1, "scale": 0.2}
INPUTS = ["q", "k", "v", "cos", "sin", "positions", "cells", "mask", "pool"]


def operands() -> dict[str, Array]:
    return {
        "q": floats(1, 3, 128),
        "k": floats(1, 3, 64),
        "v": floats(1, 3, 64),
        "cos": floats(10, 16),
        "sin": floats(10, 16),
        "positions": integers(0, 1, 2),
        "cells": integers(0, 1, 2),
        "mask": np.zeros((3, 5), np.float16),
        "pool": np.zeros((2, 2, 5, 128), np.uint8),
    }


@pytest.mark.parametrize(
    ("feeds", "changes", "message"),
    [
        ({"positions": integers(0, 1, 10)}, {}, "position 10 is not below 10"),
        ({"positions": integers(0, -1, 2)}, {}, "position -1 is not below 10"),
        ({"positions": integers(1 << 62, 0, 0)}, {}, "position 4611686018427387904"),
        ({"positions": integers(0, 1)}, {}, "positions or cells are not 3"),
        ({"cells": integers(0, 1, 5)}, {}, "there is no cell 5 of 5"),
        ({"cells": integers(-1, 1, 2)}, {}, "there is no cell -1 of 5"),
        ({"cells": integers(0, 1, 2, 3)}, {}, "positions or cells are not 3"),
        ({"mask": np.zeros((3, 6), np.float16)}, {}, "the mask is not .3, at most 5"),
        ({"mask": np.zeros((2, 5), np.float16)}, {}, "the mask is not .3, at most 5"),
        ({"mask": np.zeros((3, 0), np.float16)}, {}, "the mask has no cells"),
        ({"mask": np.zeros(15, np.float16)}, {}, "the mask is not"),
        ({"pool": np.zeros((1, 2, 5, 128), np.uint8)}, {}, "the pool is not .more than 1, 2, n_cells, 128"),
        ({"pool": np.zeros((2, 1, 10, 128), np.uint8)}, {}, "the pool is not"),
        ({"pool": np.zeros((2, 2, 5, 127), np.uint8)}, {}, "the pool is not"),
        ({"pool": np.zeros((2, 2, 0, 128), np.uint8)}, {}, "the pool is not"),
        ({"pool": np.zeros((2, 2, 5, 128), np.float16)}, {}, "Type"),
        ({"q": floats(1, 3, 130)}, {}, "rows of q have 130 elements"),
        ({"q": floats(1, 3, 0)}, {}, "rows of q have 0 elements"),
        ({"q": floats(1, 4, 128)}, {}, "k or v is not of 4 tokens"),
        ({"k": floats(1, 3, 32)}, {}, "k or v is not of 3 tokens"),
        ({"v": floats(1, 3, 32)}, {}, "k or v is not of 3 tokens"),
        ({"v": floats(1, 1, 192)}, {}, "k or v is not of 3 tokens"),
        ({"cos": floats(10, 17), "sin": floats(10, 17)}, {}, "wider than half a head"),
        ({"cos": floats(9, 16)}, {}, "not tables of one shape"),
        ({"cos": floats(160), "sin": floats(160)}, {}, "not tables of one shape"),
        ({}, {"layer": 2}, "the pool is not .more than 2"),
        ({}, {"layer": -1}, "layer is -1"),
        ({}, {"n_heads": 3}, "3 heads cannot share 2"),
        ({}, {"n_heads": 0}, "n_heads is 0"),
        ({}, {"n_kv_heads": 1 << 40}, "n_kv_heads is"),
        ({}, {"kv_format": 2}, "keys and values cannot be of format 2"),
        ({}, {"kv_format": 8}, "the pool is not .more than 1, 2, n_cells, 68"),
        ({}, {"scale": float("nan")}, "scale is not a number"),
        ({}, {"n_heads": 16, "n_kv_heads": 2}, "rows of q have 128 elements"),
    ],
)
def test_attention(feeds: dict[str, Array], changes: dict[str, Any], message: str) -> None:
    given = {**operands(), **feeds}
    pool = given["pool"].copy()
    with pytest.raises(Exception, match=message):
        run("Attention", INPUTS, ["y"], given, **{**ATTENTION, **changes})
    assert np.array_equal(given["pool"], pool), "what was refused was written to"


def test_attention_with_one_table() -> None:
    given = operands()
    del given["sin"]
    with pytest.raises(Exception, match="cos without sin"):
        run("Attention", [name if name != "sin" else "" for name in INPUTS], ["y"], given, **ATTENTION)


def test_a_known_answer_after_all_that() -> None:
    given = operands()
    (y,) = run("Attention", INPUTS, ["y"], given, **ATTENTION)
    assert y.shape == (1, 3, 128)
    assert (y[:, :, :32] < 1).all(), "cells that hold zeros are seen too"
    assert given["pool"][1, 1, :3].any()
