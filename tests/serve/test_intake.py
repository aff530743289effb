import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.intake import careful, quick, take, taker
from seatrial.serve.protocol import Refused

TYPES = ["FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BYTES", "BOOL"]
SCALARS = (
    st.integers(-(2**70), 2**70)
    | st.integers(-300, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.text(max_size=3)
    | st.none()
)
GOOD = {"FP32": st.floats(width=32, allow_nan=False, allow_infinity=False), "BYTES": st.text(max_size=4)}


def signature(kind, tail):
    spec = {"name": "x", "datatype": kind, "shape": [-1, *tail]}
    return taker({"inputs": [spec], "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}]})


def told(road, *given):
    "What a road says: parts, or the sentence of its refusal."
    try:
        taken = road(*given)
        return taken.form, taken.parts, taken.rows, list(taken.outputs)
    except Refused as refusal:
        return refusal.status, refusal.sentence


@given(
    st.sampled_from(TYPES),
    st.sampled_from([(), (2,), (2, 2)]),
    st.lists(SCALARS, max_size=8) | st.lists(st.lists(SCALARS, max_size=3), max_size=4),
    st.lists(st.integers(-1, 4) | st.floats(0, 4), max_size=3),
    st.sampled_from([None, [{"name": "y"}], [{"name": "z"}], [], "y"]),
)
def test_both_roads_say_the_same_of_whatever_comes(kind, tail, data, shape, outputs):
    entry = {"name": "x", "datatype": kind, "shape": shape, "data": data}
    try:
        body = orjson.dumps({"inputs": [entry], "outputs": outputs})
    except TypeError:  # an integer of more than 64 bits
        return
    by = signature(kind, tail)
    assert told(take, by, body, orjson.loads(body)) == told(careful, by, body)


@given(st.sampled_from(sorted(GOOD)), st.integers(1, 4), st.data())
def test_a_good_request_takes_the_quick_road_flat_or_nested(kind, rows, data):
    values = data.draw(st.lists(GOOD[kind], min_size=2 * rows, max_size=2 * rows))
    nested = [values[i : i + 2] for i in range(0, len(values), 2)]
    by = signature(kind, (2,))
    for said in (values, nested):
        document = {"inputs": [{"name": "x", "datatype": kind, "shape": [rows, 2], "data": said}]}
        taken = quick(by, orjson.loads(orjson.dumps(document)))
        slow = careful(by, orjson.dumps(document))
        assert taken is not None and (taken.form, taken.parts, taken.rows) == (slow.form, slow.parts, slow.rows)


@pytest.mark.parametrize(
    "document",
    [{}, {"inputs": 1}, {"inputs": [1]}, {"inputs": [{"name": []}]}, {"inputs": [{}, {}]}, {"inputs": {"x": 1}}],
)
def test_the_quick_road_does_not_fall_over_nonsense(document):
    assert quick(signature("FP32", (2,)), document) is None
