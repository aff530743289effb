"Verbs around a running server: asking it, loading it, its keys, its dashboard."

import io
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from seatrial.app.cli import run
from seatrial.serve.dashboard import dashboard
from seatrial.serve.dashboard import names as samples
from seatrial.serve.server import launch
from tests.serve.harbour import settings_for, shelve


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    "A server with one model that sums, and the shelf that it serves from."
    home = tmp_path_factory.mktemp("port")
    shelve(home / "artifacts", {"sum": {"1.0.0": [1.0, 1.0]}})
    with launch(settings=settings_for(home / "artifacts"), port=0, log=home / "log") as running:
        yield running.url, home / "artifacts"


@pytest.fixture
def ask(port, place, monkeypatch, capsys):
    "Runs one command beside the server's shelf; its status, its standard output and its standard error."
    monkeypatch.setenv("SEATRIAL_PATHS_ARTIFACTS", str(port[1]))

    def command(*argv):
        capsys.readouterr()
        status = run([str(a) for a in argv])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return command


@pytest.fixture
def rows(place):
    "The same two rows in each kind of file."
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    (place / "rows.csv").write_text("x.0,x.1,total\n1,2,3\n3,4,7\n")
    (place / "rows.json").write_text('[{"x": [1, 2]}, {"x": [3, 4]}]')
    (place / "rows.jsonl").write_text('{"x": [1, 2]}\n\n{"x": [3, 4]}\n')
    (place / "columns.json").write_text('{"x": [[1, 2], [3, 4]]}')
    np.save(place / "rows.npy", x)
    np.savez(place / "rows.npz", x=x)
    return place


FILES = ["rows.csv", "rows.json", "rows.jsonl", "columns.json", "rows.npy", "rows.npz"]


@pytest.mark.parametrize("file", FILES)
def test_rows_of_any_file_are_answered_here_and_by_the_server_alike(ask, port, rows, file):
    for where in ([], ["--url", port[0]]):
        status, out, err = ask("predict", "sum", "--data", rows / file, "--json", *where)
        assert (status, err) == (0, "") and json.loads(out) == {"y": [3.0, 7.0]}


@pytest.mark.parametrize("file", FILES)
def test_rows_on_standard_input_are_answered_whatever_they_are(ask, rows, monkeypatch, file):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((rows / file).read_bytes())))
    status, out, err = ask("predict", "sum", "--data", "-", "--json")
    assert (status, err) == (0, "") and json.loads(out) == {"y": [3.0, 7.0]}


EMPTY = {"rows.csv": "x.0,x.1\n", "rows.json": "[]", "rows.jsonl": ""}
UNEVEN = {"rows.json": '[{"x": [1, 2]}, {"z": 1}]', "rows.jsonl": '{"x": [1, 2]}\n[3]\n'}


@pytest.mark.parametrize(("file", "text"), EMPTY.items())
def test_a_file_without_rows_is_a_mistake_here_and_by_the_server(ask, port, place, file, text):
    (place / file).write_text(text)
    for where in ([], ["--url", port[0]]):
        status, _, err = ask("predict", "sum", "--data", file, *where)
        assert status == 2 and "at least one row" in err, err


@pytest.mark.parametrize(("file", "text"), UNEVEN.items())
def test_a_row_that_does_not_fit_is_named_by_its_number(ask, place, file, text):
    (place / file).write_text(text)
    status, _, err = ask("predict", "sum", "--data", file)
    assert status == 2 and file in err and "row 1 is" in err and len(err) < 300


