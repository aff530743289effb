"The house stays in order: numbers inside a room, and what must not load."

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seatrial

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "seatrial"


def exporting(path):
    "Whether a notebook makes a module; one without `default_exp` is a worked example."
    return "#| default_exp " in path.read_text(encoding="utf-8")


def numbered():
    "room.module -> the two digits of its notebook, worked examples left out."
    found = {}
    for path in filter(exporting, (ROOT / "nbs").glob("*/[0-9][0-9]_*.ipynb")):
        number, _, name = path.stem.partition("_")
        found[f"{path.parent.name}.{name}"] = int(number)
    return found


def imports(path):
    "Modules of this package that a file imports, as room.module, late imports included."
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            room = path.parent.name if node.level == 1 else ""
            base = ".".join(filter(None, [room, node.module])) if node.level else (node.module or "")
            base = base.removeprefix("seatrial.")
            yield base
            yield from (f"{base}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("seatrial.") for a in node.names)


def test_every_notebook_but_a_worked_example_exports_to_the_module_of_its_name():
    for path in filter(exporting, (ROOT / "nbs").glob("*/[0-9][0-9]_*.ipynb")):
        room, module = path.parent.name, path.stem.partition("_")[2]
        assert f'"#| default_exp {room}.{module}"' in path.read_text(encoding="utf-8"), path.name
        assert (PACKAGE / room / f"{module}.py").exists(), f"nbs/{room}: {module} has no exported module"


def test_a_worked_example_exports_nothing():
    for path in (ROOT / "nbs").glob("*/[0-9][0-9]_*.ipynb"):
        cells = path.read_text(encoding="utf-8")
        assert exporting(path) or not re.search(r'"#\| exports?\b', cells), f"{path.name} exports without default_exp"


def test_every_module_comes_from_a_notebook():
    modules = {f"{p.parent.name}.{p.stem}" for p in PACKAGE.glob("*/*.py") if p.stem != "__init__"}
    assert modules == set(numbered())


def test_inside_a_room_imports_go_to_lower_numbers():
    order = numbered()
    for key, number in order.items():
        room, module = key.split(".")
        for other in set(imports(PACKAGE / room / f"{module}.py")) & order.keys() - {key}:
            if other.startswith(room + "."):
                assert order[other] < number, f"{key} ({number:02}) imports {other} ({order[other]:02})"


def test_the_face_names_what_exists():
    for name in (*seatrial.FACE, "serve"):
        assert callable(getattr(seatrial, name)), name


def loaded_after(code):
    "Top-level modules that a fresh interpreter holds after running the code."
    script = f"{code}\nimport sys\nprint('LOADED', *sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(re.search(r"^LOADED (.*)$", done.stdout, re.M)[1].split())


HELP = "from seatrial.app.cli import run\nrun(['--help'])"


@pytest.mark.parametrize(
    ("code", "never"),
    [
        (HELP, {"torch", "mlflow", "scipy", "litserve", "sklearn", "pandas", "onnxruntime", "matplotlib"}),
        ("import seatrial", {"numpy", "torch", "mlflow", "scipy", "litserve"}),
        (
            "import seatrial.base.journal, seatrial.base.data, seatrial.base.settings",
            {"torch", "mlflow", "pandas", "scipy"},
        ),
        ("import seatrial.stats.sequential, seatrial.drift.shift", {"torch", "mlflow", "pandas", "sqlalchemy"}),
        ("import seatrial.rollout.canary", {"torch", "mlflow", "httpx", "litserve"}),
        ("import seatrial.engine.runtime", {"torch", "mlflow", "sqlalchemy"}),
        ("import seatrial.registry.versions", {"mlflow", "torch"}),
        ("import seatrial.serve.fleet", {"torch", "mlflow", "pandas", "sklearn", "scipy"}),
        ("import seatrial.serve.server", {"litserve", "fastapi", "uvicorn", "numpy", "sqlalchemy", "onnxruntime"}),
        (
            "from seatrial import AsyncClient, Client\nimport seatrial.client.ceiling",
            {"onnxruntime", "litserve", "torch", "tokenizers", "sqlalchemy", "scipy", "pandas", "fastapi", "uvicorn"}
            | {"aiohttp", "httpx", "requests", "opentelemetry"},
        ),
        ("import seatrial.report.runner", {"mlflow", "papermill", "torch"}),
    ],
    ids=[
        "help",
        "package",
        "base",
        "stats and drift",
        "rollout",
        "engine",
        "registry",
        "fleet",
        "serve",
        "client",
        "report",
    ],
)
def test_what_is_heavy_stays_out(code, never):
    assert not loaded_after(code) & never
