"Rows of different lengths in one batch: only where a version permits it, and never to be seen in an answer."

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from seatrial.base.journal import Journal
from seatrial.engine import bundle as bundles
from seatrial.engine.export import bundle_of
from seatrial.engine.runtime import load as engine_of
from seatrial.model.quality import BagScorer
from seatrial.serve.frames import Taken, opened, parted, slices, stacked
from seatrial.serve.ragged import apart, bucket, levelled, permission, shape_of
from seatrial.serve.server import launch
from tests.serve.harbour import Speaker, settings_for, shelve, until, worker_of
from tests.serve.test_retries import sample

BOTH = ("rows", "length")
IDS = bundles.TensorSpec("ids", "INT64", (-1, -1), axes=BOTH, fill=0)
MASK = bundles.TensorSpec("mask", "BOOL", (-1, -1), axes=BOTH, fill=False)
TAGS = bundles.TensorSpec("tags", "BYTES", (-1, -1), axes=BOTH, fill="")
X = bundles.TensorSpec("x", "FP32", (-1,))
ANSWERS = bundles.TensorSpec("marks", "INT64", (-1, -1), axes=BOTH), bundles.TensorSpec("sum", "FP32", (-1,))
WORDS = permission(bundles.Signature((IDS, MASK, TAGS, X), ANSWERS).to_dict())
CREW = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=12)


@dataclass
class Reply:
    outputs: dict
    watch: list
    watched: Any


def made(sizes):
    "Requests with some rows of some length, no number in two of them."
    found, at = [], 1
    for rows, length in sizes:
        ids = np.arange(at, at + rows * length).reshape(rows, length)
        tags = np.array([[f"t{i}" for i in row] for row in ids], object)
        x = ids[:, 0] * np.float32(0.5)
        found.append(Taken(*parted({"ids": ids, "mask": np.ones((rows, length), bool), "tags": tags, "x": x}), rows))
        at += rows * length
    return found


def model(arrays):
    "Does not look at what is masked, so padding must not change its answers."
    assert ((arrays["tags"] == "") == ~arrays["mask"]).all()
    ids = np.where(arrays["mask"], arrays["ids"], 0)
    return {"marks": ids * 3, "sum": (ids.sum(1) + arrays["x"]).astype(np.float32)}


def answers(crew):
    "What each of them gets back from one batch, in order."
    looks, loads = levelled(crew, WORDS)
    rows = [one.rows for one in crew]
    _, arrays = opened(stacked({}, looks, loads, sum(rows))[4:])
    jobs = [SimpleNamespace(inputs=one, rows=one.rows, shape=shape_of(one.form, WORDS)) for one in crew]
    reply = Reply(model(arrays), ["x"], arrays["x"][None])
    found = {}
    for part, pairs in apart(reply, list(zip(jobs, slices(rows), strict=True))):
        for job, cut in pairs:
            said = {name: array[cut] for name, array in part.outputs.items()}
            found[id(job.inputs)] = said | {"watched": part.watched[:, cut]}
    return [found[id(one)] for one in crew]


@given(CREW)
def test_padding_is_invisible_and_no_row_reaches_another_request(sizes):
    groups = {}
    for one in made(sizes):
        groups.setdefault(shape_of(one.form, WORDS), []).append(one)
    for crew in groups.values():
        for one, mine in zip(crew, answers(crew), strict=True):
            (alone,) = answers([one])
            assert all(np.array_equal(mine[name], alone[name]) for name in alone)


@given(CREW)
def test_requests_of_one_bucket_stack_and_others_do_not(sizes):
    crew = made(sizes)
    for (_, length), one in zip(sizes, crew, strict=True):
        for (_, other), two in zip(sizes, crew, strict=True):
            assert (shape_of(one.form, WORDS) == shape_of(two.form, WORDS)) == (bucket(length) == bucket(other))


@given(st.integers(0, 10**6))
def test_a_bucket_holds_its_rows_and_less_than_half_of_it_is_empty(length):
    assert length <= bucket(length) == bucket(bucket(length)) and (bucket(length) < 2 * length or length < 2)


def test_a_signature_without_fill_permits_nothing():
    bare = bundles.TensorSpec("ids", "INT64", (-1, -1), axes=BOTH)
    assert permission(bundles.Signature((bare,), ANSWERS).to_dict()) is None


def marking(folder, fill):
    "A bundle that doubles every number of a row and says where it stands; with a permission, or without one."
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "marking", [x], [y])
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    sides = (
        bundles.TensorSpec("x", "FP32", (-1, -1), axes=BOTH, fill=fill),
        bundles.TensorSpec("y", "FP32", (-1, -1), axes=BOTH),
    )
    return bundles.write(folder, signature=bundles.Signature(*((side,) for side in sides)), graph=file)


def bag(folder, _):
    "The quality bag, which takes token numbers and skips zeros."
    torch.manual_seed(0)
    ids = np.random.default_rng(0).integers(1, 300, (4, 6))
    return bundle_of(BagScorer(300, 8).eval(), ids, folder, ragged={"ids": 0}, outputs=["rating"])


