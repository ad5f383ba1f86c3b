"""Converters: models in, GGUF or ONNX out. Installed as ``edgeinfer.converters``; knows nothing of engines."""
