import pytest

from seatrial.serve.server import launch
from tests.serve.harbour import settings_for, shelve


@pytest.fixture(scope="session")
def sea(tmp_path_factory):
    "A server with two models, for tests that leave it as they found it: (running, settings)."
    home = tmp_path_factory.mktemp("sea")
    artifacts = home / "artifacts"
    shelve(artifacts, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}, "triple": {"1.0.0": [3.0]}})
    settings = settings_for(artifacts)
    with launch(settings=settings, port=0, log=home / "log") as running:
        yield running, settings
