"What the README tells a newcomer to type works, typed as it stands there."

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.main import get_command

from seatrial.app.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def blocks(language):
    "The fenced blocks of one language, in order."
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def free_port():
    "A port that nobody listens on."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_ready(server, port, patience_s=90):
    "Wait until the server says that it is ready; fail at once where it has ended."
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended with status {server.returncode}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.2)
    pytest.fail(f"the server was not ready after {patience_s} s")


def gone(group, patience_s=30):
    "Whether every process of the group has ended; Python's own resource tracker ends a second after its parent."
    deadline = time.monotonic() + patience_s
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl, which the README uses")
def test_your_own_model_is_registered_served_and_judged_as_the_readme_says(place, monkeypatch):
    port = free_port()
    monkeypatch.setenv("SEATRIAL_SERVE_PORT", str(port))
    monkeypatch.setenv("PATH", PATH)
    (code,) = blocks("python")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

    serving, asking = (b for b in blocks("sh") if "seatrial" in b or "curl" in b)
    log = (place / "server.log").open("w+")
    server = subprocess.Popen(serving.split(), stdout=log, stderr=log, start_new_session=True)
    try:
        until_ready(server, port)
        typed = asking.replace("localhost:8000", f"127.0.0.1:{port}")
        done = subprocess.run(["sh", "-e", "-c", typed], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert '"model_name":"mine"' in done.stdout.replace(" ", "")
        assert '"id":"first"' in done.stdout.replace(" ", "")
        assert "species" in done.stdout, "the journal shows the outcome"
        os.killpg(server.pid, signal.SIGINT)
        server.wait(timeout=60)
        assert gone(server.pid), "Ctrl-C left processes behind"
    except BaseException:
        log.seek(0)
        print(log.read())
        raise
    finally:
        if not gone(server.pid, patience_s=0):
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=30)
        log.close()


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert {"demo", "test"} <= named <= targets


def test_every_relative_link_of_the_readme_exists():
    links = re.findall(r"\]\(([^)#\s]+)", README)
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def typed():
    "Every command that the home page or a notebook shows in passing: (where, command)."
    pages = {"README.md": README}
    for path in sorted((ROOT / "nbs").glob("*/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        pages[path.name] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return [(page, span) for page, text in pages.items() for span in re.findall(r"`(seatrial [^`\n…]*)`", text)]


@pytest.mark.parametrize(("page", "line"), typed())
def test_a_command_that_is_shown_in_passing_can_be_typed(page, line):
    words, command = [word for word in shlex.split(line)[1:] if word != "--help"], get_command(app)
    while words and words[0] in getattr(command, "commands", ()):
        command, words = command.commands[words[0]], words[1:]
    options = {name: param for param in command.params for name in param.opts if name.startswith("-")}
    places = sum(param.param_type_name == "argument" for param in command.params)
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            assert word in options, f"{line}: there is no {word}"
            words = words if options[word].is_flag else words[1:]
        else:
            places -= 1
            assert places >= 0, f"{line}: nothing takes {word}"
