"""What a library owes the program it lives in: silence until it is asked, and a clear word after a fork.

A fork copies memory but no threads. In the child an engine's thread is missing, and locks stay as they were in that
moment, held by nobody who could give them back: whoever waited would wait for ever.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from edgeinfer.errors import EngineError

__all__ = ["LOG", "Birthplace", "in_forked_child"]

LOG = logging.getLogger("edgeinfer")
# Without a handler Python prints warnings on standard error, which belongs to the program.
LOG.addHandler(logging.NullHandler())


class Birthplace:
    """The process that something with threads was made in; it works there only."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raises `EngineError` in any other process."""
        if not self.is_here:
            raise EngineError(
                f"this model was opened in process {self._pid} and its threads did not come along when that forked; "
                "open the model in this process"
            )


def in_forked_child(renew: Callable[[], None]) -> None:
    """Have ``renew`` called in every child that is forked from now on, before anything else runs there: to make locks
    new. Does nothing where there is no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
