"What every test shares: a place of its own for artifacts, an order that runs first what changed last, a line a file."

import gc
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import hypothesis  # noqa: F401 (else its plugin imports it at the end of a run, where a warning of trio's is an error)
import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import ONNX Runtime before we do
ROOT = Path(__file__).resolve().parent.parent
TOGETHER = ("serve", "client", "docs", "operate")  # rooms whose tests share one server, one site or one registry


def changed_files():
    "Paths changed since the last commit or in it; none outside a checkout."
    names = set()
    if not shutil.which("git"):
        return names
    for command in (["diff", "--no-ext-diff", "--name-only", "HEAD~1"], ["ls-files", "--others", "--exclude-standard"]):
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
        names |= set(done.stdout.split()) if done.returncode == 0 else set()
    return names


def pytest_collection_modifyitems(items):
    "A changed notebook or test runs first, then its room, then the rest."
    changed = changed_files()
    rooms = {
        Path(name).parts[1] for name in changed if name.startswith(("nbs/", "tests/")) and len(Path(name).parts) > 2
    }

    def rank(item):
        path = item.callspec.id if "notebook" in getattr(item, "fixturenames", ()) else str(item.path.relative_to(ROOT))
        room = Path(path).parts[1] if len(Path(path).parts) > 2 else ""
        return 0 if path in changed else 1 if room in rooms else 2

    items.sort(key=rank)
    for item in items:
        if "notebook" not in getattr(item, "fixturenames", ()):
            room, file = item.path.parent.name, item.path.relative_to(ROOT).as_posix()
            item.add_marker(pytest.mark.xdist_group(room if room in TOGETHER else file))


def pytest_collection_finish(session):
    "What has been imported stays: no collection of garbage looks at it again, and statsmodels asks for one a call."
    gc.collect()
    gc.freeze()


class Lines:
    "One line for each file or notebook when its last test is over, in place of a dot for each test."

    def __init__(self, config):
        self.plugins = config.pluginmanager
        self.left, self.seconds, self.outcomes = Counter(), Counter(), {}

    def write(self, line):
        self.plugins.get_plugin("terminalreporter").write_line(line)

    @staticmethod
    def name(nodeid):
        file, _, test = nodeid.partition("::")
        return test.partition("[")[2].partition("]")[0] if file.endswith("test_notebooks.py") else file

    def expect(self, nodeids):
        self.left = self.left or Counter(map(self.name, nodeids))

    def pytest_xdist_node_collection_finished(self, ids):
        self.expect(ids)

    def pytest_collection_finish(self, session):
        self.expect([item.nodeid for item in session.items])

    def pytest_report_teststatus(self, report):
        return ("passed", "", "") if report.when == "call" and report.passed else None

    def pytest_runtest_logreport(self, report):
        name = self.name(report.nodeid)
        self.seconds[name] += report.duration
        if report.failed:
            self.write(f"FAILED {report.nodeid}")
        if report.when == "call" or not report.passed:
            self.outcomes.setdefault(name, Counter())[report.outcome] += 1
        if report.when == "teardown":
            self.left[name] -= 1
            if not self.left[name]:
                found = ", ".join(f"{n} {outcome}" for outcome, n in self.outcomes[name].items())
                self.write(f"{self.seconds[name]:6.1f} s  {name}: {found}")


def pytest_configure(config):
    if not hasattr(config, "workerinput") and config.getoption("verbose") < 1:
        config.pluginmanager.register(Lines(config), "lines")


@pytest.fixture
def place(tmp_path, monkeypatch):
    "An empty project folder that is the current one; everything generated lands below it."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEATRIAL_PATHS_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("SEATRIAL_PATHS_DATA", str(ROOT / "data"))
    return tmp_path


@pytest.fixture(scope="session")
def books(tmp_path_factory):
    "An empty MLflow database: making its tables takes a second, copying them does not."
    from seatrial.base.settings import PathSettings, Settings
    from seatrial.registry.tracking import tracking

    artifacts = tmp_path_factory.mktemp("books") / "artifacts"
    tracking(Settings(paths=PathSettings(artifacts)))
    return artifacts / "mlflow.db"
