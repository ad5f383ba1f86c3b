"""A model card for tests."""

from __future__ import annotations

import hashlib

__all__ = ["card_text"]

CARD = """
name = "tiny"
description = "a tiny model"
file = "tiny.gguf"
sha256 = "{sha256}"
bytes = {bytes}
licence = "mit"
architecture = "llama"
parameters = 1000
context = 512
quant = "Q8_0"
memory_bytes = 1000000

[template]
format = "chatml"

[[source]]
kind = "pip"
requirement = "edgeinfer-test-part{{n}}==1.0"
member = "edgeinfer_test_part{{n}}/part{{i:02}}.bin"
parts = 3
"""


def card_text(content: bytes = b"x") -> str:
    return CARD.format(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
