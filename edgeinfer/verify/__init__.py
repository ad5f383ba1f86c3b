"""Proof that two models say the same: two files, formats, devices or kernels, held against each other on one text.

    verify(Side.parse("a.gguf"), Side.parse("a.gguf@kernels=off"), Scope(shipped_text(), shipped_prompts())) -> Report

Along the text both are asked what comes next whatever they would have said themselves (`reading`); prompts they
continue by themselves (`greedy`). `report` has the figures, `judge` the verdict, `page` draws them.
"""

from edgeinfer.verify.compare import compare, verify
from edgeinfer.verify.report import Report, Thresholds
from edgeinfer.verify.scope import Scope, shipped_prompts, shipped_text

__all__ = ["Report", "Scope", "Thresholds", "compare", "shipped_prompts", "shipped_text", "verify"]
