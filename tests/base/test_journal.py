"The journal: what was acknowledged is found, once, wherever it lies and whatever was killed."

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base import spool
from seatrial.base.days import DAY_S
from seatrial.base.journal import Decision, Journal, Outcome, Prediction, unpack
from seatrial.base.ledger import edition
from seatrial.base.settings import CannotDo, Settings, load
from seatrial.base.tending import tend

START_S = 1_760_000_000 // DAY_S * DAY_S  # a midnight


def prediction(i, variant="champion", day=0, **changed):
    "The answer to request i."
    made = Prediction(f"r{i}", variant, float(START_S + day * DAY_S + i), "t1", "quality", "1.0.0", f"u{i % 3}")
    return replace(made, **changed)


def outcome(i, value=1.0, name="rating", day=0):
    "What became of request i."
    return Outcome(f"r{i}", name, value, float(START_S + day * DAY_S + i))


@pytest.fixture
def journal(tmp_path):
    "A journal in a folder of its own."
    with Journal(tmp_path / "journal") as made:
        yield made


def spool_files(journal):
    "The files of the spool."
    return sorted(journal.spool.folder.iterdir())


def ids(table):
    "The request ids of a table."
    return table["request_id"].to_pylist()


def run(code, *args, **kw):
    "Run a program in another process."
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120, **kw
    )


# --- reading is the same, wherever records lie ---------------------------------------------------------------------

keys = st.integers(0, 4)
days = st.integers(0, 3)
predictions = st.builds(
    lambda i, variant, day, version: prediction(i, variant, day, version=version),
    keys, st.sampled_from(["champion", "shadow"]), days, st.sampled_from(["1.0.0", "1.1.0"]),
)  # fmt: skip
outcomes = st.builds(outcome, keys, st.floats(-9, 9), st.sampled_from(["rating", "click"]), days)
batches = st.lists(st.one_of(predictions, outcomes), max_size=5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 1), batches),
        st.tuples(st.just("drain"), st.integers(0, 1)),
        st.tuples(st.just("roll"), st.integers(0, 1), st.integers(0, 5)),
        st.tuples(st.just("reopen"), st.integers(0, 1)),
    ),
    max_size=12,
)


def as_record(kind, row):
    "A row that was read, as the record that was appended."
    return kind(**{k: json.loads(v) if k in ("features", "outputs") else v for k, v in row.items()})


