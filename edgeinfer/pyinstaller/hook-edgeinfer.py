"""PyInstaller's hook for edgeinfer: what is imported by its name at run time, the kernels, the models' cards."""

import importlib.util
import sys

from PyInstaller.utils.hooks import collect_submodules, copy_metadata

from edgeinfer.catalog.card import card_files
from edgeinfer.kernels import library

# Rooms that stand above `LLM` or beside it, and those that need an extra, come along where the program imports them.
_ABOVE = {"__main__", "batch", "cli", "converters", "desktop", "evaluate", "pyinstaller", "respond", "server", "verify"}


def _beneath(name: str) -> bool:
    return "." not in name or name.split(".")[1] not in _ABOVE


hiddenimports = [
    *collect_submodules("edgeinfer", filter=_beneath),
    "tomllib" if sys.version_info >= (3, 11) else "tomli",
]
if importlib.util.find_spec("huggingface_hub"):  # the extra [hf]; its names are looked up when they are used
    hiddenimports += collect_submodules("huggingface_hub", filter=lambda name: ".cli" not in name)
# Our kernels run under the llama.cpp that they were written for, and ask its package for the version.
datas = copy_metadata("llama-cpp-python") + [(str(path), "edgeinfer/models") for path in card_files()]
_kernels = library.path()
binaries = [(str(_kernels), "edgeinfer")] if _kernels is not None else []
