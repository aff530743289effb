"What every test shares: a place of its own for artifacts, and an order that runs first what changed last."

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.fixture
def place(tmp_path, monkeypatch):
    "An empty project folder that is the current one; everything generated lands below it."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEATRIAL_PATHS_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("SEATRIAL_PATHS_DATA", str(ROOT / "data"))
    return tmp_path
