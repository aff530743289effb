import json
import os
import resource
import shutil
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.serve.access import AccessLog, Entry, flush, line

ENTRY = Entry(1_773_064_982.118, "r1", "POST", "/v2/models/q/infer", 200, 2.25)


def rows(log):
    return [json.loads(row) for row in log.path.read_bytes().splitlines()]


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=80))
def test_whatever_a_client_writes_becomes_one_line_of_json(id, path, error):
    text = line(ENTRY._replace(id=id, path=path, error=error))
    assert text.count(b"\n") == 1 and json.loads(text)["status"] == 200


@given(st.emails(), st.sampled_from(["id", "path", "address", "error"]))
def test_no_mail_address_of_ordinary_form_reaches_the_log(mail, field):
    local, _, host = mail.partition("@")
    mail = f"{''.join(c for c in local if c.isalnum()) or 'x'}@{host}"
    assert mail not in json.loads(line(ENTRY._replace(**{field: f"of {mail}, again"})))[field]


@pytest.mark.parametrize("field", ["id", "path", "address", "model", "version", "caller", "error"])
@pytest.mark.parametrize(
    "told", ["4111-1111-1111-1111", "0171-123456", "0171/123456", "203.0.113.9", "203.0.113.9:443", "ann.lee@b.co"]
)
def test_nothing_personal_reaches_the_log_in_any_field(told, field):
    assert told not in line(ENTRY._replace(**{field: told})).decode()
    assert told not in line(ENTRY._replace(**{field: f"of_{told}"})).decode()


def test_a_path_is_logged_as_what_it_says_and_hides_nothing_behind_percent_signs():
    path = json.loads(line(ENTRY._replace(path="/v2/models/%C3%BC/versions/ann%40b.co/infer")))["path"]
    assert path == "/v2/models/ü/versions/[email]/infer"


def test_kinds_that_are_not_hidden_are_logged_as_they_came():
    assert json.loads(line(ENTRY._replace(address="203.0.113.9"), ()))["address"] == "203.0.113.9"


def test_entries_are_written_in_order_and_once(tmp_path):
    log = AccessLog(tmp_path / "logs")
    for i in range(10):
        log.note(ENTRY._replace(id=f"r{i}"))
        if i % 3 == 0:
            flush(log)
    flush(log)
    flush(log)
    assert [row["id"] for row in rows(log)] == [f"r{i}" for i in range(10)]
    log.file.close()


def test_a_disk_that_takes_no_more_costs_lines_and_nothing_else(tmp_path):
    log = AccessLog(tmp_path)
    log.note(ENTRY)
    flush(log)
    whole = log.path.read_bytes()
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, old[1]))  # a full disk after twenty bytes
        log.note(ENTRY)
        log.note(ENTRY)
        flush(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert (log.path.read_bytes(), log.lost, log.entries) == (whole, 2, [])
    log.note(ENTRY._replace(id="after"))
    flush(log)
    assert [row["id"] for row in rows(log)] == ["r1", "after"]
    log.file.close()


def test_files_are_set_aside_and_the_oldest_leaves(tmp_path):
    log = AccessLog(tmp_path, size_mb=len(line(ENTRY)) * 2 / 2**20, keep=2)
    for i in range(9):
        log.note(ENTRY._replace(id=f"r{i}"))
        flush(log)
    name = f"access-{os.getpid()}"
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{name}.1.jsonl", f"{name}.2.jsonl", f"{name}.jsonl"]
    assert [row["id"] for row in rows(log)] == ["r8"]
    log.file.close()


def test_a_file_that_somebody_else_moves_is_begun_anew_and_stops_nobody(tmp_path):
    log = AccessLog(tmp_path / "logs")
    log.note(ENTRY._replace(id="r0"))
    flush(log)
    log.path.rename(tmp_path / "rotated")
    log.note(ENTRY._replace(id="r1"))
    flush(log)
    flush(log)
    assert [row["id"] for row in rows(log)] == ["r1"]
    shutil.rmtree(log.path.parent)
    log.note(ENTRY._replace(id="r2"))
    flush(log)
    assert [row["id"] for row in rows(log)] == ["r2"] and log.lost == 0
    log.file.close()


def test_a_folder_that_is_taken_away_for_good_costs_lines_and_they_are_counted(tmp_path):
    log = AccessLog(tmp_path / "logs")
    log.note(ENTRY)
    flush(log)
    shutil.rmtree(log.path.parent)
    log.path.parent.write_text("in the way")
    for _ in range(3):
        log.note(ENTRY)
        flush(log)
    assert log.lost == 3
    log.path.parent.unlink()
    log.note(ENTRY._replace(id="after"))
    flush(log)
    assert [row["id"] for row in rows(log)] == ["after"] and log.lost == 3
    log.file.close()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotDo, match="access log cannot be written"):
        AccessLog(tmp_path / "file" / "logs")
