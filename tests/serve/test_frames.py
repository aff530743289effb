import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.serve.frames import ROOM, Inbox, arrays, checksum, form, frame, opened, parted, slices, stacked

ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=5),
    st.builds(
        lambda kind, n: np.arange(n).astype(kind) if kind != "O" else np.array([f"ü{i}" for i in range(n)], object),
        st.sampled_from(["f4", "f8", "i8", "u1", "?", "f2", "O"]),
        st.integers(0, 5),
    ),
    max_size=3,
)
LOOKS = form((("x", "<f4", (2,)), ("text", "", ())))


def parts(n, mark):
    return np.full((n, 2), mark, np.float32).tobytes(), [f"{mark}"] * n


@given(st.lists(ARRAYS, max_size=4), st.integers(1, 50))
def test_frames_survive_any_cutting_of_the_stream(frames, step):
    stream = b"".join(frame({"id": i}, tensors) for i, tensors in enumerate(frames))
    inbox, found = Inbox(), []
    for start in range(0, len(stream), step):
        piece = stream[start : start + step]
        inbox.room()[: len(piece)] = piece
        found += inbox.taken(len(piece))
    assert not inbox.held and len(found) == len(frames)
    for i, (message, tensors) in enumerate(zip(found, frames, strict=True)):
        header, back = opened(message)
        assert header == {"id": i} and back.keys() == tensors.keys()
        assert all(back[name].dtype == tensors[name].dtype and (back[name] == tensors[name]).all() for name in tensors)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3 * ROOM), min_size=1, max_size=6), st.lists(st.integers(999, 2 * ROOM), min_size=1))
def test_messages_of_any_size_arrive_whole_and_leave_no_memory_behind(sizes, steps):
    stream = b"".join(frame({"id": i}, {"x": np.full(size, i, np.uint8)}) for i, size in enumerate(sizes))
    inbox, found, start, steps = Inbox(), [], 0, itertools.cycle(steps)
    while piece := stream[start : start + min(next(steps), len(inbox.room()))]:
        inbox.room()[: len(piece)] = piece
        found += inbox.taken(len(piece))
        start += len(piece)
    assert (inbox.held, len(inbox.view)) == (0, ROOM)
    for i, (message, size) in enumerate(zip(found, sizes, strict=True)):
        header, tensors = opened(message)
        assert header == {"id": i} and tensors["x"].tobytes() == bytes([i]) * size


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 300))
def test_everybody_finds_his_own_rows_in_a_stack_however_it_is_padded(heights, padded):
    rows = sum(heights)
    loads = [parts(n, i) for i, n in enumerate(heights)]
    tensors = opened(stacked({}, LOOKS, loads, rows, padded)[4:])[1]
    assert len(tensors["x"]) == len(tensors["text"]) == max(rows, padded)
    for i, cut in enumerate(slices(heights)):
        assert (tensors["x"][cut] == i).all() and (tensors["text"][cut] == f"{i}").all()
    assert not tensors["x"][rows:].any() and not any(tensors["text"][rows:])


@given(ARRAYS)
def test_parts_are_the_arrays_they_were_made_of(tensors):
    tensors = {name: np.stack([array, array]) for name, array in tensors.items() if array.size}
    looks, pieces = parted(tensors)
    back = arrays(looks, pieces, 2)
    assert all((back[name] == tensors[name]).all() and back[name].dtype == tensors[name].dtype for name in tensors)
    assert looks is parted(back)[0]


def test_a_checksum_knows_what_is_equal():
    one, other = parted({"x": np.ones((2, 2))}), parted({"x": np.ones((1, 4))})
    assert one[1] == other[1] and checksum(*one, 2) != checksum(*other, 1)
    assert checksum(*parted({"t": np.array(["ab", "c"], object)}), 2) != checksum(
        *parted({"t": np.array(["a", "bc"], object)}), 2
    )
