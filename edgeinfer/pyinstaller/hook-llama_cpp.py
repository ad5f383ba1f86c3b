"""PyInstaller's hook for llama-cpp-python: its library, where its loader looks for it.

Only what nothing else names is listed; what the library is linked with is found by PyInstaller, under the one name by
which it will be asked for. A build leaves every library there under three names, and a library that is loaded under two
of them has two of everything that is global in it.
"""

import importlib.util
from pathlib import Path

_LOADED_BY_NAME = ("libllama.", "llama.", "libggml-cpu-", "ggml-cpu-")
_SUFFIXES = (".so", ".dylib", ".dll")

_spec = importlib.util.find_spec("llama_cpp")
_folder = Path(_spec.origin).parent / "lib" if _spec and _spec.origin else Path()
binaries = [
    (str(path), "llama_cpp/lib")
    for path in sorted(_folder.glob("*"))
    if path.name.startswith(_LOADED_BY_NAME) and path.suffix in _SUFFIXES
]
# For tokenizers that it could take from elsewhere, and we do not. Behind it would come torch, where that is installed.
excludedimports = ["transformers"]
