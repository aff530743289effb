import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.ragged import Ragged, bucket, cropped, length_of, shape_of, slices, stacked

WORDS = Ragged({"ids": 0, "mask": False}, ("marks",))
JOBS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=12)


def made(sizes):
    jobs, at = [], 1
    for rows, length in sizes:
        ids = np.arange(at, at + rows * length).reshape(rows, length)
        jobs.append({"ids": ids, "mask": np.ones((rows, length), bool), "x": ids[:, :1] * np.float32(0.5)})
        at += rows * length
    return jobs


def model(inputs):
    "Does not look at what is masked, so padding must not change its answers."
    ids = np.where(inputs["mask"], inputs["ids"], 0)
    return {"marks": ids * 3, "sum": ids.sum(1) + inputs["x"][:, 0]}


@given(JOBS, st.integers(0, 80))
def test_padding_is_invisible_and_no_row_reaches_another_job(sizes, padded):
    groups = {}
    for job in made(sizes):
        groups.setdefault(shape_of(job, WORDS), []).append(job)
    for jobs in groups.values():
        rows = sum(len(job["ids"]) for job in jobs)
        batch = stacked(jobs, padded, WORDS)
        assert all(len(array) == max(rows, padded) for array in batch.values())
        out = model(batch)
        for job, cut in zip(jobs, slices(len(job["ids"]) for job in jobs), strict=True):
            mine, alone = cropped(out, cut, length_of(job, WORDS), WORDS), model(job)
            assert all(np.array_equal(mine[name], alone[name]) for name in alone)


@given(JOBS)
def test_jobs_stack_exactly_if_their_shapes_are_equal_where_nothing_may_be_padded(sizes):
    jobs = made(sizes)
    for job in jobs:
        same = [other for other in jobs if shape_of(other) == shape_of(job)]
        assert all(other["ids"].shape[1] == job["ids"].shape[1] for other in same)
        assert len(stacked(same)["ids"]) == sum(len(other["ids"]) for other in same)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 5000), max_size=4, unique=True).map(sorted))
def test_a_bucket_holds_its_rows_and_less_than_half_of_it_is_empty_without_edges(length, edges):
    assert bucket(length, edges) >= length and bucket(bucket(length, edges), edges) == bucket(length, edges)
    assert bucket(length) < 2 * length or length == bucket(length)


@given(st.lists(st.text(max_size=9), min_size=1, max_size=5), st.integers(0, 9))
def test_text_stacks_whatever_its_length(words, padded):
    jobs = [{"text": np.array([word], object)} for word in words]
    assert len({shape_of(job, WORDS) for job in jobs}) == 1
    assert stacked(jobs, padded)["text"].tolist() == words + words[:1] * (padded - len(words))
