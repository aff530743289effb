"Small graphs, written down without an exporter: what is proved of them does not need one, and it takes a second."

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from seatrial.engine.bundle import Signature, TensorSpec, write


def saved(folder, nodes, held, wide, narrow, opset=17, sides=("x", "y"), rank=2):
    "A bundle around nodes from (n, wide) to (n, narrow), or to (n,) where the rank of the answer is 1."
    folder.mkdir(parents=True, exist_ok=True)
    shapes = ["n", wide], ["n", narrow][:rank]
    x, y = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in zip(sides, shapes, strict=True))
    held = [numpy_helper.from_array(np.asarray(v), k) for k, v in held.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", x, y, held), opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, folder / "g.onnx")
    specs = (TensorSpec(sides[0], "FP32", (-1, wide)),), (TensorSpec(sides[1], "FP32", (-1, narrow)[:rank]),)
    return write(folder / "b", signature=Signature(*specs), graph=folder / "g.onnx")


def linear(rng, wide, narrow):
    "Weights (narrow, wide) and a bias, as small as those of a fresh `torch.nn.Linear`."
    most = wide**-0.5
    return rng.uniform(-most, most, (narrow, wide)), rng.uniform(-most, most, narrow)


def dense(folder, layers, between="Relu", flat=False):
    "Dense layers from `input` to `prediction`: weights (narrow, wide), and a bias or None."
    nodes, held, x = [], {}, "input"
    for i, (w, b) in enumerate(layers):
        y = f"h{i}" if flat or i < len(layers) - 1 else "prediction"
        held |= {f"w{i}": np.float32(w if b is not None else w.T)} | ({} if b is None else {f"b{i}": np.float32(b)})
        kind, more = ("MatMul", {}) if b is None else ("Gemm", {"transB": 1})
        names = [x, f"w{i}"] if b is None else [x, f"w{i}", f"b{i}"]
        nodes.append(helper.make_node(kind, names, [y], name=f"layer{i}", **more))
        x = y
        if i < len(layers) - 1:
            nodes.append(helper.make_node(between, [y], [f"a{i}"]))
            x = f"a{i}"
    if flat:
        nodes.append(helper.make_node("Reshape", [x, "line"], ["prediction"]))
        held["line"] = np.array([-1])
    facts = {"sides": ("input", "prediction"), "rank": 1 if flat else 2}
    return saved(folder, nodes, held, layers[0][0].shape[1], layers[-1][0].shape[0], **facts)


def of(function, *modules):
    "A module whose forward is a function of x."

    import torch

    class Made(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = torch.nn.ModuleList(modules)

        def forward(self, x):
            return function(x, *self.parts)

    return Made()
