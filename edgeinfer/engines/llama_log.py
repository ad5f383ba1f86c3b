"""llama.cpp's log: kept off the terminal, its last errors kept for the message of whoever fails.

One callback serves the whole process, because llama.cpp has one log. It knows nothing of models or requests.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque

from edgeinfer import process

__all__ = ["clear", "install", "last_errors"]

_KEPT = 8
_ERROR, _CONT = 4, 5  # enum ggml_log_level in ggml.h; the comment in llama_cpp/_logger.py is out of date

_install_lock = threading.Lock()
_lock = threading.Lock()
_lines: deque[tuple[int, str]] = deque(maxlen=_KEPT)
"""(thread, line), oldest first: a model and a vocabulary may be loading at once, and each wants its own errors."""
_callback: object | None = None  # ctypes does not keep a callback alive, so this module must
_level = 0


def _renew() -> None:
    global _install_lock, _lock
    _install_lock, _lock = threading.Lock(), threading.Lock()


process.in_forked_child(_renew)


def install() -> None:
    """Take llama.cpp's log over. Imports llama_cpp; calling it again is free."""
    global _callback
    with _install_lock:
        if _callback is not None:
            return
        import llama_cpp

        callback = llama_cpp.llama_log_callback(_log)
        llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
        _callback = callback


def _log(level: int, text: bytes | None, _user_data: int | None) -> None:
    # Called from any thread that runs llama.cpp code; an exception here would be printed by ctypes and lost.
    global _level
    if level != _CONT:
        _level = level
    if _level < _ERROR or not text:
        return
    line = text.decode("utf-8", "replace").strip()
    if not line:
        return
    thread = threading.get_ident()
    with _lock:
        if level == _CONT and _lines and _lines[-1][0] == thread:
            _lines[-1] = (thread, f"{_lines[-1][1]} {line}")
        else:
            _lines.append((thread, line))


def last_errors() -> str:
    """What llama.cpp complained of in this thread since `clear` (in any thread, where this one has nothing), in one
    line; empty when there is nothing."""
    mine = threading.get_ident()
    with _lock:
        lines = list(_lines)
    chosen = [line for thread, line in lines if thread == mine] or [line for _, line in lines]
    return "; ".join(" ".join(line.split()) for line in chosen)


def clear() -> None:
    """Forget the errors so far: call it before an operation whose errors will be quoted."""
    mine = threading.get_ident()
    with _lock:
        kept = [entry for entry in _lines if entry[0] != mine]
        _lines.clear()
        _lines.extend(kept)
