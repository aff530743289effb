"""Estimators come in odd forms: each becomes a bundle that answers as it did, or one sentence."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, OneClassSVM

from seatrial.base.settings import CannotDo
from seatrial.engine.export import bundle_of
from seatrial.engine.runtime import load

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "model",
    [
        IsolationForest(n_estimators=5, random_state=0),
        OneClassSVM(),
        LocalOutlierFactor(novelty=True),
        make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, random_state=0)),
    ],
    ids=["forest", "one class", "local", "pipeline"],
)
def test_a_detector_of_outliers_answers_with_label_and_score(model, tmp_path):
    bundle = bundle_of(model.fit(X), X, tmp_path / "b")
    out, live = load(bundle).run({"x": X}), load(model, example=X).run({"x": X})
    assert out["label"].tolist() == live["label"].tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(out["score"], model.decision_function(X), atol=1e-4)


def test_a_clustering_answers_with_labels(tmp_path):
    model = KMeans(3, n_init=1, random_state=0).fit(X)
    assert load(bundle_of(model, X, tmp_path / "b")).run({"x": X})["label"].tolist() == model.predict(X).tolist()


@pytest.mark.parametrize("scaled", [False, True])
def test_a_classifier_without_probabilities_keeps_its_labels(scaled, tmp_path):
    labels = np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)]
    model = (make_pipeline(StandardScaler(), LinearSVC()) if scaled else LinearSVC()).fit(X, labels)
    assert load(bundle_of(model, X, tmp_path / "b")).run({"x": X})["label"].tolist() == model.predict(X).tolist()


@pytest.mark.parametrize("model", [RandomForestClassifier(3), MultiOutputClassifier(LogisticRegression())])
def test_a_classifier_of_several_labels_is_told_so(model, tmp_path):
    model.fit(X, (X[:, :2] > 0).astype(int))
    with pytest.raises(CannotDo, match="gives 2 labels a row"):
        bundle_of(model, X, tmp_path / "b")
