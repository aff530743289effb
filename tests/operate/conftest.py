"""A registry with three versions, built once; every test gets a copy, a clock and a controller."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from seatrial.base.journal import Journal
from seatrial.base.record import Outcome, Prediction
from seatrial.base.settings import PathSettings, RolloutSettings, Settings
from seatrial.operate.controller import Controller
from seatrial.registry.versions import Registry
from seatrial.rollout.split import assign
from seatrial.rollout.trial import draft

HOUSE = RolloutSettings(dwell_s=60.0, units_min=30, stages_share=(0.5, 1.0))
START_S = 1_800_000_000.0


def graph(path, weight, columns=1, names=("x", "y")):
    "A linear model as an ONNX file."
    w = helper.make_tensor("w", TensorProto.FLOAT, (columns, 1), np.full(columns, weight, np.float32))
    sizes = zip(names, (columns, 1), strict=True)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in sizes)
    body = helper.make_graph([helper.make_node("MatMul", [names[0], "w"], [names[1]])], "g", [x], [y], [w])
    save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def settings_in(artifacts):
    return replace(Settings(), paths=PathSettings(artifacts=Path(artifacts)), rollout=HOUSE)


class Bay:
    "A harbour: artifacts, a clock that is moved by hand, and as many controllers as a test wants."

    graph = staticmethod(graph)

    def __init__(self, artifacts):
        self.now, self.seen = START_S, 0
        self.settings = settings_in(artifacts)
        self.journal = Journal(artifacts / "journal", clock=lambda: self.now)
        self.registry = Registry(self.settings, self.journal)
        self.controller = self.another("first")

    def another(self, holder):
        return Controller(self.journal, self.registry, self.settings, holder=holder)

    def plan(self, trial="t", champion="1.0.0", challenger="1.1.0", kind="canary", **changes):
        return draft(kind, trial, "film", champion, challenger, HOUSE, outcome="y", **changes)

    def traffic(self, plan, state, errors, units=400, seconds=1.0, status="ok"):
        "Some new units, each answered by its variant with that variant's error; then time passes."
        rows = []
        for i in range(self.seen, self.seen + units):
            role = assign(f"u{i}", plan.salt, state.shares())
            roles = [role, "shadow"] if plan.kind == "shadow" else [role]
            for r in roles:
                version = plan.champion if r == "champion" else plan.challenger
                said = {"y": errors[0 if r == "champion" else 1] * (1 + 0.1 * (i % 7 - 3))}
                fine = status if r != "champion" else "ok"
                rows.append(
                    Prediction(f"r{i}", r, self.now, plan.trial, "film", version, f"u{i}", outputs=said, status=fine)
                )
            rows.append(Outcome(f"r{i}", "y", 0.0, self.now))
        self.seen += units
        self.journal.append(rows)
        self.journal.drain()
        self.now += seconds

    def sail(self, plan, errors, controller=None, looks=60, **kw):
        "Start, then traffic and a tick at a time, until the trial ends; all decisions that were made."
        controller = controller or self.controller
        made = [controller.start(plan)]
        for _ in range(looks):
            self.traffic(plan, controller.memory.states["film"], errors, seconds=30.0, **kw)
            made += controller.tick()
            if not controller.memory.states["film"].live:
                break
        return made

    @property
    def champion(self):
        return self.registry.shelf.resolve("film").version


@pytest.fixture(scope="session")
def registered(tmp_path_factory):
    place = tmp_path_factory.mktemp("registered")
    settings = settings_in(place / "artifacts")
    with Journal.open(settings) as journal:
        registry = Registry(settings, journal)
        for weight, bump in ((1.0, None), (2.0, "minor"), (3.0, "patch")):
            registry.register(graph(place / f"{weight}.onnx", weight), name="film", bump=bump)
        client = registry.client
        del registry, client
    return place / "artifacts"


@pytest.fixture
def bay(registered, tmp_path):
    shutil.copytree(registered, tmp_path / "artifacts")
    bay = Bay(tmp_path / "artifacts")
    yield bay
    bay.journal.close()
