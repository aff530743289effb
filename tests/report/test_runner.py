import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from seatrial.base.journal import Journal
from seatrial.base.record import Decision, Prediction
from seatrial.base.settings import SECTIONS, CannotDo, PathSettings, Settings, load
from seatrial.registry.manifest import UnknownVersion
from seatrial.report.runner import environment, kernel, put, record, recordable, run, stamp
from seatrial.report.template import checked_parameters, parameters_of, read_template
from seatrial.rollout.trial import Gate, Plan, plan_to_dict

ROOT = Path(__file__).resolve().parent.parent.parent
CELL = """
days: int = 7  # how far back
share: float = 0.5
fail: bool = False
only: list[str] = []
until: str | None = None
"""


def template(folder, *cells, parameters=CELL, name="small"):
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_markdown_cell("# Small\n> A question?")]
    made.cells += [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made.cells += [
        nbformat.v4.new_markdown_cell(c) if c.startswith("## ") else nbformat.v4.new_code_cell(c) for c in cells
    ]
    path = Path(folder) / f"{name}.ipynb"
    nbformat.write(made, path)
    return path


@pytest.fixture
def settings(tmp_path, books):
    made = Settings(paths=PathSettings(tmp_path / "artifacts", tmp_path / "data"))
    made.paths.artifacts.mkdir()
    shutil.copy(books, made.paths.artifacts)
    return made


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"day": 7}, r"report 'small' has no parameter 'day'; it has days: int, share: float"),
        ({"days": "7"}, r"parameter 'days' of report 'small' must be int, got '7' \(str\)"),
        ({"days": 7.5}, r"must be int, got 7\.5"),
        ({"days": True}, r"must be int, got True"),
        ({"share": float("nan")}, r"must be float, got nan"),
        ({"fail": 1}, r"must be bool, got 1"),
        ({"only": "1.0.0"}, r"must be list\[str\], got '1\.0\.0'"),
        ({"only": [1]}, r"must be list\[str\], got \[1\]"),
        ({"until": 3}, r"must be str \| None, got 3"),
        ({"days": None}, r"must be int, got None"),
    ],
)
def test_a_wrong_parameter_is_named_before_a_kernel_starts(tmp_path, settings, monkeypatch, given, says):
    monkeypatch.setattr("papermill.execute_notebook", lambda *a, **k: pytest.fail("a kernel was started"))
    with pytest.raises(ValueError, match=says):
        run(template(tmp_path), given, settings)
    assert not (settings.paths.artifacts / "reports").exists()


def test_right_parameters_are_filled_up_with_defaults(tmp_path):
    small = read_template(template(tmp_path))
    told = checked_parameters(small, {"share": 1, "until": "now", "only": ["a"]})
    assert told == {"days": 7, "share": 1, "fail": False, "only": ["a"], "until": "now"}


@pytest.mark.parametrize("cell", ["x: int = f()", "x: int = 'a'", "x: complex = 1", "x: list[int] = ['a']"])
def test_a_parameters_cell_that_contradicts_itself_is_refused(cell):
    with pytest.raises(ValueError, match="parameter 'x'"):
        parameters_of(cell)


def test_a_report_leaves_its_three_files_and_is_kept_in_mlflow(tmp_path, settings):
    cells = (
        "## Found",
        "from seatrial.report.runner import record\nrecord(n=days, word='so', share=share)\nprint('SEEN', 6 * days)",
        "## Nothing",
        "None",
    )
    done = run(template(tmp_path, *cells), {"days": 3}, settings)
    assert (done.ok, done.error, done.metrics) == (True, None, {"n": 3, "word": "so", "share": 0.5})
    assert re.fullmatch(r"\d{8}t\d{6}-[0-9a-f]{8}", done.folder.name)
    assert done.folder.parent == settings.paths.artifacts / "reports" / "small"
    assert sorted(p.name for p in done.folder.iterdir()) == ["metrics.json", "report.html", "report.ipynb"]
    page = done.html.read_text()
    assert "SEEN 18" in page
    assert "record(" not in page and "import" not in page.split("</style>")[1]
    assert "Found" in page and "Nothing" not in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    facts = json.loads((done.folder / "metrics.json").read_text())
    assert facts["ok"] is True and facts["parameters"]["days"] == 3 and facts["metrics"]["n"] == 3
    assert [p.name for p in done.folder.parent.iterdir()] == [done.folder.name]

    from seatrial.registry.tracking import quiet_mlflow, tracking

    client = tracking(settings)
    with quiet_mlflow():
        (kept,) = client.search_runs([client.get_experiment_by_name("seatrial reports").experiment_id])
        assert {f.path for f in client.list_artifacts(kept.info.run_id)} == {
            "metrics.json",
            "report.html",
            "report.ipynb",
        }
    assert (kept.info.status, kept.data.metrics, kept.data.params["days"]) == ("FINISHED", {"n": 3, "share": 0.5}, "3")


