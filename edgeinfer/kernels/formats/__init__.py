"""The formats of weights that can be written and read, one class each. Knows nothing of the library."""

from edgeinfer.kernels.formats.bf16 import BF16
from edgeinfer.kernels.formats.block_format import FORMATS, BlockFormat
from edgeinfer.kernels.formats.f16 import F16
from edgeinfer.kernels.formats.iq4_nl import IQ4_NL
from edgeinfer.kernels.formats.q4_0 import Q4_0
from edgeinfer.kernels.formats.q4_1 import Q4_1
from edgeinfer.kernels.formats.q4_k import Q4_K
from edgeinfer.kernels.formats.q5_0 import Q5_0
from edgeinfer.kernels.formats.q5_1 import Q5_1
from edgeinfer.kernels.formats.q5_k import Q5_K
from edgeinfer.kernels.formats.q6_k import Q6_K
from edgeinfer.kernels.formats.q8_0 import Q8_0

__all__ = [
    "BF16",
    "F16",
    "FORMATS",
    "IQ4_NL",
    "Q4_0",
    "Q4_1",
    "Q4_K",
    "Q5_0",
    "Q5_1",
    "Q5_K",
    "Q6_K",
    "Q8_0",
    "BlockFormat",
]
