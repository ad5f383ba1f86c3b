"""Our operators inside ONNX Runtime: whether they can be had, and for which models; how a session learns of them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from edgeinfer import env
from edgeinfer.errors import BackendUnavailable
from edgeinfer.kernels import library

if TYPE_CHECKING:
    import onnxruntime

    from edgeinfer.onnx.package import Hyperparameters

__all__ = ["lacking", "register", "why_not"]


def register(options: onnxruntime.SessionOptions) -> None:
    """Make our operators known to the session that is made with these options. Raises `BackendUnavailable` with
    `why_not` where they cannot be had."""
    why = why_not()
    if why:
        raise BackendUnavailable(why)
    options.register_custom_ops_library(library.load()._name)


def lacking(sizes: Hyperparameters) -> str:
    """What a model computes that our operators do not, in one line; empty where they do all of it."""
    parts = {
        "a mixture of experts": sizes.n_experts > 0,
        "capped scores": sizes.attention_cap is not None,
        "capped logits": sizes.logit_cap is not None,
    }
    found = [part for part, there in parts.items() if there]
    return f"our operators do not have {' and '.join(found)}" if found else ""


@functools.cache
def why_not() -> str:
    """Why our operators cannot run in this process, in one line; empty when they can, which was tried on a small graph
    then. Raises `BackendUnavailable` only where EDGEINFER_FORCE_ISA asks for what is not here."""
    if (env.kernels() or "").lower() in env.NO:
        return "our kernels are switched off by EDGEINFER_KERNELS"
    kernels = library.try_load()
    if isinstance(kernels, str):
        return kernels
    if library.best_isa() == "scalar":
        return "this processor has none of the instruction sets that our kernels need"
    from edgeinfer.onnx import self_test

    try:
        wrong = self_test.difference(kernels._name)
    except Exception as error:  # ONNX Runtime's errors have no common parent
        return f"our operators do not run in this ONNX Runtime: {' '.join(str(error).split())[:300]}"
    return "" if wrong <= self_test.TOLERANCE else "our operators gave a wrong result in this ONNX Runtime"
