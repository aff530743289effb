import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from seatrial.engine.bundle import Plain, Signature, TensorSpec, Tokenizer, read, watched, write
from seatrial.engine.watching import TEXT_FEATURES, WIDE, gatherer, watchable

OUT = (TensorSpec("y", "FP32", (-1,)),)
SHARES = {"upper_share": str.isupper, "digit_share": str.isdigit}


def adding(path):
    "A graph of no importance."
    faces = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("age", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["age"], ["y"])], "same", faces[:1], faces[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@given(st.text(max_size=40))
def test_letters_are_counted_alike_in_all_alphabets(text):
    for name, of in SHARES.items():
        assert TEXT_FEATURES[name](text) == sum(map(of, text)) / max(1, len(text))


@given(st.data())
def test_each_line_is_the_scalar_of_its_name(data):
    widths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    inputs = tuple(TensorSpec(f"x{i}", "FP64", (-1, n)) for i, n in enumerate(widths))
    sides = Signature((*inputs, TensorSpec("age", "INT64", (-1,)), TensorSpec("text", "BYTES", (-1,))), OUT)
    watch = data.draw(st.lists(st.sampled_from(watchable(sides, Tokenizer())), unique=True))
    rows, rng = data.draw(st.integers(1, 4)), np.random.default_rng(0)
    sent = {f"x{i}": rng.normal(size=(rows, n)) for i, n in enumerate(widths)}
    sent |= {"age": rng.integers(0, 99, rows), "text": np.array(["So GOOD, 10!"] * rows, object)}
    found = gatherer(sides, watch)(sent, {"truncated": np.arange(rows) % 2 == 0})
    assert found.shape == (len(watch), rows)
    for name, line in zip(watch, found, strict=True):
        if name in TEXT_FEATURES:
            wanted = [TEXT_FEATURES[name](t) for t in sent["text"]]
        elif name == "truncated":
            wanted = np.arange(rows) % 2 == 0
        else:
            source, _, column = name.partition(".")
            wanted = sent[source][:, int(column)] if column else sent[source]
        assert np.array_equal(line, wanted), name


def test_a_wide_input_is_watched_only_where_it_is_named(tmp_path):
    wide = Signature((TensorSpec("x", "FP32", (-1, WIDE + 1)), TensorSpec("age", "FP32", (-1,))), OUT)
    assert watchable(wide, Plain(), WIDE) == ("age",) and f"x.{WIDE}" in watchable(wide, Plain())
    graph = adding(tmp_path / "add.onnx")
    assert write(tmp_path / "quiet", signature=wide, graph=graph).watch == ("age",)
    assert write(tmp_path / "asked", signature=wide, graph=graph, watch=["x.7"]).watch == ("x.7",)


def test_a_bundle_on_disk_that_watches_every_pixel_still_says_so(tmp_path):
    n = 2 * WIDE
    wide = Signature((TensorSpec("x", "FP32", (-1, n)),), OUT)
    every = [f"x.{i}" for i in range(n)]
    write(tmp_path / "old", signature=wide, graph=adding(tmp_path / "add.onnx"), watch=every)
    old = read(tmp_path / "old")
    assert (
        list(watched(old, {"x": np.arange(n)[None]})) == every and watched(old, {"x": np.arange(n)[None]})["x.3"] == 3
    )
