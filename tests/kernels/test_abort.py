"""The abort flag as C sees it."""

from __future__ import annotations

import ctypes

from edgeinfer import kernels


def test_abort_flag_is_read_by_the_c_callback() -> None:
    flag = kernels.abort_flag()
    callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(flag.callback_address)
    assert callback(flag.address) is False
    flag.raise_()
    assert callback(flag.address) is True
    assert flag.raised
    flag.lower()
    assert callback(flag.address) is False
