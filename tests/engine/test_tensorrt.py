"""Engines are found again only where they belong; what needs a GPU runs where there is one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from seatrial.base.settings import CannotDo
from seatrial.engine import tensorrt as trt
from seatrial.engine.bundle import Signature, TensorSpec, write
from seatrial.engine.runtime import load

HERE = {"device": "NVIDIA L4", "driver": "580.65", "tensorrt": "10.13.2"}
HAS_GPU = any(Path("/dev").glob("nvidia[0-9]*"))


@given(
    st.lists(st.integers(1, 500), min_size=3, max_size=3).map(sorted),
    st.lists(st.integers(1, 500), min_size=3, max_size=3).map(sorted),
    st.lists(st.sampled_from([-1, 1, 7]), min_size=1, max_size=3),
)
def test_a_profile_takes_all_between_its_ends_and_nothing_else(rows, lengths, rest):
    (made,) = trt.profiles({"x": (-1, *rest)}, tuple(rows), tuple(lengths))
    assert made.takes(made.least) and made.takes(made.usual) and made.takes(made.most)
    assert not made.takes((made.most[0] + 1, *made.most[1:])) and not made.takes(made.most[1:])
    assert all(n == d for n, d in zip(made.usual[1:], rest, strict=True) if d != -1)


@pytest.mark.parametrize("rows", [(8, 1, 64), (0, 1, 2), (1, 2), (1.0, 2, 3), (1, 2, True)])
def test_odd_profiles_are_refused(rows):
    with pytest.raises(ValueError, match="rows must be three whole numbers"):
        trt.profiles({"x": (-1, 3)}, rows)


def test_a_profile_that_shrinks_is_refused():
    with pytest.raises(ValueError, match="profile of x must grow"):
        trt.Profile("x", (2, 3), (1, 3), (4, 3))


@given(st.sampled_from(sorted(HERE)), st.text(min_size=1, max_size=5))
def test_every_part_of_the_machine_is_part_of_the_key(part, value):
    made = trt.profiles({"x": (-1, 3)})
    same = trt.cache_key("a", HERE, made) == trt.cache_key("a", HERE | {part: value}, made)
    assert same == (HERE[part] == value)


def test_graph_profiles_and_options_are_part_of_the_key():
    small, large = trt.profiles({"x": (-1, 3)}), trt.profiles({"x": (-1, 3)}, (1, 8, 128))
    keys = [
        trt.cache_key(*a)
        for a in (("a", HERE, small), ("b", HERE, small), ("a", HERE, large), ("a", HERE, small, {"native": True}))
    ]
    assert len(set(keys)) == 4 and all(len(k) == 32 for k in keys)


def test_a_machine_that_does_not_say_what_it_is_gets_no_key():
    with pytest.raises(ValueError, match="machine must say its driver"):
        trt.cache_key("a", HERE | {"driver": ""}, ())


def test_the_provider_is_told_every_shape_and_both_caches(tmp_path):
    told = trt.provider_settings(trt.profiles({"a": (-1, -1), "b": (-1, 3)}), tmp_path / "key", recorded=True)
    assert told["trt_profile_min_shapes"] == "a:1x1,b:1x3" and told["trt_profile_max_shapes"] == "a:64x64,b:64x3"
    assert told["trt_engine_cache_path"] == str(tmp_path / "key") and told["trt_timing_cache_path"] == str(tmp_path)
    assert all(isinstance(v, str) for v in told.values()) and told["trt_cuda_graph_enable"] == "1"


def test_a_cache_file_is_whole_or_absent(tmp_path):
    assert trt.kept(tmp_path / "deep" / "engine", b"abc").read_bytes() == b"abc"
    assert trt.kept(tmp_path / "deep" / "engine", b"de").read_bytes() == b"de"
    assert len(list((tmp_path / "deep").iterdir())) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotDo, match="cannot be written"):
        trt.kept(tmp_path / "file" / "engine", b"abc")


@pytest.fixture
def bundle(tmp_path):
    info, nodes = helper.make_tensor_value_info, [helper.make_node("Tanh", ["x"], ["y"])]
    sides = [[info(n, TensorProto.FLOAT, ["rows", 3])] for n in "xy"]
    made = helper.make_model(
        helper.make_graph(nodes, "g", *sides), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(made, tmp_path / "g.onnx")
    spec = [(TensorSpec(n, "FP32", (-1, 3)),) for n in "xy"]
    return write(tmp_path / "b", signature=Signature(*spec), graph=tmp_path / "g.onnx")


def test_a_graph_tells_its_shapes(bundle):
    assert trt.input_shapes(bundle.folder / bundle.graph) == {"x": (-1, 3)}


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_built_and_nothing_is_written(bundle, tmp_path):
    for runtime in ("tensorrt", "onnx-tensorrt"):
        with pytest.raises(CannotDo, match="needs an NVIDIA GPU"):
            load(bundle, runtime, "cuda", cache=tmp_path / "engines")
    assert not (tmp_path / "engines").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU, and this machine has none")
@pytest.mark.parametrize("runtime", ["tensorrt", "onnx-tensorrt"])
def test_an_engine_answers_as_the_graph_does_and_is_found_again(bundle, tmp_path, runtime):
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)  # more rows than the profile
    first = load(bundle, runtime, "cuda", cache=tmp_path / "engines")
    np.testing.assert_allclose(first.run({"x": x})["y"], np.tanh(x), atol=1e-4)
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "engines").rglob("*.plan")}
    again = load(bundle, runtime, "cuda", cache=tmp_path / "engines")
    np.testing.assert_array_equal(again.run({"x": x})["y"], first.run({"x": x})["y"])
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "engines").rglob("*.plan")} == files
