#!/bin/sh
# Both engines on a GPU against the CPU: do they say the same, and how much faster are they?
#
#     tools/parity_cuda.sh MODEL.gguf [PACKAGE]
#
# PACKAGE is the model as ONNX (made from MODEL in a temporary folder where it is not given). Exit code 0 when both engines
# agree with the CPU, 1 when one does not, 5 when there is no GPU here or nothing that could use one. Another interpreter:
# PYTHON=... tools/parity_cuda.sh ...
set -eu

python=${PYTHON:-python}
edgeinfer="$python -m edgeinfer"
model=${1:?"usage: tools/parity_cuda.sh MODEL.gguf [PACKAGE]"}
package=${2:-}

missing() {
    echo "parity_cuda: $1" >&2
    exit 5
}

nvidia-smi -L 2>/dev/null || missing "no NVIDIA GPU was found here (nvidia-smi lists none)"
$python -c 'import llama_cpp, sys; sys.exit(not llama_cpp.llama_supports_gpu_offload())' || missing \
    "llama-cpp-python was built for the CPU; build it again: CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall \
--no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36"
$python -c 'import onnxruntime as o, sys; sys.exit("CUDAExecutionProvider" not in o.get_available_providers())' || missing \
    "ONNX Runtime has no CUDA here: pip uninstall -y onnxruntime && pip install onnxruntime-gpu"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM
if [ -z "$package" ]; then
    package=$scratch/package
    $edgeinfer convert "$model" "$package" --to onnx
fi

failed=0
for each in "$model" "$package"; do
    echo "== $each: GPU against CPU"
    $edgeinfer verify "$each@device=cuda" "$each@device=cpu" --max-kl 0.02 || failed=1
    for device in cuda cpu; do
        echo "-- one answer on $device"
        $edgeinfer chat -m "$each" --device "$device" -p "Explain what a hash table is." -n 128 --temp 0 --draft off --json |
            $python -c 'import json, sys
found = json.loads(sys.stdin.readlines()[-1])
stats = found["stats"]
print("prefill {prefill_tps:.1f}, decode {decode_tps:.1f} tokens/s".format(**stats))
print(found.get("placement", {}).get("line", ""))'
    done
done
echo "== the engines against each other, on the GPU"
$edgeinfer verify "$model@device=cuda" "$package@device=cuda" --max-kl 0.02 || failed=1
exit $failed