def test_a_failing_report_leaves_its_three_files_with_the_error_on_top(tmp_path, settings):
    cells = ("from seatrial.report.runner import record\nrecord(before=1)\nprint('BEFORE')", "1 / 0", "print('AFTER')")
    done = run(template(tmp_path, *cells), settings=settings)
    assert not done.ok
    assert done.error == "ZeroDivisionError: division by zero (cell 4)"
    assert sorted(p.name for p in done.folder.iterdir()) == ["metrics.json", "report.html", "report.ipynb"]
    page = done.html.read_text()
    assert page.index("This report failed") < page.index("division by zero") < page.index("BEFORE")
    assert "AFTER" not in page
    assert json.loads((done.folder / "metrics.json").read_text())["error"] == done.error
    assert done.metrics == {"before": 1}
    ran = nbformat.read(done.notebook, 4)
    assert any(out.output_type == "error" for c in ran.cells for out in c.get("outputs", ()))


def test_a_kernel_that_is_killed_still_leaves_a_report(tmp_path, settings):
    done = run(template(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), settings=settings)
    assert not done.ok
    assert "kernel died" in done.error
    assert "This report failed" in done.html.read_text()


def test_the_kernel_is_this_interpreter_with_these_settings(tmp_path, settings):
    cells = (
        "import sys\nfrom seatrial.base.settings import load\nfrom seatrial.report.runner import record",
        "record(python=sys.executable, artifacts=str(load().paths.artifacts), timeout=load().report.timeout_s)",
    )
    told = load(environ=environment(settings) | {"SEATRIAL_REPORT_TIMEOUT_S": "77"})
    done = run(template(tmp_path, *cells), settings=told)
    assert done.metrics == {"python": sys.executable, "artifacts": str(settings.paths.artifacts), "timeout": 77.0}
    assert kernel(settings)().kernel_spec.argv[0] == sys.executable


def test_settings_survive_the_way_through_the_environment(settings):
    again = load(environ=environment(settings))
    assert {s: getattr(again, s) for s in SECTIONS} == {s: getattr(settings, s) for s in SECTIONS}


def test_a_second_report_of_the_same_second_never_overwrites(tmp_path):
    place, names = tmp_path / "20260314t092653-1a2b3c4d", []
    for text in ("a", "b", "c"):
        made = tmp_path / f".made-{text}"
        made.mkdir()
        (made / "report.html").write_text(text)
        names.append(put(made, place))
    assert [(p.name, (p / "report.html").read_text()) for p in names] == [
        (place.name, "a"),
        (f"{place.name}-2", "b"),
        (f"{place.name}-3", "c"),
    ]


def test_the_hash_tells_questions_apart(tmp_path):
    small = read_template(template(tmp_path))
    assert stamp(small, {"days": 1}, 0.0) == stamp(small, {"days": 1}, 0.0)
    assert stamp(small, {"days": 1}, 0.0) != stamp(small, {"days": 2}, 0.0)
    assert stamp(small, {"days": 1}, 0.0).startswith("19700101t000000-")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], {"a": 1}, object()])
def test_what_a_dashboard_cannot_show_is_not_recorded(value):
    with pytest.raises(ValueError, match="found must be"):
        record(found=value)


def test_numpy_scalars_are_recorded_as_plain_numbers():
    import numpy as np

    assert [type(recordable("x", v)) for v in (np.float32(1), np.int64(2), np.bool_(True), np.array(3.5))] == [
        float,
        int,
        bool,
        float,
    ]


