"""Whatever file a model comes in, the registry takes it or says why not."""

import warnings

import numpy as np
import pytest
import torch

from seatrial.registry.versions import as_bundle

ROWS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1).eval()


def program(net, path):
    free = ({0: torch.export.Dim("rows")},)
    torch.export.save(torch.export.export(net, (torch.ones(2, 3),), dynamic_shapes=free), path)


def script(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(path)


@pytest.mark.parametrize(
    ("file", "save"),
    [("m.pt2", program), ("m.pt", script), ("m.torchscript", script)],
    ids=["pt2", "pt", "torchscript"],
)
def test_a_torch_file_with_rows_becomes_a_bundle_that_answers_as_it_did(tmp_path, net, file, save):
    from seatrial.engine.runtime import load

    save(net, tmp_path / file)
    with as_bundle(tmp_path / file, ROWS) as bundle:
        answer = load(bundle).run({"input": ROWS})
    np.testing.assert_allclose(next(iter(answer.values())), net(torch.from_numpy(ROWS)).detach(), atol=1e-5)


def test_a_folder_may_be_called_as_a_file_is(tmp_path, net):
    from seatrial.engine.export import bundle_of

    made = bundle_of(net, ROWS, tmp_path / "one.onnx")
    for model in (made, made.folder, str(made.folder)):
        with as_bundle(model, None) as bundle:
            assert bundle == made


def test_how_a_model_becomes_a_bundle_may_be_said_to_the_registry_but_not_of_a_bundle(tmp_path, net):
    from seatrial.engine.export import bundle_of

    with as_bundle(net, ROWS, {"card": {"default": {"prediction": 0.5}}}) as bundle:
        assert bundle.card["default"] == {"prediction": 0.5}
    made = bundle_of(net, ROWS, tmp_path / "made")
    with pytest.raises(ValueError, match="card is said where a bundle is made"), as_bundle(made, None, {"card": {}}):
        pass