@settings(deadline=None, max_examples=40)
@given(steps=steps)
def test_reading_gives_every_appended_record_once_and_the_first_of_each_key(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("journal")
    writers, first = [Journal(folder), Journal(folder)], {}
    for what, who, *arguments in steps:
        if what == "append":
            writers[who].append(arguments[0])
            for r in arguments[0]:
                first.setdefault((type(r), r.request_id, getattr(r, "variant", None) or r.name), r)
        elif what == "drain":
            writers[who].drain()
        elif what == "roll":
            writers[who].roll(START_S + arguments[0] * DAY_S)
        else:
            writers[who].close()
            writers[who] = Journal(folder)
    for kind, name in ((Prediction, "predictions"), (Outcome, "outcomes")):
        read = [as_record(kind, row) for row in writers[0].read(name).to_pylist()]
        assert read == [r for (made, *_), r in first.items() if made is kind]
    for writer in writers:
        writer.close()
    shutil.rmtree(folder)


@settings(deadline=None, max_examples=30)
@given(batches=st.lists(st.lists(predictions, max_size=4), max_size=4), drains=st.sets(st.integers(0, 3)), day=days)
def test_questions_select_among_the_first_records_only(tmp_path_factory, batches, drains, day):
    folder = tmp_path_factory.mktemp("journal")
    first = {}
    with Journal(folder) as journal:
        for i, batch in enumerate(batches):
            journal.append(batch)
            first = {(r.request_id, r.variant): r for r in reversed(batch)} | first
            if i in drains:
                journal.drain()
        since, until = START_S + day * DAY_S, START_S + (day + 1) * DAY_S
        read = journal.read("predictions", since_s=since, until_s=until, version="1.0.0")
    expected = {k for k, r in first.items() if since <= r.time_s < until and r.version == "1.0.0"}
    assert set(zip(ids(read), read["variant"].to_pylist(), strict=True)) == expected
    shutil.rmtree(folder)


def test_repeated_record_is_not_found_by_a_question_that_its_elder_does_not_match(journal):
    journal.append([prediction(0, version="1.1.0")])
    for move in (lambda: None, journal.drain):
        move()
        journal.append([prediction(0, version="1.0.0", day=1)])
        assert journal.read("predictions", version="1.0.0").num_rows == 0
        assert journal.read("predictions", since_s=START_S + DAY_S).num_rows == 0


def test_questions_reach_into_rolled_days_and_stop_at_midnight(journal):
    journal.append([prediction(i, day=day) for day, i in enumerate(range(6))])
    journal.roll(START_S + 4 * DAY_S)
    assert ids(journal.read("predictions", since_s=START_S + DAY_S, until_s=START_S + 3 * DAY_S)) == ["r1", "r2"]
    assert ids(journal.read("predictions", since_s=START_S + DAY_S + 1)) == ["r1", "r2", "r3", "r4", "r5"]
    assert ids(journal.read("predictions", until_s=START_S)) == []
    assert ids(journal.read("predictions", request_id="r2")) == ["r2"]
    assert journal.read("predictions", model="other").num_rows == 0


@settings(deadline=None, max_examples=40)
@given(
    batches=st.lists(batches, max_size=4), moved=st.lists(st.sampled_from(["", "drain", "roll"])), n=st.integers(1, 6)
)
def test_last_records_are_the_end_of_all_of_them_by_time(tmp_path_factory, batches, moved, n):
    taken = set()
    with Journal(tmp_path_factory.mktemp("journal")) as journal:
        for batch, how in zip(batches, [*moved, "", "", "", ""], strict=False):
            fresh = {(type(r), r.request_id, getattr(r, "variant", None) or r.name): r for r in batch}
            journal.append([r for key, r in fresh.items() if key not in taken])
            taken |= fresh.keys()
            if how:
                journal.drain() if how == "drain" else journal.roll(START_S + 2 * DAY_S)
        for kind, equal in (("predictions", {}), ("outcomes", {}), ("predictions", {"variant": "shadow"})):
            every = journal.read(kind, **equal).to_pylist()
            end = sorted(every, key=lambda row: row["time_s"])[-n:]
            last = journal.read(kind, last=n, **equal).to_pylist()
            assert [row["time_s"] for row in sorted(last, key=lambda row: row["time_s"])] == [r["time_s"] for r in end]
            assert last == [row for row in every if row in last]


def test_last_decisions_are_found_and_none_is_no_number_of_them(journal):
    made = [journal.decide(Decision("hold", "quality", time_s=float(i))) for i in range(5)]
    assert journal.read("decisions", last=2)["id"].to_pylist() == [d.id for d in made[-2:]]
    with pytest.raises(ValueError, match="last must be at least 1, got 0"):
        journal.read("decisions", last=0)


def test_every_field_comes_back_as_it_went_in_from_every_store(journal):
    made = prediction(
        1, unit="é\n\x00\u2028", segment='"', propensity=0.1 + 0.2, features={"a": 1, "b": [None, "x"], "ü": 1e-300},
        inputs_sha="f" * 64, outputs={"rating": -1.5}, latency_ms=1.25, queue_ms=0.5, batch_size=7, cached=True,
        status="timeout",
    )  # fmt: skip
    journal.append([made])
    for move in (lambda: None, journal.drain, lambda: journal.roll(START_S + 9 * DAY_S)):
        move()
        assert [as_record(Prediction, row) for row in journal.read("predictions").to_pylist()] == [made]


def test_empty_journal_answers_with_empty_tables_of_the_right_columns(journal):
    for kind, record in (("predictions", Prediction), ("outcomes", Outcome), ("decisions", Decision)):
        assert journal.read(kind).column_names == list(record.__slots__) and journal.read(kind).num_rows == 0
    assert journal.scored("rating").column_names[-2:] == ["outcome", "outcome_time_s"]
    assert journal.drain() == 0 and journal.roll(START_S) == [] and journal.append([]) is None


# --- outcomes ------------------------------------------------------------------------------------------------------


def test_late_outcome_finds_its_prediction_in_whichever_store_either_lies(journal):
    journal.append([prediction(0), prediction(0, "shadow"), prediction(1), outcome(1, 5.0, name="click")])
    journal.roll(START_S + DAY_S)
    journal.append([outcome(0, 3.0, day=8)])
    for move in (lambda: None, journal.drain, lambda: journal.roll(START_S + 9 * DAY_S)):
        move()
        scored = journal.scored("rating", model="quality", trial="t1", since_s=START_S, until_s=START_S + DAY_S)
        assert scored["outcome"].to_pylist() == [3.0, 3.0, None]
        assert scored["outcome_time_s"].to_pylist() == [START_S + 8.0 * DAY_S] * 2 + [None]
    assert journal.roll(START_S + 30 * DAY_S) == []


def test_outcome_from_a_clock_that_runs_late_is_still_joined(journal):
    journal.append([prediction(0, day=1), Outcome("r0", "rating", 2.0, START_S + 0.9 * DAY_S)])
    journal.roll(START_S + 5 * DAY_S)
    assert journal.scored("rating", since_s=START_S + DAY_S)["outcome"].to_pylist() == [2.0]


def test_late_records_of_a_rolled_day_join_its_file(journal):
    journal.append([prediction(0)])
    (path,) = journal.roll(START_S + DAY_S)
    journal.append([prediction(1), prediction(0, version="9.9.9")])
    assert journal.roll(START_S + DAY_S) == [path]
    assert pq.read_table(path, partitioning=None)["request_id"].to_pylist() == ["r0", "r1"]
    assert journal.read("predictions")["version"].to_pylist() == ["1.0.0", "1.0.0"]


def test_days_lie_in_hive_folders_that_others_can_read(journal):
    journal.append([prediction(i, day=i) for i in range(3)])
    paths = journal.roll(START_S + 2 * DAY_S + 1)
    assert [str(p.relative_to(journal.folder)) for p in paths] == [
        "day=2025-10-09/predictions.parquet", "day=2025-10-10/predictions.parquet"
    ]  # fmt: skip
    assert "2025-10-10" in ds.dataset(paths, partitioning="hive").to_table()["day"].to_pylist()


def test_unpack_gives_a_column_for_every_name_and_null_where_it_is_missing(journal):
    rows = [{"rating": 1, "label": "a"}, {}, {"rating": 2.5, "label": 3}]
    journal.append([prediction(i, outputs=row) for i, row in enumerate(rows)])
    table = unpack(journal.read("predictions"), "outputs")
    assert table["outputs.rating"].to_pylist() == [1.0, None, 2.5]
    assert table["outputs.label"].to_pylist() == ['"a"', None, "3"]
    with pytest.raises(ValueError, match="name must be a column"):
        unpack(table, "output")


# --- what is refused -----------------------------------------------------------------------------------------------

UNSOUND = [
    prediction(1, request_id=""), prediction(1, variant=""), prediction(1, time_s=math.nan), prediction(1, time_s=-1.0),
    prediction(1, time_s=1e12), prediction(1, time_s="now"), prediction(1, time_s=None), prediction(1, unit=None),
    prediction(1, unit=b"u"), prediction(1, unit="\ud800"), prediction(1, features={"a": {1, 2}}),
    prediction(1, features=None), prediction(1, outputs=[1]), prediction(1, outputs={"model": object()}),
    prediction(1, outputs={("a", "b"): 1}), prediction(1, batch_size=2**70), prediction(1, batch_size=10**400),
    prediction(1, batch_size=1.5), prediction(1, latency_ms=math.inf), prediction(1, latency_ms=10**400),
    prediction(1, cached=1), outcome(1, math.nan), outcome(1, "2"), outcome(1, None), outcome(1, name=""),
    outcome(1, 1.1e15), outcome(1, -1e200), outcome(1, 10**16),
    {"request_id": "r1"}, None, Decision("start", "quality"),
]  # fmt: skip


@pytest.mark.parametrize("unsound", UNSOUND, ids=lambda r: repr(r)[:40])
def test_one_unsound_record_refuses_its_whole_batch_and_leaves_nothing(journal, unsound):
    with pytest.raises(ValueError, match=r".{20}"):
        journal.append([prediction(0), unsound])
    journal.append([prediction(2)])
    assert journal.drain() == 1 and ids(journal.read("predictions")) == ["r2"]


def test_outcome_too_large_to_be_squared_is_refused_with_the_rule(journal):
    journal.append([outcome(0, 1e15), outcome(1, -1e15)])
    with pytest.raises(ValueError, match=r"value must be between -10{15} and 10{15}, got 1e\+160"):
        journal.append([outcome(2, 1e160)])
    assert journal.read("outcomes")["value"].to_pylist() == [1e15, -1e15]


def test_harmless_types_are_taken_for_what_they_mean(journal):
    journal.append(
        [
            prediction(1, time_s=START_S, latency_ms=np.float32(0.5), batch_size=np.int64(3), cached=np.bool_(True),
                       unit=np.str_("u"), outputs={"a": np.float32(0.5), "b": np.arange(2)}),
            outcome(1, np.float64(2.0)), outcome(2, True), outcome(3, 4),
        ]
    )  # fmt: skip
    journal.drain()
    (row,) = journal.read("predictions").to_pylist()
    assert (row["latency_ms"], row["batch_size"], row["cached"], row["unit"]) == (0.5, 3, True, "u")
    assert json.loads(row["outputs"]) == {"a": 0.5, "b": [0, 1]}
    assert journal.read("outcomes")["value"].to_pylist() == [2.0, 1.0, 4.0]


def test_answer_that_is_not_a_number_is_on_record_as_null(journal):
    journal.append(
        [prediction(1, outputs={"rating": math.nan, "scores": [1.0, -math.inf]}, features={"x": np.float32("nan")})]
    )
    (row,) = journal.read("predictions").to_pylist()
    assert json.loads(row["outputs"]) == {"rating": None, "scores": [1.0, None]}
    assert json.loads(row["features"]) == {"x": None}


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda j: j.read("prediction"), "kind must be one of predictions, outcomes, decisions, got 'prediction'"),
        (lambda j: j.read("outcomes", trial="t1"), "outcomes have no trial"),
        (lambda j: j.read("decisions", request_id="r1"), "decisions have no request_id"),
        (lambda j: j.decide(Decision("", "quality")), "must have a kind"),
        (lambda j: j.decide(Decision("hold", "quality", id=3)), "no id yet"),
        (lambda j: j.decide(Decision("hold", "quality", evidence={"f": print})), "evidence of a decision is refused"),
    ],
)
def test_wrong_question_is_refused_with_what_would_be_right(journal, ask, told):
    with pytest.raises(ValueError, match=told):
        ask(journal)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"durable": "fsync"}, ValueError, "durable must be process or power, got 'fsync'"),
        ({"url": "mysql://db/trial"}, ValueError, "must name sqlite or postgresql, got mysql"),
        ({"url": "no url"}, ValueError, "must name sqlite or postgresql"),
        ({"url": "postgresql://sea@db:54x2/trial"}, ValueError, "journal's url must have a number as its port"),
        ({"url": "sqlite:////nowhere/at/all.db"}, CannotDo, "unable to open database file"),
    ],
)
def test_journal_that_cannot_be_opened_says_why(tmp_path, arguments, error, told):
    with pytest.raises(error, match=told):
        Journal(tmp_path, **arguments)


