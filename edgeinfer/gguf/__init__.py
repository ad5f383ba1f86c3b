"""GGUF files: one bounds-checked reader, the checks of what a model claims about itself, and a summary for people.

    read(path)               -> GGUFFile     a model, all its parts: structure proven, and what it says of itself is
                                             consistent, so that llama.cpp may be given it
    read_structure(path)     -> GGUFFile     any GGUF file, or one part of a split model: structure alone
    dimensions(file)         -> Dimensions   the sizes that memory and engines depend on, checked
    model_info(path or file) -> ModelInfo    what `models show` prints

Nothing here loads weights or knows an engine. There is no second GGUF parser in the project.
"""

from edgeinfer.gguf.formats import TENSOR_TYPES, TensorType, ValueType
from edgeinfer.gguf.metadata import Metadata, Value
from edgeinfer.gguf.model import Dimensions, dimensions, model_info, named_parts, part_paths, quant_mix, read
from edgeinfer.gguf.reader import GGUFFile, TensorInfo, read_structure

__all__ = [
    "TENSOR_TYPES",
    "Dimensions",
    "GGUFFile",
    "Metadata",
    "TensorInfo",
    "TensorType",
    "Value",
    "ValueType",
    "dimensions",
    "model_info",
    "named_parts",
    "part_paths",
    "quant_mix",
    "read",
    "read_structure",
]
