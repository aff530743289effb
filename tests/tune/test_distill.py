"A student is kept only where speed and skill are shown, and leaves nothing behind where they are not."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seatrial.engine.export import export
from seatrial.engine.preparation import Plain
from seatrial.engine.race import Speed
from seatrial.engine.runtime import load
from seatrial.engine.signature import Signature, TensorSpec
from seatrial.stats.comparison import NotEnough
from seatrial.tune.distill import Terms, answered, distill, judged, lesson, shortfall, skill, sliced

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -1.0, 0.5]) + 0.3 * RNG.normal(size=400)).astype(np.float32)
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1,)),))
QUICK = {"batches": (1, 4), "seconds": 0.05}


class Line(nn.Module):
    "One line through the inputs."

    def __init__(self, weights=(0.0, 0.0, 0.0)):
        super().__init__()
        self.head = nn.Linear(3, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([weights]))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(x).squeeze(-1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "bundle"
    return load(export(Line((1.0, -1.0, 0.5)), {"x": X[:2]}, folder, signature=SIGNATURE), threads=1)


def run(teacher, folder, terms, **how):
    recipe = {"epochs": 15, "lr": 0.1, "batch": 50, "patience": 15} | how
    learn, judge = {"x": X[:200]}, ({"x": X[200:]}, Y[200:])
    return distill(teacher, Line(), learn, judge, folder, preparation=Plain(), terms=terms, **recipe)


def test_a_student_that_meets_its_terms_leaves_as_the_bundle_that_was_judged(teacher, tmp_path):
    made = run(teacher, tmp_path / "kept", Terms(1e-6, 0.9, **QUICK))
    assert made.kept and "of the teacher's R²" in made.reason
    assert np.isclose(skill(Y[200:], answered(load(made.bundle), {"x": X[200:]})), made.skills["student"])


def test_a_student_that_is_slow_and_learned_nothing_hears_both_and_leaves_no_file(teacher, tmp_path):
    made = run(teacher, tmp_path / "refused", Terms(1e6, 0.97, **QUICK), epochs=1, lr=1e-9)
    assert not made.kept and made.bundle is None and not (tmp_path / "refused").exists()
    assert "times as fast" in made.reason and "97% of the teacher's R²" in made.reason
    assert made._repr_markdown_().startswith("**Refused**")


def test_labels_overrule_a_teacher_that_is_wrong(teacher, tmp_path):
    learn, judge = {"x": X[:200]}, ({"x": X[200:]}, -Y[200:])
    how = {"preparation": Plain(), "terms": Terms(**QUICK), "epochs": 15, "lr": 0.1, "batch": 50, "patience": 15}
    made = distill(teacher, Line(), learn, judge, tmp_path / "new", labels=-Y[:200], trust=1.0, **how)
    assert made.skills["teacher"] < 0 and made.skills["student"] > 0.9
    assert not made.kept and "explains nothing" in made.reason  # whom nobody should imitate


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=20),
    st.floats(0, 1),
    st.floats(-5, 5),
    st.floats(-5, 5),
)
def test_the_mixture_and_both_losses_differ_by_a_constant(answers, trust, a, b):
    t = np.array(answers)
    y = t[::-1].copy()
    goal = lesson(t, y, trust).astype(float)

    def gap(said):
        return (1 - trust) * (said - t) ** 2 + trust * (said - y) ** 2 - (said - goal) ** 2

    assert np.allclose(gap(a), gap(b), atol=1e-4)


def test_rows_without_a_label_keep_the_teachers_answer():
    assert np.array_equal(lesson(np.array([1.0, 2.0]), [np.nan, 4.0], 1.0), np.array([1, 4], np.float32))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.5, 1))
def test_the_shortfall_is_the_missing_share_of_skill_times_the_variance(seed, share):
    rng = np.random.default_rng(seed)
    y, t, s = rng.normal(size=(3, 60))
    found = shortfall(y, t, s, Terms(share=share))
    assert np.isclose(found.effect, (share * skill(y, t) - skill(y, s)) * y.var())


def test_clusters_widen_the_shortfall_where_rows_of_one_document_err_alike():
    rng = np.random.default_rng(1)
    document = np.repeat(np.arange(40), 10)
    shared = rng.normal(size=40)[document]
    y = rng.normal(size=400)
    t, s = y + 0.5 * rng.normal(size=400), y + shared
    rows, by_document = (shortfall(y, t, s, Terms(), clusters=c) for c in (None, document))
    assert by_document.upper > rows.upper and np.isclose(by_document.effect, rows.effect)


def test_every_fault_is_named_and_an_ignorant_teacher_comes_first():
    slow, short = Speed(8, 2.0, 1.9, 2.1, 50), NotEnough(2, 1, "one row")
    kept, reason = judged({"teacher": 0.5, "student": 0.1}, short, [slow], Terms())
    assert not kept and "3 times as fast" in reason and "one row" in reason
    assert "explains nothing" in judged({"teacher": 0.0, "student": 0.9}, short, [slow], Terms())[1]


def test_a_slice_keeps_the_named_layers_and_leaves_the_original_alone():
    stack = nn.Sequential(nn.Linear(2, 2))
    stack.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
    made = sliced(stack, (0, 3))
    assert len(made.layers) == 2 and len(stack.layers) == 4
    assert torch.equal(made.layers[1].weight, stack.layers[3].weight)
    for bad in ((), (4,), (-1,)):
        with pytest.raises(ValueError, match="keep must name some of the layers 0 to 3"):
            sliced(stack, bad)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Terms(share=97), "share must be a share between 0 and 1, got 97"),
        (lambda: Terms(alpha=1.0), "alpha must be"),
        (lambda: Terms(faster=-1), "faster must be a positive number"),
        (lambda: lesson(np.zeros(2), trust=2), "trust must be between 0 and 1"),
        (lambda: lesson(np.zeros(2), [1.0]), "one for each of 2 rows"),
        (lambda: skill(np.ones(4), np.zeros(4)), "targets must vary"),
    ],
)
def test_bad_terms_and_bad_labels_get_one_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_one_row_cannot_both_teach_and_stop(teacher, tmp_path):
    with pytest.raises(ValueError, match="learn must leave rows for both"):
        distill(teacher, Line(), {"x": X[:1]}, ({"x": X[200:]}, Y[200:]), tmp_path / "one", preparation=Plain())


def test_a_folder_that_holds_something_is_refused_before_any_training(teacher, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="folder must be new or empty"):
        run(teacher, tmp_path, Terms(**QUICK))
    assert (tmp_path / "mine.txt").read_text() == "keep me"