def test_settings_name_the_journal(place):
    with Journal.open(load(environ=os.environ)) as journal:
        assert journal.folder == place / "artifacts" / "journal"
        assert journal.spool.fsync is (Settings().journal.durable == "power")


# --- processes that die --------------------------------------------------------------------------------------------

WRITER = """
import sys
from seatrial.base.journal import Journal, Outcome
folder, name, durable = sys.argv[1:]
journal = Journal(folder, durable=durable)
for i in range(10_000_000):
    journal.append([Outcome(f"{name}-{i}", "a", 1.0, 5.0), Outcome(f"{name}-{i}", "b", 1.0, 5.0)])
    sys.stdout.write(f"{name}-{i}\\n")
    sys.stdout.flush()
"""
DRAINER = """
import sys
from seatrial.base.journal import Journal
journal = Journal(sys.argv[1])
print("draining", flush=True)
while True:
    journal.roll(1000.0 if len(sys.argv) > 2 else 0.0)
"""


def start(code, *args):
    "Start a program that prints."
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed(process):
    "Kill a program without warning; the complete lines that it still printed."
    process.kill()
    rest = process.communicate()[0]
    return [line for line in rest.split("\n")[:-1] if line]


@pytest.mark.parametrize("durable", ["process", "power"])
def test_everything_acknowledged_before_a_sigkill_is_found(journal, durable):
    writer = start(WRITER, journal.folder, "w", durable)
    said = [writer.stdout.readline().strip() for _ in range(100)]
    said += killed(writer)
    kept = journal.read("outcomes", name="a")
    assert set(said) <= set(ids(kept)) and kept.num_rows <= len(said) + 1
    assert ids(journal.read("outcomes", name="b")) == ids(kept)  # a batch is there as a whole or not at all
    journal.drain()
    assert spool_files(journal) == [] and ids(journal.read("outcomes", name="a")) == ids(kept)


