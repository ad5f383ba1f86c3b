"""How a sentence's embedding is made of its tokens': what sentence-transformers' files beside a checkpoint say."""

from __future__ import annotations

import re

from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.errors import UnsupportedModel
from edgeinfer.gguf.header import shown

__all__ = ["MEAN", "pooling_type"]

MEAN, _CLS, _LAST = 1, 2, 3  # llama.cpp's numbers
_MODES = {"mean": MEAN, "cls": _CLS, "lasttoken": _LAST}
_MODULE = re.compile(r"[\w][\w.-]*", re.ASCII)


def pooling_type(checkpoint: Checkpoint) -> int:
    """The number that GGUF has for it; the mean where nothing is said. Raises `UnsupportedModel` for another kind and
    for a layer of weights after it."""
    modules = checkpoint.array("modules.json") or []
    for module in modules:
        fields = Fields(module if isinstance(module, dict) else {}, str(checkpoint.folder / "modules.json"))
        kind = fields.text("type", "").rpartition(".")[2]
        if kind == "Dense":
            raise UnsupportedModel(f"{fields.where}: a layer of weights after pooling (Dense) is not convertible")
        if kind == "Pooling":
            return _mode(checkpoint, fields.text("path", "1_Pooling"))
    return MEAN


def _mode(checkpoint: Checkpoint, folder: str) -> int:
    config = checkpoint.document(f"{folder}/config.json") if _MODULE.fullmatch(folder) else None
    if config is None:
        return MEAN
    if "pooling_mode" in config:
        chosen = [config.text("pooling_mode")]
    else:
        names = ("mean_tokens", "cls_token", "lasttoken", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")
        chosen = [
            name.removesuffix("_tokens").removesuffix("_token") for name in names if config.flag(f"pooling_mode_{name}")
        ]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise UnsupportedModel(
            f"{config.where}: pooling by {shown(' and '.join(chosen))} is none of {', '.join(_MODES)}"
        )
    return _MODES[chosen[0]]