@pytest.fixture(scope="module")
def sailing(tmp_path_factory):
    "A server with three models: one that permits longer rows, one that does not, and the quality bag."
    home = tmp_path_factory.mktemp("ragged")
    shelve(
        home,
        {"free": {"1.0.0": 0.0}, "strict": {"1.0.0": None}, "bag": {"1.0.0": 0}},
        lambda to, fill: (bag if "bag" in to.parts else marking)(to, fill),
    )
    its = settings_for(home)
    with launch(settings=its, port=0, log=home / "log") as running:
        until(lambda: said(running.url, "free", "x", "FP32", [[1.0]])[0] == 200)
        until(lambda: said(running.url, "strict", "x", "FP32", [[1.0]])[0] == 200)
        until(lambda: said(running.url, "bag", "ids", "INT64", [[1]])[0] == 200)
        yield running, its


def said(url, name, tensor, kind, rows, id=""):
    "Status and numbers of one request."
    given = {"name": tensor, "shape": [len(rows), len(rows[0])], "datatype": kind, "data": rows}
    with Speaker(url) as speaker:
        status, _, body = speaker.say(json.dumps({"inputs": [given], "id": id}).encode(), f"/v2/models/{name}/infer")
    return status, json.loads(body).get("outputs")


def together(sailing, name, tensor, kind, crew):
    "What requests hear that wait for one worker at the same time, and how many rows shared a batch with each."
    (running, its), worker = sailing, worker_of(sailing[0])
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(len(crew) + 1) as threads:
        first = threads.submit(said, running.url, "strict", "x", "FP32", [[1.0]])  # it takes the worker's next turn
        until(lambda: sample(running.url, "in_flight") == 1)
        asking = [threads.submit(said, running.url, name, tensor, kind, r, f"{name}{i}") for i, r in enumerate(crew)]
        until(lambda: sample(running.url, "queue_rows") == sum(map(len, crew)))
        os.kill(worker, signal.SIGCONT)
        answers = [one.result() for one in asking]
        first.result()
    with closing(Journal.open(its)) as journal:
        sizes = {row["request_id"]: row["batch_size"] for row in journal.read("predictions", model=name).to_pylist()}
    return answers, [sizes[f"{name}{i}"] for i in range(len(crew))]


CREWS = [[[1.0] * 5], [[2.0] * 7, [3.0] * 7], [[4.0] * 8], [[5.0] * 6]]


def test_a_server_stacks_rows_of_different_lengths_where_the_version_permits_it(sailing):
    answers, sizes = together(sailing, "free", "x", "FP32", CREWS)
    for rows, (status, (output,)) in zip(CREWS, answers, strict=True):
        assert status == 200 and output["shape"] == [len(rows), len(rows[0])]
        assert output["data"] == [2 * x for row in rows for x in row]
    assert max(sizes) == 5


def test_a_server_stacks_only_equal_rows_where_it_does_not(sailing):
    answers, sizes = together(sailing, "strict", "x", "FP32", CREWS)
    for rows, (status, (output,)) in zip(CREWS, answers, strict=True):
        assert status == 200 and output["shape"] == [len(rows), len(rows[0])]
    assert sizes == [1, 2, 1, 1]


def test_the_quality_bag_answers_in_company_as_it_answers_alone(sailing):
    its, rng = sailing[1], np.random.default_rng(5)
    engine = engine_of(its.paths.artifacts / "models/bag/1.0.0")
    crew = [rng.integers(1, 300, (int(rng.integers(1, 4)), int(rng.integers(9, 17)))).tolist() for _ in range(8)]
    answers, sizes = together(sailing, "bag", "ids", "INT64", crew)
    for rows, (status, (output,)) in zip(crew, answers, strict=True):
        assert status == 200
        np.testing.assert_allclose(output["data"], engine.run({"ids": rows})["rating"], rtol=1e-5, atol=1e-6)
    assert max(sizes) == sum(map(len, crew))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(9, 16)), min_size=1, max_size=6), st.integers(0, 2**31))
def test_the_quality_bag_answers_any_crew_as_it_answers_each_alone(sailing, sizes, seed):
    rng, engine = np.random.default_rng(seed), engine_of(sailing[1].paths.artifacts / "models/bag/1.0.0")
    ragged = permission(engine.bundle.signature.to_dict())
    crew = [Taken(*parted({"ids": rng.integers(1, 300, size)}), size[0]) for size in sizes]
    looks, loads = levelled(crew, ragged)
    _, arrays = opened(stacked({}, looks, loads, sum(one.rows for one in crew))[4:])
    whole = engine.run(arrays)["rating"]
    for one, cut in zip(crew, slices([one.rows for one in crew]), strict=True):
        own = np.frombuffer(one.parts[0], np.int64).reshape(one.rows, -1)
        np.testing.assert_allclose(whole[cut], engine.run({"ids": own})["rating"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "told"), [("free", True), ("strict", None)])
def test_the_model_config_tells_whose_rows_may_differ(sailing, name, told):
    with Speaker(sailing[0].url) as speaker:
        _, _, body = speaker.say(path=f"/v2/models/{name}/config", method="GET")
    assert json.loads(body)["input"][0].get("allow_ragged_batch") == told