def test_writers_and_drains_of_many_processes_lose_and_repeat_nothing(journal):
    writers = [start(WRITER, journal.folder, f"w{k}", "process") for k in range(3)]
    drainers = [start(DRAINER, journal.folder, *roll) for roll in ([], ["roll"])]
    said = []
    for _ in range(4):
        for writer in writers:
            said += [writer.stdout.readline().strip() for _ in range(50)]
        read = ids(journal.read("outcomes", name="a"))
        assert len(read) == len(set(read)) and set(said) <= set(read)
        killed(drainers.pop(0))
        drainers.append(start(DRAINER, journal.folder, *(["roll"] if len(said) % 300 else [])))
    for writer in writers:
        said += killed(writer)
    for drainer in drainers:
        killed(drainer)
    for move in (lambda: None, journal.drain, lambda: journal.roll(1000 + DAY_S)):
        move()
        read = ids(journal.read("outcomes", name="a"))
        assert len(read) == len(set(read)) and set(said) <= set(read) and len(read) <= len(said) + len(writers)
    assert spool_files(journal) == []


def test_torn_last_line_is_skipped_and_does_not_stop_what_follows(journal):
    journal.append([outcome(0)])
    journal.spool.leave()
    (path,) = spool_files(journal)
    with path.open("ab") as file:
        file.write(b'[1760000000000000000,[["outcomes","r1","rat')
    journal.append([outcome(2)])
    assert ids(journal.read("outcomes")) == ["r0", "r2"]
    assert journal.drain() == 2 and path not in spool_files(journal)
    assert ids(journal.read("outcomes")) == ["r0", "r2"]


RECORD = b'[["outcomes","r9","rating",1.0,5.0]]'
UNSTORABLE = [
    b'[1,[["outcomes","r9","rating",%b]]]' % text
    for text in (b"1.0,1e22", b"NaN,5.0", b"1e200,5.0", b"1" * 400 + b",5")
]


@pytest.mark.parametrize(
    "damage",
    [b"\0" * 9, b"[1]", b"{}", b"7", b'[1,[["outcomes","r9"]]]', b'[1,[["x",1]]]', b"\xff", b"[[1],[[]]]"]
    + [b"[%b,%b]" % (stamp, RECORD) for stamp in (b"1" + b"0" * 22, b"-1", b"1.5", b"%d" % (2**63 - 1), b"null")]
    + [*UNSTORABLE, b'[1,[["outcomes","r9","\\ud800",1.0,5.0]]]', b"[" * 100_000],
    ids=lambda damage: repr(damage)[:40],
)
def test_damaged_line_is_put_aside_and_stops_nothing(journal, caplog, damage):
    journal.append([outcome(0)])
    with spool_files(journal)[0].open("ab") as file:
        file.write(damage + b"\n")
    journal.append([outcome(1)])
    assert ids(journal.read("outcomes")) == ["r0", "r1"]
    assert journal.drain() == 2 and journal.drain() == 0
    assert (journal.folder / "damaged.txt").read_bytes() == damage + b"\n"
    assert "1 damaged lines" in caplog.text and ids(journal.read("outcomes")) == ["r0", "r1"]


