"""Every environment variable and every folder that edgeinfer reads, in one place.

Command-line flags have variables of their own (``EDGEINFER_MODEL``, ``EDGEINFER_CTX_SIZE``, …), read where the flags
are declared, in `edgeinfer.cli.options`; flag > variable > config file > default.

    EDGEINFER_HOME      one folder for everything (models, sessions, config) instead of the platform's usual places
    EDGEINFER_MODELS    where models are kept
    EDGEINFER_OFFLINE   1: never touch the network (HF_HUB_OFFLINE=1 means the same)
    EDGEINFER_API_KEY   what a server at --endpoint knows us by, and who asks ours with --api-key
    EDGEINFER_DEBUG     1: show the traceback of whatever fails
    EDGEINFER_FORCE_ISA kernels of this instruction set only; an error where the machine lacks it
    EDGEINFER_KERNELS   0: the engine's own kernels instead of ours; a path: the build of our library to load
    EDGEINFER_PACKED_CACHE
                        0: keep no packed weights on disk; a size such as 20G: how much they may take (default 8G)
    HF_HOME, HF_TOKEN   honoured by huggingface_hub
    NO_COLOR            no colour, whatever the terminal
    RAY_ADDRESS         the Ray cluster that --engine ray looks for first
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = [
    "NO",
    "api_key",
    "cache_dir",
    "config_file",
    "data_dir",
    "debug",
    "force_isa",
    "kernels",
    "models_dir",
    "no_color",
    "offline",
    "packed_cache",
    "ray",
    "settings",
    "variable",
]

_APP = "edgeinfer"
NO = ("0", "false", "no", "off")
"""Words that switch something off, in lower case, wherever one may be written."""


def variable(name: str) -> str | None:
    """The value of an environment variable; empty counts as unset."""
    return os.environ.get(name) or None


def _truth(name: str) -> bool:
    return (variable(name) or "0").strip().lower() not in NO


def _home() -> Path | None:
    home = variable("EDGEINFER_HOME")
    return Path(home).expanduser() if home else None


def cache_dir() -> Path:
    """What can be made again: models, measurements. Not created here."""
    home = _home()
    return home / "cache" if home else Path(platformdirs.user_cache_dir(_APP, appauthor=False))


def data_dir() -> Path:
    """What is the user's own: sessions, history. Not created here."""
    home = _home()
    return home / "data" if home else Path(platformdirs.user_data_dir(_APP, appauthor=False))


def config_file() -> Path:
    """The user's ``config.toml``; it need not exist."""
    home = _home()
    return (home if home else Path(platformdirs.user_config_dir(_APP, appauthor=False))) / "config.toml"


def models_dir() -> Path:
    """Where pulled models lie."""
    folder = variable("EDGEINFER_MODELS")
    return Path(folder).expanduser() if folder else cache_dir() / "models"


def api_key() -> str | None:
    """The key for a server that is asked. Never printed."""
    return variable("EDGEINFER_API_KEY")


def offline() -> bool:
    """True when nothing may be fetched."""
    return _truth("EDGEINFER_OFFLINE") or _truth("HF_HUB_OFFLINE")


def debug() -> bool:
    """True when a failure should show its traceback."""
    return _truth("EDGEINFER_DEBUG")


def force_isa() -> str | None:
    """The instruction set that kernels are held to, if one is forced."""
    return variable("EDGEINFER_FORCE_ISA")


def kernels() -> str | None:
    """``EDGEINFER_KERNELS``: a word of no, or the path of a library; None when unset."""
    return variable("EDGEINFER_KERNELS")


def packed_cache() -> str | None:
    """``EDGEINFER_PACKED_CACHE``: a word of yes or no, or a size; None when unset."""
    return variable("EDGEINFER_PACKED_CACHE")


def no_color() -> bool:
    """True when output must carry no colour (https://no-color.org: any non-empty value)."""
    return variable("NO_COLOR") is not None


def ray() -> str | None:
    """``RAY_ADDRESS``. Before Ray is imported: it is to tell nobody that it is used, and to ask a cluster that does not
    answer once, not for a quarter of an hour, unless the user's variables say otherwise."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    return variable("RAY_ADDRESS")


def settings() -> dict[str, str]:
    """Every variable in effect that changes what edgeinfer does, for `doctor`; of a secret only that it is set."""
    others = ("HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "NO_COLOR")
    names = sorted(name for name in os.environ if name.startswith("EDGEINFER_")) + list(others)
    return {name: "set" if name.endswith(("_TOKEN", "_KEY")) else os.environ[name] for name in names if variable(name)}
