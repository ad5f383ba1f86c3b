"""Models as ONNX packages: what a package's folder holds (`package`). Knows no engine and no converter."""
