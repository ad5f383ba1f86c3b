"""What a model's weights are fed while it reads a text: the squares of activations added up for each column of each
weight, or the products of every two columns, by our kernels under llama.cpp as the activations pass through.

    with Calibrator("model.gguf", Sample.of(text, "wiki.txt")) as calibrator:
        calibrator.squares()                        # {"blk.0.attn_q.weight": Squares, …}
        calibrator.products(["blk.0.attn_q.weight"])  # {"blk.0.attn_q.weight": Products}

`reading` runs the model, `packages` an ONNX package for its products; `hessians` takes products a few layers at a time;
`watching` runs a package of fixed shapes while somebody looks at values inside. Knows nothing of what they are for.
"""

from edgeinfer.calibrate.hessians import Hessians
from edgeinfer.calibrate.packages import PackageReader
from edgeinfer.calibrate.reading import Calibrator, Products, Sample, Squares
from edgeinfer.calibrate.watching import Watcher

__all__ = ["Calibrator", "Hessians", "PackageReader", "Products", "Sample", "Squares", "Watcher"]
