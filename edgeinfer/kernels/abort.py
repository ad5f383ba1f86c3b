"""The flag by which a computation of llama.cpp is stopped from another thread. Knows nothing of engines."""

from __future__ import annotations

import ctypes

from edgeinfer.errors import BackendUnavailable
from edgeinfer.kernels import library


class AbortFlag:
    """A flag that llama.cpp's abort callback reads without entering Python.

    ``callback_address`` is a C function ``bool(void *)`` and ``address`` its argument; both hold as long as this object
    lives. Any thread may raise or lower the flag. Raises `BackendUnavailable` without the library.
    """

    def __init__(self) -> None:
        address = ctypes.cast(library.load().ei_flag, ctypes.c_void_p).value
        if address is None:
            raise BackendUnavailable("the kernel library has no abort callback; reinstall edgeinfer")
        self._value = ctypes.c_int32(0)
        self.callback_address: int = address
        self.address: int = ctypes.addressof(self._value)

    def raise_(self) -> None:
        """Make the callback answer True from now on."""
        self._value.value = 1

    def lower(self) -> None:
        """Make the callback answer False from now on."""
        self._value.value = 0

    @property
    def raised(self) -> bool:
        """What the callback would answer."""
        return self._value.value != 0


def abort_flag() -> AbortFlag:
    """A new flag, lowered."""
    return AbortFlag()