def test_drain_that_died_between_commit_and_deletion_repeats_nothing(journal, tmp_path):
    journal.append([outcome(i) for i in range(5)])
    journal.spool.leave()
    (path,) = spool_files(journal)
    shutil.copy(path, tmp_path / "kept")
    assert journal.drain() == 5
    shutil.copy(tmp_path / "kept", path)  # as if the file had not been deleted, and the offset had
    assert ids(journal.read("outcomes")) == [f"r{i}" for i in range(5)]
    journal.drain()
    assert ids(journal.read("outcomes")) == [f"r{i}" for i in range(5)] and spool_files(journal) == []


def test_roll_that_died_before_the_table_was_emptied_counts_nothing_twice(tmp_path):
    folder = tmp_path / "journal"
    with Journal(folder) as journal:
        journal.append([prediction(i, day=i % 2) for i in range(6)])
        journal.drain()
        before = ids(journal.read("predictions"))
    shutil.copytree(folder, tmp_path / "before")
    with Journal(folder) as journal:
        journal.roll(START_S + 2 * DAY_S)
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):  # the files are written, the table is as it was
        (folder / name).unlink(missing_ok=True)
        if (tmp_path / "before" / name).exists():
            shutil.copy(tmp_path / "before" / name, folder / name)
    (folder / f"day={'2025-10-09'}" / "predictions.part").write_bytes(b"torn")
    with Journal(folder) as journal:
        assert ids(journal.read("predictions")) == before
        assert len(journal.roll(START_S + 2 * DAY_S)) == 2
        assert ids(journal.read("predictions")) == before
        assert not list(folder.rglob("*.part"))


def test_decision_survives_a_sigkill(journal):
    code = """
import os, signal, sys
from seatrial.base.journal import Journal, Decision
Journal(sys.argv[1]).decide(Decision("rollback", "quality"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(code, journal.folder).returncode == -9
    assert [d.kind for d in journal.decisions()] == ["rollback"]


def test_damaged_parquet_file_is_named(journal):
    journal.append([prediction(0)])
    (path,) = journal.roll(START_S + DAY_S)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CannotDo, match=r"day=2025-10-09/predictions\.parquet cannot be read"):
        journal.read("predictions")
    journal.append([prediction(1)])
    with pytest.raises(CannotDo, match="cannot be read"):
        journal.roll(START_S + DAY_S)
    path.write_bytes(content)
    assert ids(journal.read("predictions")) == ["r0", "r1"]


# --- disks that are full or read-only ------------------------------------------------------------------------------

MOUNTED = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c"]
TRY = [*MOUNTED, "mount -t tmpfs -o size=1m none /mnt"]
MOUNTS = bool(shutil.which("unshare")) and subprocess.run(TRY, capture_output=True).returncode == 0
needs_mount = pytest.mark.skipif(not MOUNTS, reason="needs unshare(1) and leave to mount a small tmpfs")


def on_small_disk(tmp_path, code):
    "Run a program on a disk of eight megabytes that only it sees."
    script = tmp_path / "program.py"
    script.write_text(code)
    disk = tmp_path / "disk"
    disk.mkdir()
    shell = f"mount -t tmpfs -o size=8m none '{disk}' && exec '{sys.executable}' '{script}' '{disk}'"
    return subprocess.run([*MOUNTED, shell], capture_output=True, text=True, timeout=120)


FULL = """
import sys
from itertools import pairwise
from pathlib import Path
from seatrial.base.journal import Journal, Outcome
from seatrial.base.settings import CannotDo
disk = Path(sys.argv[1])
ballast = disk / "ballast"
ballast.write_bytes(b"x" * 7_600_000)
journal, said = Journal(disk / "journal"), []
def fill(n):
    for i in range(n, 1_000_000):
        batch = [Outcome(f"{i}-{k}", "rating", 1.0, 5.0) for k in range(7)]
        try:
            journal.append(batch)
        except CannotDo as error:
            return i, str(error)
        said.extend(r.request_id for r in batch)
n, why = fill(0)
assert "\\n" not in why and "No space left on device" in why and "nothing of this batch was recorded" in why, why
for again in range(3):  # it goes on refusing, in one sentence
    assert fill(n + again)[0] == n + again
try:
    journal.drain()
    raise SystemExit("a full disk took the rows")
except CannotDo as error:
    assert "\\n" not in str(error) and "full" in str(error), error
    print(error)
ballast.unlink()
journal.append([Outcome("last", "rating", 1.0, 5.0)])
journal.drain()
kept = journal.read("outcomes")["request_id"].to_pylist()
assert kept == [*said, "last"], (len(kept), len(said))
print(len(said), "kept")
"""


@needs_mount
def test_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    done = on_small_disk(tmp_path, FULL)
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout


READ_ONLY = """
import subprocess, sys
from seatrial.base.journal import Decision, Journal, Outcome
from seatrial.base.settings import CannotDo
journal = Journal(sys.argv[1] + "/journal")
journal.append([Outcome("r1", "rating", 1.0, 5.0)])
journal.close()
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
for act in (
    lambda: journal.append([Outcome("r2", "rating", 1.0, 5.0)]),
    lambda: journal.drain(),
    lambda: journal.decide(Decision("hold", "quality")),
    lambda: Journal(sys.argv[1] + "/journal"),
    lambda: Journal(sys.argv[1] + "/another"),
):
    try:
        act()
    except CannotDo as error:
        assert "\\n" not in str(error), error
        print(error)
    else:
        raise SystemExit("a read-only disk was written to")
