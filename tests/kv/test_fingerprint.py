from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeinfer.kv.fingerprint import Fingerprint

BASE = Fingerprint(
    weights="abc",
    engine="llamacpp",
    library="0.3.36",
    kernels="0.1.0 avx2",
    kv_type="f16",
    rope=(("base", 10000.0), ("scale", 1.0)),
    settings=(("n_ctx", 4096),),
    lora=(("def", 1.0),),
)

CHANGES: tuple[dict[str, Any], ...] = (
    {"weights": "abd"},
    {"engine": "onnx"},
    {"library": "0.3.37"},
    {"kernels": "0.1.0 avx512vnni"},
    {"kernels": ""},
    {"kv_type": "q8_0"},
    {"rope": (("base", 10000.0), ("scale", 2.0))},
    {"rope": (("base", 10000.0),)},
    {"settings": (("n_ctx", 8192),)},
    {"settings": (("n_ctx", "4096"),)},
    {"settings": (("n_ctx", 4096.0),)},
    {"settings": (("n_ctx", 1),)},
    {"settings": (("n_ctx", True),)},
    {"settings": ()},
    {"lora": ()},
    {"lora": (("def", 0.5),)},
    {"lora": (("def", 1.0), ("def", 1.0))},
    # What moves from one field to its neighbour.
    {"weights": "abcllamacpp", "engine": ""},
    {"engine": "", "library": "llamacpp0.3.36"},
    {"rope": (("base", 10000.0), ("scale", 1.0), ("n_ctx", 4096)), "settings": ()},
    {"rope": (), "settings": (("base", 10000.0), ("scale", 1.0), ("n_ctx", 4096))},
)


def test_any_difference_is_another_digest() -> None:
    digests = [BASE.digest(), *(replace(BASE, **change).digest() for change in CHANGES)]
    assert len(set(digests)) == len(digests)
    assert {len(digest) for digest in digests} == {32}


def test_a_label_is_no_difference() -> None:
    named = replace(BASE, label="qwen")
    assert named.digest() == BASE.digest()
    assert named == BASE


def test_the_digest_is_the_same_tomorrow() -> None:
    """Another value would lose everybody's saved states: bump it on purpose only."""
    plain = Fingerprint(weights="w", engine="e", library="l", kernels="k", kv_type="f16")
    assert plain.digest().hex()[:16] == "e9e789c3b93698e5"


@pytest.mark.parametrize("text", ["\ud800", "日本", "a\0b"])
def test_any_text_can_be_in_it(text: str) -> None:
    assert replace(BASE, library=text).digest() != BASE.digest()
