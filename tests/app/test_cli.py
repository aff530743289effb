"The command line as a shell sees it: what it prints, what it refuses, and with which status."

import json
import pickle
import re
import shutil
import socket

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from seatrial.app.cli import answer, run
from seatrial.app.console import columns, show, visits_of
from seatrial.base.settings import load
from seatrial.engine.bundle import Signature, TensorSpec
from seatrial.registry.versions import Registry


def doubling(path, factor=2.0):
    "An ONNX file that multiplies its input."
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [], [factor])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])], "double", tensors[:1], tensors[1:], [weight]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def ask(place, capsys):
    "Runs one command; its status, its standard output and its standard error."

    def command(*argv):
        capsys.readouterr()
        status = run([str(a) for a in argv])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return command


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    "Artifacts with two versions of one model, made once: a new MLflow file takes seconds."
    home = tmp_path_factory.mktemp("harbour")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("SEATRIAL_PATHS_ARTIFACTS", str(home / "artifacts"))
        for factor in (2.0, 3.0):
            assert run(["register", str(doubling(home / f"{factor}.onnx", factor)), "--name", "mine"]) == 0
    return home / "artifacts"


@pytest.fixture
def registered(harbour, place):
    "Two versions of one model, in this test's own place."
    shutil.copytree(harbour, place / "artifacts")


def test_a_registered_file_is_listed_and_answers(ask, registered):
    status, out, _ = ask("list", "--json")
    rows = json.loads(out)
    assert (status, [r["version"] for r in rows], [r["alias"] for r in rows]) == (
        0,
        ["1.0.0", "1.0.1"],
        ["champion", ""],
    )
    status, out, _ = ask("predict", "mine", "--inputs", '{"x": [[1, 2, 3]]}', "--json")
    assert status == 0
    np.testing.assert_allclose(json.loads(out)["y"], [[2, 4, 6]])


def test_promote_and_rollback_move_the_champion(ask, registered):
    assert ask("promote", "mine", "1.0.1")[0] == 0
    assert json.loads(ask("predict", "mine", "--inputs", '{"x": [[1, 1, 1]]}', "--json")[1])["y"] == [[3, 3, 3]]
    assert ask("rollback", "mine")[0] == 0
    assert json.loads(ask("predict", "mine", "--inputs", '{"x": [[1, 1, 1]]}', "--json")[1])["y"] == [[2, 2, 2]]
    kinds = [d["kind"] for d in json.loads(ask("journal", "decisions", "--json")[1])]
    assert kinds.count("alias") == 3


def test_a_trial_is_started_shown_and_stopped(ask, registered):
    status, out, err = ask("trial", "start", "mine", "1.0.1", "--kind", "canary", "--json")
    assert status == 0, err
    trial = json.loads(out)["trial"]
    assert ask("trial", "start", "mine", "1.0.1")[0] == 2, "one live trial a model"
    status, out, _ = ask("trial", "show", "mine", "--json")
    assert (status, json.loads(out)["status"]) == (0, "running")
    assert ask("trial", "abort", trial)[0] == 0
    status, out, _ = ask("trial", "show", "mine", "--json")
    assert (status, json.loads(out)["status"]) == (1, "aborted")


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["sail"], 2, "No such command"),
        (["predict", "absent", "--inputs", "{}"], 2, "absent"),
        (["predict", "mine", "--inputs", "nonsense"], 2, "nonsense"),
        (["predict", "mine", "--inputs", '{"x": [[1, 2]]}'], 2, r"shape \[-1, 3\]"),
        (["predict", "mine", "--version", "9.9.9", "--inputs", "{}"], 2, r"9\.9\.9"),
        (["register", "absent.onnx", "--name", "mine"], 3, r"absent\.onnx"),
        (["register", "0.onnx", "--name", "../up"], 2, "name must"),
        (["promote", "mine", "7.0.0"], 2, r"7\.0\.0"),
        (["trial", "start", "mine", "1.0.1", "--metric", "acuracy"], 2, "acuracy"),
        (["trial", "start", "mine", "1.0.0"], 2, "challenger"),
        (["trial", "show", "absent"], 2, "absent"),
        (["report", "absent"], 2, "absent"),
        (["report", "trial", "-p", "nonsense"], 2, "name=value"),
        (["journal", "predicitons"], 2, "predicitons"),
        (["load", "mine", "--data", "absent.csv"], 3, r"absent\.csv"),
        (["--settings", "absent.ini", "list"], 3, r"absent\.ini"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_sentence_and_its_status(ask, registered, place, argv, status, words):
    doubling(place / "0.onnx", 5.0)
    got, _, err = ask(*argv)
    assert got == status, err
    assert re.search(words, err), err
    assert len(err.strip().splitlines()) <= 2


def test_a_table_shows_text_that_looks_like_markup(ask, capsys):
    capsys.readouterr()
    show([{"unit": "[/b]", "setting": "[paths] artifacts", "answer": [True]}], as_json=False, title="[red]")
    said = capsys.readouterr().out
    assert all(word in said for word in ("[/b]", "[paths] artifacts", "[true]", "[red]"))


def test_a_table_of_numbers_is_read_by_its_numbered_columns(place):
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))
    (place / "rows.csv").write_text("x.0,x.1,y\n1,2,3\n4,5,\n")
    inputs, truth = columns(place / "rows.csv", signature, "y")
    np.testing.assert_array_equal(inputs["x"], [[1, 2], [4, 5]])
    assert [v.outcome for v in visits_of(inputs, truth, clients=1)] == [3.0, None], "no truth is no outcome"
    with pytest.raises(ValueError, match=r"x\.2"):
        columns(place / "rows.csv", Signature((TensorSpec("x", "FP32", (-1, 3)),), signature.outputs))