subprocess.run(["mount", "-o", "remount,rw", sys.argv[1]], check=True)
journal.append([Outcome("r3", "rating", 1.0, 5.0)])
assert journal.drain() == 2 and journal.read("outcomes")["request_id"].to_pylist() == ["r1", "r3"]
"""


@needs_mount
def test_read_only_disk_is_one_sentence_and_loses_nothing(tmp_path):
    done = on_small_disk(tmp_path, READ_ONLY)
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(done.stdout.splitlines()) == 5


LIMITED = """
import resource, sys
from seatrial.base.journal import Journal, Outcome
from seatrial.base.settings import CannotDo
journal, said = Journal(sys.argv[1]), []
journal.append([Outcome("first", "rating", 1.0, 5.0)])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
for i in range(1000):
    try:
        journal.append([Outcome(f"r{i}", "rating", 1.0, 5.0)])
        said.append(f"r{i}")
        if i > 500:
            break
    except CannotDo as error:
        assert "nothing of this batch was recorded" in str(error), error
        print("refused", i)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert journal.read("outcomes")["request_id"].to_pylist() == ["first", *said]
journal.drain()
assert journal.read("outcomes")["request_id"].to_pylist() == ["first", *said]
"""


def test_write_that_stops_halfway_is_taken_back(tmp_path):
    done = run(LIMITED, tmp_path)  # the kernel's limit on a file's size cuts a write like a full disk, without a mount
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused")


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotDo, match=r"cannot make .*/file/journal \(Not a directory\): choose another folder"):
        Journal(tmp_path / "file" / "journal")


def test_spool_folder_that_vanishes_is_named_and_nothing_is_acknowledged(journal):
    shutil.rmtree(journal.spool.folder)
    with pytest.raises(CannotDo, match=r"cannot write to .*spool"):
        journal.append([outcome(0)])
    journal.spool.folder.mkdir()
    journal.append([outcome(1)])
    assert ids(journal.read("outcomes")) == ["r1"]


# --- threads, forks, files -----------------------------------------------------------------------------------------


def test_threads_of_one_process_share_a_journal(journal, monkeypatch):
    monkeypatch.setattr(spool, "ROTATE", 2000)

    def write(k):
        for i in range(60):
            journal.append([Outcome(f"{k}-{i}-{j}", "n", 1.0, 5.0) for j in range(3)])
            if i % 20 == k:
                journal.drain()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    read = ids(journal.read("outcomes"))
    assert len(read) == len(set(read)) == 6 * 60 * 3
    for k in range(6):  # each thread's records are in its order
        mine = [r for r in read if r.startswith(f"{k}-")]
        assert mine == [f"{k}-{i}-{j}" for i in range(60) for j in range(3)]
    journal.drain()
    assert len(spool_files(journal)) <= 1


def test_closing_waits_for_the_append_that_is_under_way(journal, monkeypatch, tmp_path):
    write, begun, go = spool.put, threading.Event(), threading.Event()

    def slow(*arguments):
        begun.set()
        assert go.wait(60)
        return write(*arguments)

    monkeypatch.setattr(spool, "put", slow)
    with ThreadPoolExecutor(2) as pool, (tmp_path / "stranger").open("wb") as stranger:
        appending = pool.submit(journal.append, [outcome(0)])
        assert begun.wait(60)
        own = journal.spool.fd
        closing = pool.submit(journal.close)
        closing_waits = not closing.done() and journal.spool.fd == own
        with contextlib.suppress(TimeoutError):
            closing.result(0.05)  # a close that does not wait is through by then
        if closing.done():
            os.dup2(stranger.fileno(), own)  # what the next open of the process would do
        go.set()
        appending.result(60)
        closing.result(60)
    assert closing_waits and (tmp_path / "stranger").read_bytes() == b""
    assert ids(journal.read("outcomes")) == ["r0"] and journal.spool.fd is None


def test_nothing_is_skipped_after_a_line_that_was_drained_before_its_fsync_failed(tmp_path, monkeypatch):
    with Journal(tmp_path, durable="power") as journal, Journal(tmp_path) as other:
        journal.append([outcome(0)])

        def fails(fd):
            monkeypatch.undo()
            assert other.drain() == 2
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(spool.os, "fsync", fails)
        with pytest.raises(CannotDo, match="Input/output error"):
            journal.append([outcome(1)])
        for i in range(2, 6):
            journal.append([outcome(i)])
        assert {"r0", "r2", "r3", "r4", "r5"} <= set(ids(other.read("outcomes")))
        assert other.drain() == 4 and len(spool_files(journal)) == 1


def test_full_spool_files_are_left_drained_and_deleted(journal, monkeypatch):
    monkeypatch.setattr(spool, "ROTATE", 500)
    for i in range(40):
        journal.append([outcome(i)])
    assert len(spool_files(journal)) > 3
    assert journal.drain() == 40
    assert len(spool_files(journal)) <= 1 and ids(journal.read("outcomes")) == [f"r{i}" for i in range(40)]


FORKED = """
import os, sys, threading
from seatrial.base.journal import Decision, Journal, Outcome
from seatrial.base.spool import alone
journal = Journal(sys.argv[1])
say = lambda name: journal.append([Outcome(name, "rating", 1.0, 5.0)])
say("parent before")
journal.decide(Decision("start", "quality"))
hold, go = threading.Event(), threading.Event()
def keep_the_turn():
    with journal.spool.turn, alone(journal.folder / "lock"):  # a drain is going on in the moment of the fork
        hold.set()
        go.wait()
