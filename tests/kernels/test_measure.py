"""The figures of ``bench --kernels``: plausible, narrowed as asked, and never of a wrong result."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from edgeinfer import kernels
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.gguf import TENSOR_TYPES
from edgeinfer.kernels import cases, library, timing
from edgeinfer.kernels.cases import Attention, Case, Matmul, Quantize, Sizes
from edgeinfer.kernels.measure import Report, known_formats, measure
from edgeinfer.kernels.timing import rate

SMALL = Sizes(
    memory_bytes=256 << 10, columns=(1, 3, 20), n_cols=512, n_floats=4096, n_kv=80, head_dim=32, seconds=0.001
)
BEST = kernels.capabilities()[-1]
KINDS = {kind.name: kind for kind in TENSOR_TYPES.values()}


def small(formats: tuple[str, ...] = (), isas: tuple[str, ...] = (), n_threads: int = 1) -> Report:
    return measure(n_threads=n_threads, formats=formats, isas=isas, sizes=SMALL)


@pytest.fixture(scope="module")
def everything() -> Report:
    return small(n_threads=2)


def test_every_format_and_instruction_set_has_figures(everything: Report) -> None:
    products = {(figure.format, figure.isa) for figure in everything.figures if figure.op == "matmul"}
    assert {name for name, _ in products} == set(known_formats())
    for name, isa in products:
        assert kernels.has_matmul(KINDS[name].id, 512)
        assert isa in kernels.capabilities()
    for name in Attention.formats:
        isas = {figure.isa for figure in everything.figures if (figure.op, figure.format) == ("attention", name)}
        assert "scalar" in isas
        assert len(isas) > 1 or len(kernels.capabilities()) == 1
    assert len(set(everything.figures)) == len(everything.figures)
    assert {figure.m for figure in everything.figures} == {1, 3, 20}


def test_figures_are_plausible(everything: Report) -> None:
    assert everything.n_threads == 2
    assert 1e8 < everything.read_bytes_per_s < 1e13
    for figure in everything.figures:
        assert 1e4 < figure.bytes_per_s < 1e13, figure
        assert (figure.ops_per_s is None) == (figure.op == "quantize")
        assert (figure.bandwidth_share is None) == (figure.op == "quantize")
        assert (figure.peak_share is None) == (figure.op != "matmul" or figure.format in ("F32", "F16", "BF16"))
        if figure.peak_share is not None and figure.ops_per_s is not None:
            peak = everything.int8_ops_per_s[figure.isa]
            assert figure.peak_share == pytest.approx(figure.ops_per_s / peak)


def test_bytes_and_operations_fit_together() -> None:
    figures = [figure for figure in small(("Q4_K", "f16", "q8_0"), (BEST,)).figures if figure.ops_per_s is not None]
    assert {(figure.op, figure.format) for figure in figures} == {
        ("matmul", "Q4_K"),
        ("matmul", "F16"),
        ("matmul", "Q8_0"),
        ("attention", "F16"),
        ("attention", "Q8_0"),
    }
    bytes_per_weight = {"Q4_K": 144 / 256, "F16": 2.0, "Q8_0": 34 / 32}
    for figure in figures:
        # Each weight serves M multiply-accumulates; each key and value M for every head of its group.
        uses = 2 * figure.m / bytes_per_weight[figure.format]
        uses *= SMALL.n_group if figure.op == "attention" else 1
        assert figure.ops_per_s == pytest.approx(figure.bytes_per_s * uses)


def test_narrowed_to_one_format_and_one_instruction_set() -> None:
    figures = small(("q8_0",), ("scalar",)).figures
    assert {(figure.op, figure.format, figure.isa) for figure in figures} == {
        ("quantize", "Q8_0", "scalar"),
        ("matmul", "Q8_0", "scalar"),
        ("attention", "Q8_0", "scalar"),
    }


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(UsageError, match=r"format is 'q9', but must be one of .*Q4_K"):
        small(("q9",))
    with pytest.raises(UsageError, match="format is 'Q2_K'"):
        small(("Q2_K",))
    with pytest.raises(UsageError, match="isa is 'sse9', but must be one of scalar"):
        small(isas=("sse9",))


@pytest.mark.parametrize("op", ["ei_matmul", "ei_attention"])
def test_no_figure_of_wrong_bits(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    made: list[Case] = [Matmul(KINDS["Q4_0"], SMALL, 1), Attention(KINDS["Q8_0"], SMALL, 1)]
    case = next(case for case in made if op == f"ei_{case.op}")
    real = library.load()

    class Wrong:
        """The library, but every product and every attention is a little off."""

        def __getattr__(self, name: str) -> Callable[..., object]:
            function: Callable[..., object] = getattr(real, name)
            return wrong if name == op else function

    def wrong(*arguments: object) -> None:
        getattr(real, op)(*arguments)
        if isinstance(case, Attention):
            case._outs[0][0, 0, 0] = np.nextafter(case._outs[0][0, 0, 0], np.float32(9))
        else:
            ctypes.c_float.from_address(int(str(arguments[7]))).value += 1

    monkeypatch.setattr(cases, "load", Wrong)
    with pytest.raises(EngineError, match=f"the {BEST} kernel of {case.op} .* at M = 3 gives other bits"):
        case.run(library.isa_number(BEST), 3)


def test_a_kernel_that_two_instruction_sets_share_is_measured_once() -> None:
    figures = small(("F32",), kernels.capabilities()).figures
    assert [figure.isa for figure in figures if figure.op == "quantize"] == ["scalar"] * 3
    scalar = library.isa_number("scalar")
    assert Quantize(KINDS["F32"], SMALL).kernel_isa(library.isa_number(BEST)) == scalar


# ---- timing


def test_a_rate_is_that_of_the_median_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads on clocks of their own: 4 units in 2 s, and once an interruption of 50 s."""
    clocks: dict[int, float] = {}

    def now() -> float:
        return clocks.get(threading.get_ident(), 0.0)

    def work(_thread: int, n_calls: int) -> int:
        clocks[threading.get_ident()] = now() + (52.0 if n_calls == 1 else 2.0)
        return 4

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=now))
    assert rate(work, 1, 60.0) == 2.0
    assert rate(work, 3, 60.0) == 6.0


def test_what_a_thread_raises_is_raised() -> None:
    def work(thread: int, n_calls: int) -> int:
        if thread == 1 and n_calls == 0:
            raise EngineError("out of order")
        return 1

    with pytest.raises(EngineError, match="out of order"):
        rate(work, 2, 0.01)


def test_an_interruption_stops_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = threading.Thread.join, []

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        calls.append(thread)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", join)
    with pytest.raises(KeyboardInterrupt):
        rate(lambda _thread, _n_calls: 1, 2, 3600.0)
    assert not any(thread.is_alive() for thread in calls)
