"Every notebook is a test: its lessons run against the exported package."

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_holds_for_the_exported_package(notebook):
    command = [sys.executable, "tools/notebooks.py", notebook]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, f"{notebook}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
