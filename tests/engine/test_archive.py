"""Whatever stands in a torch archive, nothing of it runs: only tensors and torch's own operators come through."""

import contextlib
import io
import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch

from seatrial.base.settings import CannotDo
from seatrial.engine.archive import vetted
from seatrial.engine.bundle import sniff, write
from seatrial.engine.program import opened, program
from seatrial.engine.runtime import load
from seatrial.engine.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),))
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
SYMBOL = b"Symbol('s77', positive=True, integer=True)"


class Net(torch.nn.Module):
    "A layer, a buffer, a constant and a size that is computed."

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.register_buffer("shift", torch.arange(3.0))
        self.constant = torch.ones(3)

    def forward(self, x):
        with torch.no_grad():
            seen = self.layer(x - self.shift) * self.constant
        return seen.sum(1) + x.shape[0] * 0 + torch.zeros(x.shape[0] * 2)[::2]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    "Programs and a script of one network."
    place = tmp_path_factory.mktemp("archive")
    torch.manual_seed(0)
    net, x, free = Net().eval(), torch.ones(2, 3), {0: torch.export.Dim("rows")}
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=(free,)), place / "position.pt2")
    torch.export.save(torch.export.export(net, (), {"x": x}, dynamic_shapes={"x": free}), place / "name.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(3, 1)).save(place / "script.pt")
    return place, net


class Trap:
    "Makes a folder when it is unpickled."

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (self.place / "sprung").mkdir, ()


def saved(thing):
    held = io.BytesIO()
    torch.save(thing, held)
    return held.getvalue()


def altered(source, place, part, change):
    "The archive with one part changed; a part that is not there is added."
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(place / source.name, "w") as new:
        names = old.namelist()
        root = names[0].partition("/")[0]
        for name in [*names, *([f"{root}/{part}"] if f"{root}/{part}" not in names else [])]:
            held = old.read(name) if name in names else b""
            new.writestr(name, change(held) if name == f"{root}/{part}" else held)
    return place / source.name


@pytest.mark.parametrize("how", ["position", "name"])
def test_a_program_is_run_however_its_example_was_given(room, how, tmp_path):
    place, net = room
    engine = load(write(tmp_path / "b", signature=SIGNATURE, graph=place / f"{how}.pt2"))
    for rows in (1, 2, 5):
        answer = engine.run({"x": X[:rows]})["y"]
        np.testing.assert_allclose(answer, net(torch.from_numpy(X[:rows])).detach(), atol=1e-6)


def test_a_pickle_hidden_in_any_part_of_a_program_is_never_unpickled(room, tmp_path):
    source = room[0] / "position.pt2"
    with zipfile.ZipFile(source) as z:
        parts = [name.partition("/")[2] for name in z.namelist()]
    parts += ["data/weights/model.pt", "data/constants/model.pt", "data/constants/opaque_obj_0", "models/other.json"]
    said = []
    for part in parts:
        for body in (saved(Trap(tmp_path)), pickle.dumps(Trap(tmp_path))):
            path = altered(source, tmp_path, part, lambda _, body=body: body)
            try:
                opened(path)
            except CannotDo as e:
                said.append(str(e))
    assert said and not any("\n" in s for s in said)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("part", "old", "new", "words"),
    [
        ("models/model.json", b"torch.ops.aten.linear.default", b"torch.os.system", "'torch.os.system'"),
        ("models/model.json", b"torch.ops.aten.linear.default", b"_operator.attrgetter", "attrgetter"),
        ("models/model.json", b"torch.ops.aten.linear.default", b"torch.ops.aten.from_file.default", "from_file"),
        ("models/model.json", b"torch.ops.aten.linear.default", b"torch.hub.load", "hub"),
        ("models/model.json", SYMBOL, b"__import__('os').mkdir('sprung')", "__import__"),
        ("models/model.json", SYMBOL, b"Symbol('s77').__class__", "__class__"),
        ("models/model.json", b"builtins.tuple", b"collections.defaultdict", "defaultdict"),
        ("data/weights/model_weights_config.json", b'"use_pickle": false', b'"use_pickle": true', "is a pickle"),
        ("data/weights/model_weights_config.json", b'"weight_0"', b'"../../../etc/passwd"', "passwd"),
        ("data/aotinductor/model/code.so", b"", b"", "aotinductor"),
        ("data/constants/custom_obj_0", b"", b"", "custom_obj_0"),
    ],
)
def test_what_could_run_code_is_refused_by_its_name(room, tmp_path, part, old, new, words):
    path = altered(room[0] / "position.pt2", tmp_path, part, lambda data: data.replace(old, new))
    with pytest.raises(CannotDo, match="is not opened") as caught:
        opened(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_guards_and_notes_are_left_behind(room, tmp_path):
    def guarded(data):
        facts = json.loads(data)
        return json.dumps(facts | {"guards_code": [f"open({str(tmp_path / 'sprung')!r}, 'w')"]}).encode()

    path = altered(room[0] / "position.pt2", tmp_path, "models/model.json", guarded)
    opened(path)(torch.ones(2, 3))
    assert not (tmp_path / "sprung").exists()
    with zipfile.ZipFile(vetted(path)) as z:
        text = z.read("program/models/model.json").decode()
    assert "stack_trace" not in text and __file__ not in text


def test_a_program_survives_being_vetted_twice(room, tmp_path):
    (tmp_path / "again.pt2").write_bytes(vetted(room[0] / "position.pt2").read())
    assert sniff(tmp_path / "again.pt2") == "torch program"
    torch.testing.assert_close(program(tmp_path / "again.pt2").module()(torch.ones(4, 3)), room[1](torch.ones(4, 3)))


@pytest.mark.parametrize("name", ["position.pt2", "script.pt"])
def test_damage_anywhere_is_one_sentence_and_never_a_traceback(room, name, tmp_path, capfd):
    data, wrong = (room[0] / name).read_bytes(), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 4):
            broken[at] = rng.integers(256)
        (tmp_path / name).write_bytes(broken)
        try:
            opened(tmp_path / name)
        except CannotDo as e:
            wrong.append(str(e))
    assert wrong and not any("\n" in said for said in wrong)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("cut", [0, 1, 4, 50, 0.5, -1])
def test_a_cut_archive_is_one_sentence(room, cut, tmp_path):
    data = (room[0] / "position.pt2").read_bytes()
    (tmp_path / "cut.pt2").write_bytes(data[: int(len(data) * cut) if isinstance(cut, float) else cut])
    with pytest.raises(CannotDo):
        opened(tmp_path / "cut.pt2")


class Writes(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        torch.save(x, "stolen.bin")
        return x


class Reads(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x + torch.from_file("/etc/hostname", False, 4, dtype=torch.uint8).sum()


@pytest.mark.parametrize("module", [Writes(), Reads()], ids=["writes", "reads"])
def test_torchscript_that_reaches_for_files_is_refused(module, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(tmp_path / "m.pt")
    with pytest.raises(CannotDo, match="which reaches for files"):
        opened(tmp_path / "m.pt")


def test_a_pickle_hidden_in_torchscript_is_never_unpickled(room, tmp_path):
    with zipfile.ZipFile(room[0] / "script.pt") as z:
        parts = [name.partition("/")[2] for name in z.namelist()]
    for part in parts:
        path = altered(room[0] / "script.pt", tmp_path, part, lambda _: pickle.dumps(Trap(tmp_path), protocol=2))
        with contextlib.suppress(CannotDo, RuntimeError):
            opened(path)(torch.ones(1, 3))
    assert not (tmp_path / "sprung").exists()
