"""Histogram gradient boosting leaves Python and no row falls into another leaf."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from seatrial.base.settings import CannotDo
from seatrial.engine.export import bundle_of
from seatrial.engine.runtime import load
from seatrial.engine.trees import floor32

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 4)).astype(np.float32)
X[RNG.random(X.shape) < 0.1] = np.nan
Y = np.nan_to_num(X) @ [1, -1, 2, 0.5]


@given(theta=st.floats(-1e38, 1e38), x=st.floats(width=32, allow_nan=False))
def test_no_float32_number_changes_sides(theta, x):
    low = floor32(np.array([theta]))[0]
    assert (np.float64(x) <= theta) == (np.float32(x) <= low)


@given(theta=st.floats(-1e30, 1e30))
def test_the_neighbours_of_a_threshold_stay_on_their_sides(theta):
    low = floor32(np.array([theta]))[0]
    assert np.float64(low) <= theta < np.float64(np.nextafter(low, np.float32(np.inf)))


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "poisson", "gamma", "quantile"])
def test_every_loss_of_a_regressor_is_converted(loss, tmp_path):
    y = np.exp(Y / 4) if loss in ("poisson", "gamma") else Y
    more = {"quantile": 0.9} if loss == "quantile" else {}
    model = HistGradientBoostingRegressor(loss=loss, max_iter=20, **more).fit(X, y)
    bundle = bundle_of(model, X, tmp_path / "b")
    assert bundle.card["parity"]["largest"] < 1e-5 and bundle.signature.inputs[0].missing
    np.testing.assert_allclose(load(bundle).run({"x": X})["prediction"], model.predict(X.astype(float)), rtol=1e-4)


@pytest.mark.parametrize("labels", [["calm", "busy"], [0, 1], [2, 5, 9], ["a", "b", "c", "d"]])
def test_classifiers_keep_their_labels(labels, tmp_path):
    y = np.array(labels)[np.digitize(Y, np.quantile(Y, np.arange(1, len(labels)) / len(labels)))]
    model = HistGradientBoostingClassifier(max_iter=10).fit(X, y)
    said = load(bundle_of(model, X, tmp_path / "b")).run({"x": X})
    assert said["label"].tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(said["probabilities"], model.predict_proba(X), atol=1e-5)


def test_it_works_inside_a_pipeline(tmp_path):
    model = make_pipeline(SimpleImputer(strategy="constant"), HistGradientBoostingRegressor(max_iter=10)).fit(X, Y)
    said = load(bundle_of(model, X, tmp_path / "b")).run({"x": X})["prediction"]
    np.testing.assert_allclose(said, model.predict(X), rtol=1e-4, atol=1e-5)


def test_scaling_in_float32_that_moves_rows_across_thresholds_is_refused_with_what_to_do(tmp_path):
    whole = np.nan_to_num(X)
    model = make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_iter=10)).fit(whole, Y)
    with pytest.raises(CannotDo, match="leave scaling out before trees"):
        bundle_of(model, whole, tmp_path / "b", batches=(600,))
    assert list(tmp_path.iterdir()) == []


def test_a_hole_where_training_had_none_goes_where_scikit_learn_sends_it(tmp_path):
    whole = np.nan_to_num(X)
    model = HistGradientBoostingRegressor(max_iter=10).fit(whole, Y)
    np.testing.assert_allclose(
        load(bundle_of(model, X, tmp_path / "b")).run({"x": X})["prediction"], model.predict(X), rtol=1e-4
    )


def test_categories_are_refused_with_what_to_do(tmp_path):
    x = np.column_stack([OrdinalEncoder().fit_transform(RNG.choice(list("abc"), (200, 1))), X[:200, 1]])
    model = HistGradientBoostingRegressor(max_iter=2, categorical_features=[0]).fit(x, Y[:200])
    with pytest.raises(CannotDo, match=r"splits on categories.*OrdinalEncoder"):
        bundle_of(model, x, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
