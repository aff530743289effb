"Clients that other people wrote ask our server, and get what they expect."

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seatrial import __version__
from seatrial.engine.bundle import DATATYPES
from seatrial.serve.server import launch
from tests.serve.harbour import echo, settings_for, shelve

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"


@pytest.fixture(scope="module")
def echoes(tmp_path_factory):
    "A server with a model of each datatype that answers what it is asked."
    home = tmp_path_factory.mktemp("echoes")
    shelve(home / "artifacts", {f"echo-{name.lower()}": {"1.0.0": name} for name in DATATYPES}, echo)
    with launch(settings=settings_for(home / "artifacts"), port=0, log=home / "log") as running:
        yield running


@pytest.fixture(scope="module")
def triton(echoes):
    "Everything that tritonclient was told."
    assert PYTHON.exists(), "tritonclient has an environment of its own: make .venv-clients/ready"
    script = Path(__file__).with_name("triton_asks.py")
    done = subprocess.run(
        [PYTHON, script, echoes.url.removeprefix("http://")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_triton_gets_every_datatype_back_either_way_in_every_packing(triton):
    assert triton["wrong"] == [] and triton["asked"] == 2 * (13 * 4 - 2) * 3


def test_triton_finds_health_metadata_configuration_and_index(triton):
    said = triton["described"]
    assert said["live"] and said["ready"] and said["model_ready"] == [True, True] and not said["missing_ready"]
    assert said["server"] == "seatrial" and "echo-fp32" in said["index"]
    assert said["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert said["config"]["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]


def test_triton_gets_its_id_its_version_and_all_outputs_back(triton):
    said = triton["described"]
    assert (said["id"], said["version"], said["without_outputs"]) == ("r-17", "1.0.0", True)


def test_triton_finds_what_was_counted(triton):
    (stats,) = triton["described"]["stats"]
    assert stats["inference_count"] == stats["inference_stats"]["success"]["count"] >= 25
    assert stats["execution_count"] == sum(b["compute_infer"]["count"] for b in stats["batch_stats"]) > 0
    assert triton["described"]["all_stats"] == 13


def test_triton_gets_refusals_as_its_own_exceptions_with_our_sentences(triton):
    errors = triton["described"]["errors"]
    assert {label: error[0] for label, error in errors.items()} == {
        "no model": "404",
        "no version": "404",
        "type": "400",
        "unload": "404",
        "sequence": "400",
    }
    assert "must have datatype INT8, got FP32" in errors["type"][1] and "sequence_id" in errors["sequence"][1]


@pytest.mark.filterwarnings("ignore::UserWarning:mlflow")  # of its own type hints, while it is imported
def test_mlflows_client_scores_frames_arrays_and_columns(tmp_path):
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    shelve(tmp_path / "artifacts", {"sum": {"1.0.0": [1.0, -1.0]}})
    with launch(settings=settings_for(tmp_path / "artifacts"), port=0, log=tmp_path / "log") as running:
        client = ScoringServerClient("127.0.0.1", int(running.url.rpartition(":")[2]))
        client.ping()
        assert client.get_version() == __version__
        rows = pd.DataFrame({"a": [1.0, 5.0], "b": [2.0, 1.0]})
        asked = [rows, rows.to_numpy(), rows.to_numpy().tolist()]
        answers = [client.invoke(data).get_predictions() for data in asked]
        assert all(np.array_equal(answer.to_numpy().ravel(), [-1.0, 4.0]) for answer in answers)
        with pytest.raises(Exception, match=r"BAD_REQUEST.*must have shape"):
            client.invoke(np.ones((2, 3)))
