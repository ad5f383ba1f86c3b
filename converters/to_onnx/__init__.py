"""Models to ONNX packages (`edgeinfer.onnx.package`).

export(file, folder, options)   the front door: checks, then streams tensors into a folder that appears whole
plan.py                         a `Decoder` as a graph of few abstract operators, the same for all variants
passes/                         one module an abstract operator and a way to compute it
variants.py                     which passes make which variant
weights.py, forms.py, data_file.py   tensors of the source as initializers outside the graph
genai.py, tokenizer_json.py     what ONNX Runtime GenAI wants beside the graph
"""