thread = threading.Thread(target=keep_the_turn)
thread.start()
hold.wait()
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    say("child")
    journal.decide(Decision("hold", "quality"))
    os.close(writing)
    os.read(reading, 1)  # lives on, with a copy of the lock's descriptor
    say("child after")
    os._exit(0)
go.set()
thread.join()
say("parent after")
assert journal.drain() >= 2  # not held up by the child's copy of the lock
os.close(writing)
assert os.waitpid(child, 0)[1] == 0
journal.drain()
said = sorted(journal.read("outcomes")["request_id"].to_pylist())
assert said == ["child", "child after", "parent after", "parent before"], said
assert [d.kind for d in journal.decisions()] == ["start", "hold"]
assert len(list(journal.spool.folder.iterdir())) == 1  # the child's file is gone, ours is in use
"""


def test_forked_child_writes_to_a_file_of_its_own_and_inherits_no_lock(tmp_path):
    done = run(FORKED, tmp_path)
    assert done.returncode == 0, done.stderr


def test_owner_that_finds_its_new_file_deleted_begins_another(tmp_path):
    stop = threading.Event()

    def tidy():  # takes every file that nobody has locked yet for a dead process's, and deletes it
        while not stop.is_set():
            for path in tmp_path.iterdir():
                with spool.ownerless(path) as free:
                    if free:
                        path.unlink()

    thread = threading.Thread(target=tidy)
    thread.start()
    fds = [spool.new_file(tmp_path, False) for _ in range(300)]
    stop.set()
    thread.join()
    assert all(os.fstat(fd).st_nlink == 1 for fd in fds)
    for fd in fds:
        os.close(fd)


def test_stamps_grow_although_the_clock_steps_back(journal, monkeypatch):
    ticks = iter([100, 50, 50, 10])
    monkeypatch.setattr(spool.time, "time_ns", lambda: next(ticks))
    for i in range(4):
        journal.append([outcome(i), outcome(i, name="click")])
    stamps = [json.loads(line)[0] for line in spool_files(journal)[0].read_text().splitlines()]
    monkeypatch.undo()
    assert stamps == sorted(set(stamps)) and all(b - a >= 2 for a, b in pairwise(stamps))
    assert ids(journal.read("outcomes", name="rating")) == ["r0", "r1", "r2", "r3"]


def test_tending_drains_rolls_and_outlives_a_disk_that_refuses(journal, caplog):
    now_s = START_S + 10 * DAY_S
    journal.clock = lambda: now_s
    journal.append([prediction(0), prediction(1, day=9)])
    shutil.move(journal.folder / "lock", journal.folder / "away")
    (journal.folder / "lock").mkdir()  # a lock that cannot be opened: the drain cannot work
    stop = threading.Event()
    thread = threading.Thread(target=tend, args=(journal, stop, 0.005, 7))
    thread.start()
    try:
        for _ in range(2000):
            if caplog.records:
                break
            stop.wait(0.005)
        assert len(caplog.records) == 1
        (journal.folder / "lock").rmdir()
    finally:
        stop.set()
        thread.join()
    assert spool_files(journal)[0].exists() and journal.drain() == 0
    assert [p.name for p in journal.folder.glob("day=*")] == ["day=2025-10-09"]
    assert ids(journal.read("predictions")) == ["r0", "r1"]


def test_tending_outlives_what_nobody_foresaw_and_says_it_once(journal, caplog):
    calls, stop = [], threading.Event()

    class Odd(Journal):
        def drain(self):
            calls.append(1)
            if len(calls) < 4:
                raise OverflowError("int too large")
            stop.set()
            return super().drain()

    journal.append([outcome(0)])
    with Odd(journal.folder) as odd:
        tend(odd, stop, 0.001)
    (said,) = caplog.records
    assert said.getMessage() == "int too large" and said.exc_info
    assert journal.drain() == 0 and ids(journal.read("outcomes")) == ["r0"]


def test_tending_drains_what_is_new_and_nothing_where_nothing_is_new(journal):
    asked, stop = [], threading.Event()

    class Watched(Journal):
        def drain(self):
            asked.append(1)
            return super().drain()

    with Watched(journal.folder) as watched:
        tending = threading.Thread(target=tend, args=(watched, stop, 0.001, 7, 3600.0))
        tending.start()
        for k in range(3):
            before = len(asked)
            journal.append([outcome(k)])
            while len(asked) == before:
                stop.wait(0.001)
        while stop.wait(0.05) or len(asked) != before:  # ends when fifty looks in a row drained nothing
            before = len(asked)
        stop.set()
        tending.join()
    assert len(asked) == before + 1  # the last round


def test_tending_buries_the_files_of_the_dead_though_they_do_not_grow(journal):
    abandoned, stop = journal.spool.folder / "abandoned.jsonl", threading.Event()
    with contextlib.closing(Journal(journal.folder)) as tended:
        tending = threading.Thread(target=tend, args=(tended, stop, 0.001, 7, 0.01))
        tending.start()
        abandoned.write_bytes(b"")
        while abandoned.exists():
            stop.wait(0.001)
        stop.set()
        tending.join()


# --- decisions and leases ------------------------------------------------------------------------------------------


def test_an_edition_is_new_after_a_commit_of_anybody_and_only_then(journal):
    with contextlib.closing(Journal(journal.folder)) as other:
        old = edition(journal)
        assert edition(journal) == old and other.decisions() == [] and edition(journal) == old
        for somebody in (journal, other):
            somebody.decide(Decision("start", "quality", "t1"))
            assert edition(journal) != old
            old = edition(journal)
        journal.append([prediction(0)])
        assert edition(journal) == old  # the spool is no commit
        journal.drain()
        assert edition(journal) != old


def test_an_edition_that_was_kept_is_given_up_at_the_next_commit_however_soon_it_comes(journal):
    with contextlib.closing(Journal(journal.folder)) as other:
        for round_ in range(3):
            old = edition(journal)
            while not journal.known:  # kept, once the files have been left alone for a moment
                assert edition(journal) == old
            for k in range(20):
                made = other.decide(Decision("hold", "quality", f"t{round_}.{k}"))
                assert edition(journal) != old and journal.decisions(after_id=made.id - 1) == [made]
                old = edition(journal)


def test_decisions_are_numbered_timed_and_found_after_a_number(journal):
    journal.clock = lambda: 5.0
    made = [
        journal.decide(
            Decision("start", "quality", "t1", "1.0.0", "1.1.0", "a canary", {"share": np.float64(0.1)}, "ann")
        ),
        journal.decide(Decision("start", "trend", "t2", time_s=4.0)),
        journal.decide(Decision("advance", "quality", "t1", evidence={"p": math.nan, "n": np.int64(3)})),
    ]
    assert [d.id for d in made] == [1, 2, 3] and [d.time_s for d in made] == [5.0, 4.0, 5.0]
    read = journal.decisions()
    assert read[:2] == made[:2] and read[2].evidence == {"p": None, "n": 3}
    assert [d.id for d in journal.decisions(after_id=1, model="quality")] == [3]
    assert [d.id for d in journal.decisions(trial="t2")] == [2]
    assert journal.decisions(after_id=3) == [] and journal.read("decisions", since_s=4.5)["id"].to_pylist() == [1, 3]


def test_number_of_a_decision_is_never_given_twice_however_many_decide(tmp_path):
    with Journal(tmp_path) as a, Journal(tmp_path) as b, ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: (a, b)[i % 2].decide(Decision("hold", "quality", actor=str(i))), range(80)))
        assert sorted(d.id for d in made) == list(range(1, 81))
        assert [d.id for d in a.decisions()] == list(range(1, 81))
        assert {d.id: d for d in made} == {d.id: d for d in b.decisions()}


def test_one_of_many_takers_gets_the_lease(tmp_path):
    with Journal(tmp_path) as first:
        first.clock = lambda: 100.0
        others = [Journal(tmp_path, clock=first.clock) for _ in range(6)]
        for round in range(10):
            line_up = threading.Barrier(len(others))

            def take(i, round=round, line_up=line_up):
                line_up.wait()
                return others[i].lease(f"lease{round}", f"holder{i}", 10)

            with ThreadPoolExecutor(len(others)) as pool:
                assert sum(pool.map(take, range(len(others)))) == 1
        for other in others:
            other.close()


def test_lease_is_renewed_by_its_holder_expires_by_the_clock_and_can_be_given_back(journal):
    now = [0.0]
    journal.clock = lambda: now[0]
    assert journal.lease("c", "a", 10) and not journal.lease("c", "b", 10) and journal.lease("other", "b", 10)
    now[0] = 9.0
    assert journal.lease("c", "a", 10)
    now[0] = 18.9
    assert not journal.lease("c", "b", 10)
    now[0] = 19.0
    assert journal.lease("c", "b", 10) and not journal.lease("c", "a", 10)
    journal.release("c", "a")
    assert not journal.lease("c", "a", 10)
    journal.release("c", "b")
    assert journal.lease("c", "a", 10)


def test_corrupt_database_is_named(tmp_path):
    (tmp_path / "journal.db").write_bytes(b"this was a database once" * 200)
    with pytest.raises(CannotDo, match=r"journal\.db cannot be used \(file is not a database\)"):
        Journal(tmp_path)


def test_arrow_tables_have_the_declared_types(journal):
    journal.append([prediction(0)])
    types = dict(zip(journal.read("predictions").column_names, journal.read("predictions").schema.types, strict=True))
    assert types["time_s"] == pa.float64() and types["batch_size"] == pa.int64() and types["cached"] == pa.bool_()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have no priority of their own elsewhere")
def test_draining_lets_others_go_first_and_changes_nobody_elses_priority(tmp_path):
    journal, stop, seen = Journal(tmp_path), threading.Event(), []
    stop.set()

    def tending():
        before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        tend(journal, stop, 0.0)
        seen.append((before, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))

    mine, thread = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), threading.Thread(target=tending)
    thread.start()
    thread.join()
    assert seen == [(mine, max(10, mine))] and os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine
    journal.close()
