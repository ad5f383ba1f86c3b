"""What is wrong with a body, and with which of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeinfer.errors import UsageError

__all__ = ["BodyError", "fault"]


class BodyError(UsageError):
    """A body that cannot be had. ``param`` names the field at fault, where it is one."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def fault(found: Mapping[str, Any]) -> tuple[str, str]:
    """(the field at fault or nothing, what is wrong in one line), of an error as pydantic describes it."""
    where = ".".join(str(part) for part in found.get("loc", ()) if part != "body")
    what = "unknown field" if found.get("type") == "extra_forbidden" else str(found.get("msg", "wrong"))
    return where, (f"{where}: {what}" if where else what)[:500]