def test_a_value_that_would_lose_something_is_refused(ask, registered):
    status, _, err = ask("predict", "mine", "--inputs", '{"x": [[1, 2, 1e300]]}')
    assert status == 2
    assert "x" in err


def test_a_version_in_two_roles_shows_both(ask, registered, place):
    with Registry(load()) as registry:
        registry.alias("mine", "shadow", "1.0.0", reason="a test", actor="test")
    rows = json.loads(ask("list", "mine", "--json")[1])
    assert rows[0]["alias"] == "champion, shadow"


def test_what_nobody_foresaw_is_one_sentence_with_status_3(capsys):
    assert answer(RuntimeError("the moon is in the way")) == 3
    said = capsys.readouterr().err
    assert "the moon is in the way" in said and "--traceback" in said


def test_a_flipped_byte_is_named_and_not_served(ask, registered, place):
    [graph] = (place / "artifacts/models/mine/1.0.0").glob("*.onnx")
    graph.chmod(0o644)
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    status, _, err = ask("predict", "mine", "--inputs", '{"x": [[1, 2, 3]]}')
    assert status == 3
    assert graph.name in err and "sha256" in err


def test_a_port_in_use_is_said_before_anything_starts(ask, registered):
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        port = door.getsockname()[1]
        status, _, err = ask("serve", "--port", port)
    assert status == 3
    assert str(port) in err


def test_serving_nothing_says_how_to_register(ask):
    status, _, err = ask("serve")
    assert status == 3
    assert "register" in err


def test_a_wrong_setting_names_section_key_value_and_rule(ask, place):
    (place / "settings.ini").write_text("[serve]\nport = many\n")
    status, _, err = ask("list")
    assert status == 2
    assert all(word in err for word in ("serve", "port", "many", "whole number"))


def test_settings_are_the_ones_in_force(ask, place):
    (place / "settings.ini").write_text("[serve]\nport = 8123\n")
    rows = json.loads(ask("settings", "--json")[1])
    assert {r["value"] for r in rows if (r["section"], r["key"]) == ("serve", "port")} == {8123}


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory):
    "One network as TorchScript and as a torch program."
    import warnings

    import torch

    place, net = tmp_path_factory.mktemp("torch"), torch.nn.Linear(3, 1)
    free = ({0: torch.export.Dim("rows")},)
    torch.export.save(torch.export.export(net, (torch.ones(2, 3),), dynamic_shapes=free), place / "m.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(place / "m.pt")
    np.save(place / "rows.npy", np.random.default_rng(0).normal(size=(5, 3)))
    (place / "rows.csv").write_text("a,b,c\n1,2,3\n4,5.5,6\n")
    return place


@pytest.mark.parametrize(("file", "rows"), [("m.pt", "rows.csv"), ("m.pt2", "rows.npy")])
def test_a_torch_file_is_registered_by_showing_rows(ask, registered, torch_files, file, rows):
    status, out, err = ask("register", torch_files / file, "--name", "shown", "--example", torch_files / rows, "--json")
    assert (status, err) == (0, "") and json.loads(out)["version"] == "1.0.0"
    assert ask("predict", "shown", "--inputs", '{"input": [[1, 2, 3]]}', "--json")[0] == 0


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["m.pt"], 2, r"does not say what it takes; show it some rows with --example"),
        (["m.pt2"], 2, r"does not say what it takes; show it some rows with --example"),
        (["model.joblib"], 2, "a pickle, which is never opened"),
        (["model.pkl", "--example", "rows.npy"], 2, "a pickle, which is never opened"),
        (["m.pt", "--example", "absent.npy"], 3, r"absent\.npy is not a readable file of numbers"),
        (["m.pt", "--example", "absent.csv"], 3, "does not exist"),
        (["m.pt", "--example", "pickled.npy"], 3, "not a readable file of numbers"),
        (["m.pt", "--example", "words.csv"], 2, "must hold numbers, got 'x'"),
        (["m.pt", "--example", "narrow.csv"], 2, "its forward failed on it"),
        (["pickle.pt", "--example", "rows.npy"], 3, "a pickle can run code and is never opened"),
        (["pickle.onnx"], 3, "a pickle can run code and is never opened"),
        ([".", "--example", "rows.npy"], 2, "must be left out for a bundle"),
    ],
)
def test_what_cannot_be_registered_is_told_what_to_show(ask, registered, torch_files, place, argv, status, words):
    for file in torch_files.iterdir():
        shutil.copy(file, place)
    (place / "narrow.csv").write_text("a,b\n1,2\n")
    (place / "words.csv").write_text("a,b\n1,x\n")
    np.save(place / "pickled.npy", np.array([Trap(place)], dtype=object), allow_pickle=True)
    for name in ("model.joblib", "model.pkl", "pickle.pt", "pickle.onnx"):
        (place / name).write_bytes(pickle.dumps(Trap(place)))
    got, _, err = ask("register", *argv, "--name", "shown")
    assert (got, len(err.strip().splitlines())) == (status, 1) and re.search(words, err), err
    assert not (place / "sprung").exists()


class Trap:
    "Makes a folder when it is unpickled."

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (self.place / "sprung").mkdir, ()
