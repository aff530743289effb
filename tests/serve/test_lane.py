import asyncio
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.frames import arrays, form, frame, messages, opened, slices, stacked
from seatrial.serve.lane import Job, Lane, groups, load, offer, reply
from seatrial.serve.protocol import Refused

ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=5),
    st.builds(
        lambda kind, n: np.arange(n).astype(kind) if kind != "O" else np.array([f"ü{i}" for i in range(n)], object),
        st.sampled_from(["f4", "f8", "i8", "u1", "?", "f2", "O"]),
        st.integers(0, 5),
    ),
    max_size=3,
)
SIZES = st.lists(st.integers(1, 90), max_size=30)


LOOKS = form((("x", "<f4", (1,)),))


def job(rows, version="1.0.0", gone=False):
    return Job(("m", version), LOOKS, (np.full((rows, 1), rows, np.float32).tobytes(),), rows, gone=gone)


@given(st.lists(ARRAYS, max_size=4), st.integers(1, 50))
def test_frames_survive_any_cutting_of_the_stream(frames, step):
    stream = b"".join(frame({"id": i}, tensors) for i, tensors in enumerate(frames))
    inbox, found = bytearray(), []
    for start in range(0, len(stream), step):
        inbox += stream[start : start + step]
        found += messages(inbox)
    assert not inbox and len(found) == len(frames)
    for i, (message, tensors) in enumerate(zip(found, frames, strict=True)):
        header, back = opened(message)
        assert header == {"id": i} and back.keys() == tensors.keys()
        assert all(back[name].dtype == tensors[name].dtype and (back[name] == tensors[name]).all() for name in tensors)


@given(SIZES, SIZES, st.integers(1, 64))
def test_every_job_leaves_once_in_order_and_live_ones_before_shadows(live, shadows, rows_max):
    jobs, copies = [job(n) for n in live], [job(n) for n in shadows]
    waiting, behind, left = deque(jobs), deque(copies), []
    while waiting or behind:
        taken = load(waiting, behind, rows_max)
        assert taken and (len(taken) == 1 or sum(j.rows for j in taken) <= rows_max)
        left += taken
    assert left == jobs + copies


@given(st.lists(st.booleans(), max_size=20))
def test_forgotten_jobs_never_block_those_behind_them(gone):
    jobs = [job(1, gone=g) for g in gone]
    waiting, left = deque(jobs), []
    while waiting:
        taken = load(waiting, deque(), 4)
        assert taken
        left += taken
    assert left == jobs


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["1", "2"]), st.booleans()), min_size=1, max_size=20))
def test_no_job_is_answered_with_the_rows_of_another(asked):
    jobs = [job(rows, version) for rows, version, _ in asked]
    bad = {id(j) for j, (_, _, fails) in zip(jobs, asked, strict=True) if fails}
    for group in groups(jobs):
        assert len({j.key for j in group}) == 1
        cuts = slices(j.rows for j in group)
        message = stacked({}, LOOKS, [j.parts for j in group], sum(j.rows for j in group))
        rows = opened(message[4:])[1]["x"]
        good = [rows[cut] for j, cut in zip(group, cuts, strict=True) if id(j) not in bad]
        failures = {str(i): [400, "no"] for i, j in enumerate(group) if id(j) in bad}
        back = reply(group, {"failures": failures}, {"o:y": np.concatenate(good)} if good else {})
        for answered, cut in back.good:
            assert (back.outputs["y"][cut] == arrays(LOOKS, answered.parts, answered.rows)["x"]).all()


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=40))
def test_copies_for_a_shadow_never_keep_a_live_request_out(offered):
    async def offers():
        dropped = []
        lane, rows = Lane("nowhere", print, lambda j, why: dropped.append(j), queue_max=10), 0
        for n, shadow in offered:
            try:
                offer(lane, job(n), shadow)
                rows += 0 if shadow else n
            except Refused:
                assert shadow or rows + n > 10
            assert lane.rows == rows == sum(j.rows for j in lane.live)
            assert lane.copied == sum(j.rows for j in lane.shadows) and rows + lane.copied <= 10
        assert all(j.shadow for j in dropped)

    asyncio.run(offers())


def test_a_request_larger_than_the_queue_is_told_not_to_come_back():
    async def too_many():
        with pytest.raises(Refused, match="could never wait in the queue") as refusal:
            offer(Lane("nowhere", print, print, queue_max=10), job(11))
        assert refusal.value.status == 413 and refusal.value.retry_after_s is None

    asyncio.run(too_many())
