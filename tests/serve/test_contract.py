import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.contract import ROUTES, found
from seatrial.serve.openapi import openapi, page
from seatrial.serve.protocol import Refused

PART = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=12)


def filled(route, names):
    return re.sub(r"\{(\w+)\}", lambda m: names[m[1]], route.path)


@given(st.sampled_from(ROUTES), PART.filter(lambda p: p not in ("stats", "models")), PART)
def test_every_route_is_found_by_its_path_and_gives_the_names_in_it_back(route, model, version):
    names = {"model": model, "version": version}
    got, places = found(route.method, filled(route, names))
    assert got is route and places == {k: v for k, v in names.items() if f"{{{k}}}" in route.path}


@given(st.sampled_from(ROUTES), st.sampled_from(["PUT", "DELETE", "PATCH", "BREW", ""]))
def test_another_method_is_405_with_the_right_one(route, method):
    with pytest.raises(Refused, match=f"asked with {route.method}") as refused:
        found(method, filled(route, {"model": "m", "version": "1"}))
    assert refused.value.status == 405


@given(st.text(max_size=60))
def test_any_path_is_ours_or_somebody_elses(path):
    if (said := found("GET", "/" + path.replace("v1", "").replace("v2", ""))) is not None:
        assert said[0].path.count("/") == 1


@pytest.mark.parametrize(
    "path", ["/v2/models//infer", "/v2//models/m", "/v2/models/a/b/infer", "/v2/models/m/versions//infer"]
)
def test_an_empty_or_a_superfluous_part_matches_nothing(path):
    assert found("POST", path) is None


def test_what_changes_state_needs_a_key_and_what_probes_ask_does_not():
    for route in ROUTES:
        if route.method == "POST":
            assert route.right, route
        if route.path in ("/health", "/v2/health/live", "/v2/health/ready", "/ping"):
            assert not route.right
    assert {r.right for r in ROUTES if r.action in ("load", "unload")} == {"operate"}


def test_the_document_describes_every_route_once_and_refers_to_nothing_that_is_missing():
    document = openapi()
    told = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert told == {(route.method, route.path) for route in ROUTES}
    text = json.dumps(document)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(document["components"]["schemas"])
    ids = re.findall(r'"operationId": "(\w|[^"]+)"', text)
    assert len(ids) == len({*ids}) == len(ROUTES)


def test_the_page_lists_every_route_and_asks_nobody_else():
    text = page("http://x:1")
    assert all(f"<code>{html.escape(route.path)}</code>" in text for route in ROUTES)
    assert "<script" not in text and "src=" not in text and "http://x:1/metrics" in text
    assert "<evil>" not in page("http://<evil>")


def test_what_is_refused_is_described_in_the_dialect_of_the_question():
    said = openapi()
    for path, ways in said["paths"].items():
        for way in ways.values():
            form = way["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert form == ("Problem" if path == "/invocations" else "Error")
    assert "text/csv" in said["paths"]["/invocations"]["post"]["requestBody"]["content"]