def test_answers_come_as_a_table_or_as_csv_too(ask, rows):
    assert ask("predict", "sum", "--data", rows / "rows.csv", "--format", "csv")[1] == "y\n3.0\n7.0\n"
    assert re.search(r"1 +7", ask("predict", "sum", "--data", rows / "rows.csv")[1])


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["predict", "sum"], 2, "exactly one of --inputs, --data and --text"),
        (["predict", "sum", "--text", "good"], 2, "one input of text, and this one takes x"),
        (["predict", "sum", "--data", "absent.json"], 3, "not a readable JSON file"),
        (["predict", "sum", "--inputs", '{"x": [[1, 2]]}', "--format", "xml"], 2, "table, json or csv, got 'xml'"),
        (["predict", "sum", "--inputs", '{"x": [[1, 2]]}', "--url", "localhost"], 2, "url must be like"),
        (["predict", "sum", "--inputs", '{"x": [[1, 2]]}', "--url", "http://127.0.0.1:9"], 3, "is a server running"),
        (["load", "sum", "--url", "http://127.0.0.1:9"], 3, "is a server running"),
        (["load", "sum", "--rate-rps", "fast"], 2, "rate must be like"),
        (["load", "sum", "--find-rate", "--url", "http://127.0.0.1:9"], 2, "limit_ms"),
        (["key", "add", "me", "--role", "king"], 2, "role must be one of"),
        (["key", "revoke", "absent"], 2, "id must be that of a key"),
        (["dashboard", "--check", "http://127.0.0.1:9"], 3, "is a server running"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_sentence_and_its_status(ask, argv, status, words):
    got, _, err = ask(*argv)
    assert got == status and re.search(words, err), err
    assert len(err.strip().splitlines()) == 1


def test_a_file_is_played_once_and_its_truth_comes_back(ask, port, rows):
    status, out, _ = ask("load", "sum", "--data", "rows.csv", "--target", "total", "--url", port[0], "--json")
    told = json.loads(out)
    assert (status, told["sent"], told["outcomes"], told["errors"]) == (0, 2, 2, {})


def test_made_up_traffic_follows_its_course_and_keeps_its_limit(ask, port):
    course = ["load", "sum", "--url", port[0], "--rate-rps", "100:0.2,50-150:0.3", "--even", "--json"]
    status, out, _ = ask(*course)
    told = json.loads(out)
    assert (status, told["sent"]) == (0, 50) and told["p99 ms, 95 %"][0] <= told["p99 ms"]
    assert ask(*course, "--p99-ms", "0.001")[0] == 1, "a limit that cannot be kept is a gate"


def test_the_highest_rate_is_found_with_its_uncertainty(ask, port):
    argv = ["load", "sum", "--url", port[0], "--find-rate", "--p99-ms", "0.0001", "--seconds", "0.01", "--json"]
    status, out, _ = ask(*argv)
    told = json.loads(out)
    assert status == 1 and told["between"][0] <= told["requests a second"] <= told["between"][1]
    assert not any(probe["kept"] for probe in told["probes"])


def test_a_key_is_shown_once_listed_without_itself_and_taken_back(ask, place, monkeypatch):
    monkeypatch.setenv("SEATRIAL_PATHS_ARTIFACTS", str(place / "elsewhere"))
    status, out, err = ask("key", "add", "a service", "--role", "observe")
    whole = out.strip()
    assert status == 0 and whole.startswith("st_") and "cannot be shown again" in err
    [listed] = json.loads(ask("key", "list", "--json")[1])
    assert (listed["id"], listed["name"], listed["role"]) == (whole[3:11], "a service", "observe")
    assert whole not in ask("key", "list")[1] + (place / "elsewhere" / "keys.json").read_text()
    assert json.loads(ask("key", "revoke", listed["id"], "--json")[1])["revoked"] == listed["id"]
    assert json.loads(ask("key", "list", "--json")[1]) == []


@pytest.fixture
def metrics():
    "A server that tells everything, or nothing, as `told` says."

    class Page(BaseHTTPRequestHandler):
        told = ""

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.told)))
            self.end_headers()
            self.wfile.write(self.told.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Page, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_dashboard_is_written_and_checked_against_a_page(ask, place, metrics):
    page, url = metrics
    assert ask("dashboard", "--out", "board.json")[0] == 0
    assert json.loads((place / "board.json").read_text()) == json.loads(ask("dashboard")[1]) == dashboard()
    status, out, _ = ask("dashboard", "--check", url, "--json")
    assert status == 1 and len(json.loads(out)) == len(dashboard()["panels"])
    page.told = "".join(f"{name} 1\n" for name in samples())
    assert ask("dashboard", "--check", url)[0] == 0
