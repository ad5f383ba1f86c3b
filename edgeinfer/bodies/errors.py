"""What is wrong with a body, and with which of its fields."""

from __future__ import annotations

from edgeinfer.errors import UsageError

__all__ = ["BodyError"]


class BodyError(UsageError):
    """A body that cannot be had. ``param`` names the field at fault, where it is one."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
