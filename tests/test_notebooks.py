"Every notebook is a test: its lessons run against the exported package."

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
COMMAND = [sys.executable, "tools/notebooks.py"]
PATIENCE_S = 290


def alone(notebook, log):
    "Exit status of a fresh process that runs one notebook."
    with log.open("w") as out:
        return subprocess.run([*COMMAND, notebook], cwd=ROOT, stdout=out, stderr=out, timeout=PATIENCE_S).returncode


class Forks:
    "Runs each notebook in a fork of one process that has imported the libraries: seconds less for each notebook."

    def __init__(self):
        self.server = None

    def __call__(self, notebook, log):
        if self.server is None:
            self.server = subprocess.Popen(
                [*COMMAND, "--serve"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        try:
            self.server.stdin.write(f"{notebook}\t{log}\n")
            self.server.stdin.flush()
            if not select.select([self.server.stdout], [], [], PATIENCE_S)[0]:
                raise TimeoutError(f"{notebook} ran for more than {PATIENCE_S} s")
            return int(self.server.stdout.readline())
        except BaseException:
            self.close(hurry=True)
            raise

    def close(self, hurry=False):
        "Let the server end; in a hurry, kill it and what it runs."
        server, self.server = self.server, None
        if server is None:
            return
        if hurry:
            os.killpg(server.pid, signal.SIGKILL)
        with server:  # closes its pipes, which ends it
            pass


@pytest.fixture(scope="session")
def run(request):
    "What runs a notebook: forks where many are to be run and forking is safe."
    many = sum("notebook" in item.fixturenames for item in request.session.items) > 8
    runner = Forks() if many and sys.platform == "linux" else None
    yield runner or alone
    if runner:
        runner.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_holds_for_the_exported_package(notebook, run, tmp_path):
    log = tmp_path / "log"
    status = run(notebook, log)
    assert status == 0, f"{notebook}: status {status}\n{log.read_text()[-8000:]}"
