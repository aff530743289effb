"""What can be said of Core ML where there is none."""

import importlib.util

import numpy as np
import pytest
import torch

from seatrial.base.settings import CannotDo
from seatrial.engine.coreml import coreml, decomposed

X = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
NET = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())


def test_the_program_answers_as_the_module_does():
    program = decomposed(NET, X).module()
    for rows in (1, 2, 9):
        x = torch.from_numpy(X[:rows])
        np.testing.assert_allclose(program(input=x).detach(), NET(x).detach(), atol=1e-6)


@pytest.mark.parametrize(("name", "words"), [("net.onnx", "end in .mlpackage"), ("taken.mlpackage", "must be new")])
def test_odd_places_are_refused(name, words, tmp_path):
    (tmp_path / "taken.mlpackage").mkdir()
    with pytest.raises(ValueError, match=words):
        coreml(NET, X, tmp_path / name)


@pytest.mark.parametrize("odd", [1, 0, 2.5, "many"])
def test_an_odd_limit_is_refused(odd):
    with pytest.raises(ValueError, match="rows_max must be"):
        decomposed(NET, X, odd)


@pytest.mark.skipif(importlib.util.find_spec("coremltools") is not None, reason="coremltools is installed")
def test_without_the_extra_one_sentence_says_what_to_install(tmp_path):
    with pytest.raises(CannotDo, match="pip install coremltools"):
        coreml(NET, X, tmp_path / "net.mlpackage")


@pytest.mark.skipif(
    importlib.util.find_spec("coremltools") is None, reason="needs coremltools (pip install coremltools)"
)
def test_with_the_extra_a_package_is_written(tmp_path):
    assert coreml(NET, X, tmp_path / "net.mlpackage").is_dir()
