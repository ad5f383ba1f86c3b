"""What a checkpoint says of how it wants to be used: its chat template and the sampling its makers chose."""

from __future__ import annotations

from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.converters.huggingface.description import Value
from edgeinfer.converters.huggingface.documents import Fields
from edgeinfer.errors import FormatError

__all__ = ["template_keys"]

_MAX_TEMPLATE = 1 << 20  # what `edgeinfer.gguf` accepts
_SAMPLING = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
_SAMPLING |= {"repetition_penalty": "penalty_repeat"}


def template_keys(checkpoint: Checkpoint) -> dict[str, Value]:
    """Metadata for them. Raises `FormatError` for a template that is too long to be one."""
    templates = _templates(checkpoint)
    keys: dict[str, Value] = {}
    for name, source in templates.items():
        if len(source) > _MAX_TEMPLATE:
            raise FormatError(f"{checkpoint.folder}: a chat template is longer than {_MAX_TEMPLATE} characters")
        keys["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = source
    others = [name for name in templates if name != "default"]
    if others:
        keys["tokenizer.chat_templates"] = others
    return keys | _sampling(checkpoint)


def _templates(checkpoint: Checkpoint) -> dict[str, str]:
    """By name; the one that is used where none is named is ``default``. A file of its own goes before the setting."""
    config = checkpoint.document("tokenizer_config.json") or Fields({}, "tokenizer_config.json")
    stated = config.raw("chat_template")
    found: dict[str, str] = {}
    if isinstance(stated, str):
        found["default"] = stated
    for entry in stated if isinstance(stated, list) else []:
        fields = Fields(entry if isinstance(entry, dict) else {}, f"{config.where}: chat_template")
        name = fields.text("name")
        if name.replace("_", "").replace("-", "").isalnum():
            found[name] = fields.text("template")
    own = checkpoint.text("chat_template.jinja")
    if own is None:
        older = checkpoint.document("chat_template.json")
        own = older.text("chat_template", "") or None if older is not None else None
    return found | ({"default": own} if own is not None else {})


def _sampling(checkpoint: Checkpoint) -> dict[str, Value]:
    generation = checkpoint.document("generation_config.json")
    if generation is None or not generation.flag("do_sample"):
        return {}
    keys: dict[str, Value] = {}
    for theirs, ours in _SAMPLING.items():
        if theirs in generation:
            number = generation.number(theirs)
            keys[f"general.sampling.{ours}"] = int(number) if theirs == "top_k" else number
    return keys
