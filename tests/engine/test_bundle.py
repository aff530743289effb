"""Bundles are read strictly, written whole, and let in only what fits."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from seatrial.base.settings import CannotDo
from seatrial.engine.bundle import (
    HashedNgrams,
    Plain,
    Signature,
    TensorSpec,
    Tokenizer,
    checked,
    prepare,
    read,
    sniff,
    watchable,
    watched,
    write,
)

RATING = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("rating", "FP32", (-1,)),))
TABLE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),))


def texts(*values):
    return {"text": np.array(values, dtype=object)}


@pytest.fixture
def graph(tmp_path):
    "An ONNX file that adds up the numbers of a row."
    ids = helper.make_tensor_value_info("ids", TensorProto.FLOAT, ["rows", "n"])
    out = helper.make_tensor_value_info("rating", TensorProto.FLOAT, ["rows"])
    node = helper.make_node("ReduceMean", ["ids"], ["rating"], axes=[1], keepdims=0)
    model = helper.make_model(
        helper.make_graph([node], "g", [ids], [out]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


@pytest.fixture
def bundle(graph, tmp_path):
    return write(tmp_path / "bundle", signature=RATING, graph=graph, preparation=HashedNgrams(buckets=50))


@pytest.fixture
def vocabulary(tmp_path):
    "A tokenizer file of a few words, which asks for a truncation and padding of its own."
    from tokenizers import Tokenizer as Writer
    from tokenizers import models, pre_tokenizers

    writer = Writer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3}, unk_token="[UNK]"))
    writer.pre_tokenizer = pre_tokenizers.Whitespace()
    writer.enable_truncation(2)
    writer.enable_padding(length=9)
    writer.save(str(tmp_path / "words.json"))
    return tmp_path / "words.json"


def facts(folder, **changes):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_read_back_equal(bundle):
    assert read(bundle.folder) == bundle
    assert read(str(bundle.folder)).manifest() == bundle.manifest()


def test_the_manifest_changes_with_one_flipped_byte(bundle):
    before = bundle.manifest()
    path = bundle.folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    after = bundle.manifest()
    assert {f for f in before if before[f] != after[f]} == {"model.onnx"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2"),
        ({"format": "1"}, "format '1'"),
        ({"graph": "/etc/passwd"}, "outside"),
        ({"graph": "../g.onnx"}, "outside"),
        ({"graph": "sub\\..\\g.onnx"}, "outside"),
        ({"graph": ""}, "outside"),
        ({"graph": 7}, "outside"),
        ({"graph": "lost.onnx"}, "missing"),
        ({"signature": {"inputs": []}}, "damaged"),
        ({"signature": {"inputs": [{"name": "x"}], "outputs": []}}, "damaged"),
        ({"preparation": {"kind": "os.system"}}, "'os.system' is none of"),
        ({"preparation": {}}, "damaged"),
        ({"preparation": {"kind": "plain", "hook": "x"}}, "unknown parameters"),
        ({"watch": ["mood"]}, "mood"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_spoiled_description_is_refused_in_one_sentence(bundle, changes, words):
    facts(bundle.folder, **changes)
    with pytest.raises(CannotDo, match=r"bundle\.json|missing") as caught:
        read(bundle.folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
def test_a_description_that_is_no_object_is_refused(bundle, content):
    (bundle.folder / "bundle.json").write_text(content)
    with pytest.raises(CannotDo, match=r"bundle\.json"):
        read(bundle.folder)


def test_a_folder_without_bundle_is_refused(tmp_path):
    with pytest.raises(CannotDo, match="cannot be read"):
        read(tmp_path / "nowhere")


def test_a_pickle_is_never_taken_for_a_graph(bundle, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (bundle.folder / "model.onnx").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CannotDo, match="pickle"):
        read(bundle.folder)
    with zipfile.ZipFile(bundle.folder / "model.onnx", "w") as z:
        z.writestr("archive/data.pkl", pickle.dumps(Trap()))
    with pytest.raises(CannotDo, match="pickle"):
        read(bundle.folder)
    assert not (tmp_path / "sprung").exists()


FOREIGN = [b"", b"GGUF....", b"PK\x05\x06" + bytes(18), b"PK\x05\x06" + b"\x01" * 18, b"<html>"]


@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_content_is_no_graph(bundle, content):
    (bundle.folder / "model.onnx").write_bytes(content)
    assert sniff(bundle.folder / "model.onnx") in {"empty", "unknown"}
    with pytest.raises(CannotDo, match="it is damaged or foreign"):
        read(bundle.folder)


def test_a_link_out_of_the_folder_is_refused(bundle, graph):
    (bundle.folder / "model.onnx").unlink()
    (bundle.folder / "model.onnx").symlink_to(graph)
    with pytest.raises(CannotDo, match="outside"):
        read(bundle.folder)


def test_a_bundle_is_never_overwritten(bundle, graph):
    before = bundle.manifest()
    with pytest.raises(ValueError, match="never overwritten"):
        write(bundle.folder, signature=RATING, graph=graph)
    assert bundle.manifest() == before


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"files": {"extra": "x"}}, ValueError, "files must be"),
        ({"watch": ["mood"]}, ValueError, "watch must be among"),
        ({"graph": Path("lost.onnx")}, CannotDo, "not there"),
        ({"preparation": Tokenizer(), "files": {}}, ValueError, "tokenizer.json"),
    ],
)
def test_a_refused_bundle_leaves_nothing_behind(graph, tmp_path, changes, error, words):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=words):
        write(tmp_path / "new", **({"signature": RATING, "graph": graph} | changes))
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_that_cannot_be_written_is_one_sentence(graph, tmp_path):
    (tmp_path / "place").write_text("a file where a folder should go")
    with pytest.raises(CannotDo, match="cannot be written"):
        write(tmp_path / "place" / "bundle", signature=RATING, graph=graph)


def test_a_pickle_cannot_be_written_into_a_bundle(tmp_path):
    (tmp_path / "m.onnx").write_bytes(pickle.dumps([1]))
    with pytest.raises(CannotDo, match="pickle"):
        write(tmp_path / "new", signature=RATING, graph=tmp_path / "m.onnx")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({}, "got none"),
        ({"x": [[1, 2, 3]], "y": [1]}, "got x, y"),
        ([1, 2, 3], "got list"),
        ({"x": [[1, 2]]}, r"got \[1, 2\]"),
        ({"x": 3.0}, r"got \[\]"),
        ({"x": []}, r"got \[0\]"),
        ({"x": np.empty((0, 3))}, "at least one row"),
        ({"x": [[1, 2, 3], [4, 5]]}, "different lengths"),
        ({"x": [[1, 2, float("nan")]]}, "got nan in row 0"),
        ({"x": [[1, 2, 3], [1, float("inf"), 3]]}, "got inf in row 1"),
        ({"x": [[1, 2, 1e39]]}, "finite"),
        ({"x": [["1", "2", "3"]]}, "got '1'"),
        ({"x": [[1, 2, None]]}, "got None"),
        ({"x": [[True, False, True]]}, "got True|got"),
        ({"x": [[1, 2, 3j]]}, "FP32"),
    ],
)
def test_a_bad_request_is_refused_by_tensor_rule_and_value(sent, words):
    with pytest.raises(ValueError, match=words) as caught:
        checked(TABLE, sent)
    assert "\n" not in str(caught.value)


def test_missing_numbers_pass_only_where_they_are_declared():
    holes = replace(TABLE, inputs=(replace(TABLE.inputs[0], missing=True),))
    assert np.isnan(checked(holes, {"x": [[1, float("nan"), 3]]})["x"]).sum() == 1
    with pytest.raises(ValueError, match="inf"):
        checked(holes, {"x": [[1, float("inf"), 3]]})


@pytest.mark.parametrize(
    ("datatype", "good", "bad"),
    [
        ("INT8", [127, -128], [128]),
        ("UINT8", [0, 255], [-1]),
        ("INT64", [2**62], [1.5]),
        ("UINT64", [2**64 - 1], [-1]),
        ("BOOL", [True, False], [1]),
        ("FP16", [1, 65504], [70000.0]),
        ("FP64", [1e300, 3], ["3"]),
        ("BYTES", ["", "é", b"\xc3\xa9"], [b"\xff"]),
    ],
)
def test_values_widen_into_their_datatype_but_lose_nothing(datatype, good, bad):
    signature = Signature((TensorSpec("v", datatype, (-1,)),), TABLE.outputs)
    assert len(checked(signature, {"v": good})["v"]) == len(good)
    with pytest.raises(ValueError, match="v must be"):
        checked(signature, {"v": bad})


@pytest.mark.parametrize("odd", [3, None, 2.5, ["nested"], "\ud800"])
def test_a_row_of_text_that_is_no_text_is_refused(odd):
    with pytest.raises(ValueError, match="text must"):
        checked(RATING, {"text": ["fine", odd]})


def test_rows_must_agree():
    two = Signature((TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))), TABLE.outputs)
    with pytest.raises(ValueError, match="a with 2, b with 3"):
        checked(two, {"a": [1, 2], "b": [1, 2, 3]})


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8))
def test_hashed_rows_do_not_depend_on_their_neighbours(lines):
    step = HashedNgrams(buckets=97, orders=(1, 2), chars=(3,), width=20)
    together = step(texts(*lines), None)
    assert together["ids"].shape[0] == len(lines) and together["ids"].shape[1] <= 20
    assert together["ids"].min() >= 0 and together["ids"].max() < 97
    for row, cut, line in zip(together["ids"], together["truncated"], lines, strict=True):
        alone = step(texts(line), None)
        kept = alone["ids"][0][alone["ids"][0] > 0]
        np.testing.assert_array_equal(row[row > 0], kept)
        assert alone["truncated"][0] == cut


def test_hashes_are_the_same_in_another_process():
    code = "import numpy as np; from seatrial.engine.bundle import HashedNgrams; "
    code += "print(HashedNgrams()({'text': np.array(['a fine film'], dtype=object)}, None)['ids'].tolist())"
    env = os.environ | {"PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert json.loads(out) == HashedNgrams()(texts("a fine film"), None)["ids"].tolist()


@pytest.mark.parametrize("odd", [{"buckets": 1}, {"width": 0}, {"orders": ()}, {"orders": (0,)}])
def test_a_hashing_step_that_makes_no_sense_is_refused(odd):
    with pytest.raises(ValueError, match="must be"):
        HashedNgrams(**odd)


def test_a_text_is_cut_only_where_the_bundle_says_so_and_is_counted(vocabulary, graph, tmp_path):
    make = {"signature": RATING, "graph": graph, "files": {"tokenizer.json": vocabulary}}
    free = write(tmp_path / "free", preparation=Tokenizer(max_tokens=None), **make)
    cut = write(tmp_path / "cut", preparation=Tokenizer(max_tokens=3), **make)
    sent = {"text": ["good film", "good good good good", "good good film"]}
    assert prepare(free, sent)["input_ids"].shape == (3, 4)  # the file's own padding to 9 and cut at 2 are overruled
    assert not prepare(free, sent)["truncated"].any()
    assert prepare(cut, sent)["input_ids"].tolist() == [[2, 3, 0], [2, 2, 2], [2, 2, 3]]
    assert prepare(cut, sent)["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert watched(cut, sent)["truncated"].tolist() == [0, 1, 0]
    prepared = prepare(cut, sent)
    assert watched(cut, sent, prepared)["truncated"].tolist() == [0, 1, 0]


def test_a_damaged_tokenizer_is_one_sentence(vocabulary, graph, tmp_path):
    bundle = write(
        tmp_path / "b", signature=RATING, graph=graph, preparation=Tokenizer(), files={"tokenizer.json": vocabulary}
    )
    (bundle.folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CannotDo, match=r"tokenizer\.json is no tokenizer file"):
        prepare(bundle, {"text": ["x"]})


def test_a_tokenizer_without_its_padding_token_is_refused(vocabulary, graph, tmp_path):
    step = Tokenizer(pad="<pad>")
    bundle = write(tmp_path / "b", signature=RATING, graph=graph, preparation=step, files={step.file: vocabulary})
    with pytest.raises(CannotDo, match="no padding token '<pad>'"):
        prepare(bundle, {"text": ["x"]})


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_watched_text_is_finite_and_shares_are_shares(line):
    from seatrial.engine.bundle import TEXT_FEATURES

    values = {name: of(line) for name, of in TEXT_FEATURES.items()}
    assert all(np.isfinite(v) for v in values.values())
    assert all(0 <= v <= 1 for name, v in values.items() if name.endswith("_share"))


def test_numbers_are_watched_column_by_column():
    signature = Signature((TensorSpec("age", "FP32", (-1,)), *TABLE.inputs), TABLE.outputs)
    assert watchable(signature, Plain()) == ("age", "x.0", "x.1", "x.2")


def test_two_texts_are_watched_under_their_own_names():
    both = Signature((TensorSpec("title", "BYTES", (-1,)), TensorSpec("body", "BYTES", (-1,))), TABLE.outputs)
    assert {"title.n_chars", "body.n_chars"} <= set(watchable(both, Plain()))


@pytest.mark.parametrize(("datatype", "shape"), [("FP8", (-1,)), ("FP32", ()), ("FP32", (4, 2)), ("FP32", (-1, 0))])
def test_a_tensor_that_cannot_be_served_is_refused(datatype, shape):
    with pytest.raises(ValueError, match="of x must"):
        TensorSpec("x", datatype, shape)


def test_reading_a_bundle_loads_no_runtime_and_no_tokenizer_library():
    code = "import sys, seatrial.engine.bundle; heavy = {'onnxruntime', 'torch', 'tokenizers', 'onnx', 'scipy'}; "
    code += "print(*heavy & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == ""


@pytest.mark.parametrize("name", ["model.onnx", "notes.txt", "bundle.json"])
def test_a_link_in_a_bundle_is_refused_wherever_it_points(bundle, tmp_path, name):
    path = bundle.folder / name
    target = tmp_path / "elsewhere"
    target.write_bytes(path.read_bytes() if path.exists() else b"a secret")
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    with pytest.raises(CannotDo, match=r"is a link|outside its folder"):
        read(bundle.folder)
