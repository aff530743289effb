"Expected losses: the learner, its honesty on the reference, the intervals, and what is refused."

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from seatrial.drift.loss import additive, crossed, expected_loss, hinges, losses, resampled, scatter
from seatrial.drift.trust import Estimate, late
from seatrial.stats.comparison import NotEnough

RNG = np.random.default_rng


def world(rng, n, harder=0.0, factor=1.0):
    x = np.clip(rng.normal(harder, 1, (n, 2)), -3, 3)
    return x, np.abs(rng.normal(size=n)) * factor * (1 + np.maximum(x[:, 0], 0))


def test_the_learner_is_a_ridge_regression():
    x, loss = world(RNG(0), 400)
    design = hinges(x)
    ours = additive(x, loss + 10, penalty=2.0)(x)
    their = Ridge(alpha=2.0).fit(design(x)[:, 1:], loss + 10).predict(design(x)[:, 1:])
    assert np.allclose(ours, their, atol=1e-4)


def test_beyond_the_reference_the_curve_stays_where_it_was():
    x, loss = world(RNG(1), 400)
    g = additive(x, loss)
    assert np.array_equal(g(x.max(axis=0, keepdims=True)), g(np.array([[1e9, 1e9]])))


@given(st.integers(0, 2**20))
def test_no_expected_loss_is_negative(seed):
    rng = RNG(seed)
    x, loss = rng.normal(size=(60, 2)), rng.pareto(1.0, 60)
    assert (additive(x, loss)(rng.normal(0, 5, (50, 2))) >= 0).all()


def test_a_constant_column_changes_nothing():
    x, loss = world(RNG(2), 300)
    wide = np.column_stack([x, np.ones(300)])
    assert np.allclose(additive(x, loss)(x), additive(wide, loss)(wide), atol=1e-6)


def test_no_row_is_judged_by_a_fit_that_has_seen_its_cluster():
    x, loss = world(RNG(3), 200)
    cluster = np.arange(200) // 10
    before, other = crossed(additive, x, loss, cluster, RNG(4)), loss.copy()
    other[:10] += 100
    assert np.array_equal(crossed(additive, x, other, cluster, RNG(4))[:10], before[:10])


def test_a_resample_holds_whole_clusters():
    cluster = np.repeat(np.arange(30), 4)[RNG(5).permutation(120)]
    drawn = np.bincount(cluster[resampled(cluster, RNG(6))], minlength=30)
    assert (drawn % 4 == 0).all() and drawn.sum() == 120


def test_the_scatter_of_half_normal_losses_is_the_one_known():
    loss = np.abs(RNG(7).normal(size=50_000))
    assert scatter(loss, np.full(50_000, np.sqrt(2 / np.pi)), np.arange(50_000)) == pytest.approx(
        np.pi / 2 - 1, rel=0.03
    )


@pytest.mark.parametrize(("harder", "target"), [(0.0, "batch"), (0.7, "batch"), (0.7, "stream")])
def test_intervals_hold_as_often_as_they_say_while_only_the_inputs_move(harder, target):
    rng, hits = RNG(8), []
    truth = world(rng, 400_000, harder)[1].mean()
    for _ in range(100):
        (x, loss), (now, came) = world(rng, 500), world(rng, 200, harder)
        e = expected_loss(x, loss, now, rng, target=target, runs=25)
        hits.append(e.lower <= (came.mean() if target == "batch" else truth) <= e.upper)
    assert np.mean(hits) >= 0.94 - 3.5 * np.sqrt(0.06 * 0.94 / 100)


def test_clusters_make_the_interval_wider():
    rng = RNG(9)
    day = np.repeat(np.arange(100), 12)
    x, loss = rng.normal(size=(1200, 1)), np.repeat(rng.exponential(size=100), 12)
    alone, together = (expected_loss(x, loss, x[:240], RNG(0), groups=g, runs=25) for g in (None, day))
    assert together.upper - together.lower > 2 * (alone.upper - alone.lower)


def test_concept_drift_misleads_the_estimate_and_late_labels_find_it_out():
    rng = RNG(10)
    (x, loss), (now, came) = world(rng, 1000), world(rng, 400, factor=1.6)
    e = expected_loss(x, loss, now, rng)
    assert e.trusted and came.mean() > e.upper and late(e).update(e.rows, came).result.contradicted
    calm = world(rng, 400)
    e = expected_loss(x, loss, calm[0], rng)
    assert not late(e).update(e.rows, calm[1]).result.contradicted


def test_a_learner_that_is_handed_in_is_the_one_that_answers():
    rng = RNG(11)
    (x, loss), (now, _) = world(rng, 300), world(rng, 60)
    e = expected_loss(x, loss, now, rng, fit=lambda x, loss: lambda rows: np.full(len(rows), 7.0), runs=5)
    assert e.value == 7.0 and e.error == 0.0 and isinstance(e, Estimate)


def test_rows_where_the_reference_has_none_are_not_trusted():
    rng = RNG(12)
    (x, loss), (now, _) = world(rng, 500), world(rng, 100)
    e = expected_loss(x, loss, now + np.array([20, 0]), rng, names=["wind", "rain"])
    assert not e.trusted and "wind" in e.reasons[0]


def test_too_little_is_an_answer_of_its_own():
    rng = RNG(13)
    x, loss = world(rng, 100)
    assert isinstance(expected_loss(x, loss, x[:9], rng), NotEnough)
    assert isinstance(expected_loss(x[:49], loss[:49], x, rng), NotEnough)
    assert isinstance(expected_loss(x[:0], loss[:0], x, rng), NotEnough)
    assert isinstance(expected_loss(x, loss, x, rng, groups=np.arange(100) // 10), NotEnough)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loss": np.full(60, np.nan)}, "loss must be finite"),
        ({"loss": -np.ones(60)}, "loss must not be negative, got -1"),
        ({"loss": np.ones(59)}, "one value for each of 60 reference rows, got 59"),
        ({"current": np.ones((20, 3))}, "as wide, got 2 and 3"),
        ({"current": np.full((20, 2), np.inf)}, "current must be finite"),
        ({"groups": [1, 2]}, "one key for each of 60 reference rows"),
        ({"target": "both"}, "target must be one of batch, stream"),
        ({"alpha": 1}, "alpha must lie strictly"),
        ({"names": ["x"]}, "one entry a column"),
    ],
)
def test_bad_input_is_refused_by_name(changed, said):
    x, loss = world(RNG(14), 60)
    given = {"reference": x, "loss": loss, "current": x[:20]} | changed
    with pytest.raises(ValueError, match=said):
        expected_loss(rng=RNG(0), runs=5, **given)


def test_losses_are_the_usual_two_and_need_rows_that_match():
    assert losses([1, 2], [3, 2]).tolist() == [2, 0] and losses([1, 2], [3, 2], "squared").tolist() == [4, 0]
    with pytest.raises(ValueError, match="one value a row each, got 1 and 2"):
        losses([1], [1, 2])


def test_an_interval_takes_runs_and_a_learner_that_gives_numbers():
    x, loss = world(RNG(0), 200)
    with pytest.raises(ValueError, match="runs must be"):
        expected_loss(x, loss, x, RNG(0), runs=1)
    with pytest.raises(ValueError, match="what fit predicts must be finite"):
        expected_loss(x, loss, x, RNG(0), fit=lambda x, y: lambda rows: np.full(len(rows), np.nan))
