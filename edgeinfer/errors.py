"""Every error edgeinfer raises on purpose.

    EdgeInferError                  exit 1   anything below; the command line prints it as one line
    ├── UsageError                  exit 2   an argument or a setting that cannot be
    │   ├── GrammarError                     a schema, regex or grammar that is wrong or unsupported
    │   └── ContextOverflow                  a prompt longer than the context; carries both numbers
    ├── InsufficientMemory          exit 3   does not fit; carries the largest context that would
    ├── ModelNotFound               exit 4   no such model in the catalogue, on disk or at its source
    ├── BackendUnavailable          exit 5   a device, provider, library or optional package is missing
    ├── FormatError                          a file is damaged or lies about itself (GGUF, session, card)
    ├── UnsupportedModel                     a sound file of a kind that we cannot run
    │   └── UnsupportedQuant                 a tensor type that we cannot run
    ├── DraftUnavailable                     a draft model that cannot be made from a model, here or at all
    ├── TemplateError                        a chat template that fails, or exceeds its limits
    ├── DownloadError                        a source that did not deliver, or delivered another file
    ├── CheckFailed                          figures that do not keep the limits they were held against
    ├── NumericError                         a model produced logits that are not numbers
    ├── EngineError                          the runtime underneath failed
    └── RequestCancelled                     the caller cancelled, or a deadline passed

A message says what, where (file, tensor, offset, field) and what to do, in one line without a final period.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailable",
    "CheckFailed",
    "ContextOverflow",
    "DownloadError",
    "DraftUnavailable",
    "EdgeInferError",
    "EngineError",
    "FormatError",
    "GrammarError",
    "InsufficientMemory",
    "ModelNotFound",
    "NumericError",
    "RequestCancelled",
    "TemplateError",
    "UnsupportedModel",
    "UnsupportedQuant",
    "UsageError",
]


class EdgeInferError(Exception):
    """Base of all errors below. ``exit_code`` is what the command line returns for it."""

    exit_code: int = 1


class UsageError(EdgeInferError):
    """An argument or setting that cannot be: unknown, out of range, or in conflict with another."""

    exit_code = 2


class GrammarError(UsageError):
    """A JSON schema, regex or grammar that is malformed or asks for something unsupported. Nothing was generated."""


class ContextOverflow(UsageError):
    """A prompt that does not fit: ``n_prompt`` tokens where the context holds ``n_ctx``."""

    def __init__(self, n_prompt: int, n_ctx: int, hint: str = "") -> None:
        super().__init__(
            f"the prompt has {n_prompt} tokens but the context holds {n_ctx}"
            + (f"; {hint}" if hint else "; shorten it, raise --ctx-size, or choose --on-overflow drop-oldest")
        )
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class InsufficientMemory(EdgeInferError):
    """The model does not fit. ``n_ctx_max`` is the largest context that would, 0 when none does."""

    exit_code = 3

    def __init__(self, message: str, n_ctx_max: int = 0) -> None:
        super().__init__(message)
        self.n_ctx_max = n_ctx_max


class ModelNotFound(EdgeInferError):
    """No such model: not in the catalogue, not a file, not at its source."""

    exit_code = 4


class BackendUnavailable(EdgeInferError):
    """A device, execution provider, shared library or optional package that is asked for is not here."""

    exit_code = 5


class FormatError(EdgeInferError):
    """A file is truncated, damaged, or contradicts itself."""


class UnsupportedModel(EdgeInferError):
    """A sound file of an architecture or kind that edgeinfer cannot run."""


class UnsupportedQuant(UnsupportedModel):
    """A sound file with a tensor type that edgeinfer cannot run."""


class DraftUnavailable(EdgeInferError):
    """A draft model cannot be made from a model: its kind does not allow it, or the disk has no room. The model itself
    can draft instead."""


class TemplateError(EdgeInferError):
    """A chat template that does not parse, fails on these messages, or exceeds its limits of time or output."""


class DownloadError(EdgeInferError):
    """A model source did not deliver, or delivered a file with another hash. What arrived so far is kept for a
    resume."""


class CheckFailed(EdgeInferError):
    """Everything ran, and the figures do not keep the limits that were asked for (``verify``, ``evaluate --gate``)."""


class NumericError(EdgeInferError):
    """Logits that are not numbers (NaN or infinite): damaged weights or a faulty kernel. No token was chosen."""


class EngineError(EdgeInferError):
    """The runtime underneath (llama.cpp, ONNX Runtime) failed at something it should be able to do."""


class RequestCancelled(EdgeInferError):
    """Raised to whoever waits for a request that was cancelled or passed its deadline."""

    exit_code = 130