def test_a_read_only_place_is_one_sentence(tmp_path):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(CannotDo, match="cannot write the report below"):
        run(template(tmp_path), settings=Settings(paths=PathSettings(tmp_path / "artifacts", tmp_path / "data")))


@pytest.mark.parametrize("name", ["model_card", "trial", "drift"])
def test_a_template_says_plainly_that_nothing_is_there_and_creates_nothing(tmp_path, settings, name):
    path = ROOT / "nbs" / "reports" / f"{name}.ipynb"
    done = run(path, settings=settings)
    assert (done.ok, done.error) == (True, None)
    assert re.search(r"No model is registered|No trial has been run|Nothing has been served", done.html.read_text())
    assert done.metrics["verdict"] in ("nothing registered", "no such trial", "not enough data")
    assert not (settings.paths.artifacts / "journal").exists()


def test_the_runner_imports_nothing_heavy():
    heavy = ("mlflow", "papermill", "nbconvert", "torch")
    code = f"import sys, seatrial.report.runner\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HOSTILE = "<script>alert(1)</script> ![x](https://example.org/x.png) `so`"


def test_text_from_the_journal_is_text_on_the_page(settings):
    plan = Plan("one", "tone", "1.0.0", "1.0.1", (Gate("abs_error", margin=0.1),), outcome="rating")
    with Journal.open(settings) as journal:
        journal.decide(Decision("start", "tone", "one", "1.0.0", "1.0.1", "", plan_to_dict(plan), "ann"))
        journal.decide(Decision("abort", "tone", "one", "1.0.1", "1.0.0", HOSTILE, {"stage": 0}, "<b>bo</b>"))
    done = run(ROOT / "nbs" / "reports" / "trial.ipynb", settings=settings)
    assert (done.ok, done.metrics["verdict"]) == (True, "aborted")
    page = done.html.read_text()
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2  # the headline, and the list of decisions
    assert not re.findall(r"<script|<b>bo|<code>so|example\.org/x\.png\"", page)


@pytest.mark.parametrize(
    ("name", "asked", "says"),
    [
        ("trial", {"trial": "nope"}, "no trial 'nope' is in the journal"),
        ("model_card", {"name": "nope"}, "no model named 'nope' is registered"),
        ("model_card", {"version": "9.0.0"}, "no model"),
        ("drift", {"model": "nope"}, "no model 'nope' is registered"),
        ("drift", {"trial": "nope"}, "no trial 'nope' is in the journal"),
    ],
)
def test_asking_for_what_is_not_there_is_one_sentence(settings, monkeypatch, name, asked, says):
    for key, value in environment(settings).items():
        monkeypatch.setenv(key, value)
    path = ROOT / "nbs" / "reports" / f"{name}.ipynb"
    names = checked_parameters(read_template(path), asked)
    cells = (c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code" and "tags" not in c.metadata)
    with pytest.raises((CannotDo, UnknownVersion), match=says):  # as a kernel would, only sooner
        exec("\n".join(cells), names)


def test_asking_for_what_is_not_there_ends_not_ok_with_the_three_files(settings):
    done = run(ROOT / "nbs" / "reports" / "trial.ipynb", {"trial": "nope"}, settings=settings)
    assert not done.ok
    assert "no trial 'nope' is in the journal" in done.error
    assert sorted(p.name for p in done.folder.iterdir()) == ["metrics.json", "report.html", "report.ipynb"]


def test_a_feature_that_no_longer_arrives_is_reported_and_a_new_one_is_named(settings):
    rows = [
        Prediction(
            f"r{i}",
            "champion",
            1e9 + i,
            "",
            "one",
            "1.0.0",
            features={"heat": i % 7, "tone": "ab"[i % 2]} | ({"dead": i % 5} if i < 100 else {"fresh": i % 3}),
            outputs={"y": [i % 11]},
        )
        for i in range(200)
    ]
    with Journal.open(settings) as journal:
        journal.append(rows)
    done = run(ROOT / "nbs" / "reports" / "drift.ipynb", settings=settings)
    assert (done.ok, done.error) == (True, None)
    assert done.metrics["verdict"] == "shifted" and done.metrics["recommendation"] == "stop"
    page = done.html.read_text()
    assert "missing in 0.0% → 100.0% of rows" in page and "without a reference: fresh" in page
