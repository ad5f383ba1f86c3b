"""Our C++ kernels as Python sees them. Importing this never fails; see `edgeinfer.kernels.library`.

Knows nothing of models, the names of tensors, or engines.
"""

from edgeinfer.kernels.abort import AbortFlag, abort_flag
from edgeinfer.kernels.codec import dequantize, quantize, row_decoder
from edgeinfer.kernels.library import available, best_isa, capabilities, why_not
from edgeinfer.kernels.plugin import KernelReport, expected, has_matmul, install, loading, matmul_isa
from edgeinfer.kernels.probes import int8_peak, read_bandwidth
from edgeinfer.kernels.selection import top_k, top_k_softmax

__all__ = [
    "AbortFlag",
    "KernelReport",
    "abort_flag",
    "available",
    "best_isa",
    "capabilities",
    "dequantize",
    "expected",
    "has_matmul",
    "install",
    "int8_peak",
    "loading",
    "matmul_isa",
    "quantize",
    "read_bandwidth",
    "row_decoder",
    "top_k",
    "top_k_softmax",
    "why_not",
]
