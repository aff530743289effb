"""What `make test` runs, in the order that finds a mistake soonest. Exit status 1 where anything fails.

usage: python tools/check.py [--static]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
GENERATED = ["src/seatrial", "README.md", "settings.ini", "nbs/settings.qmd"]


def say(text):
    print(f"\n── {text}", flush=True)


def call(title, *command, **environment):
    "Run one step, show its output, return whether it passed."
    say(title)
    start = time.monotonic()
    good = subprocess.run([str(c) for c in command], cwd=ROOT, env=os.environ | environment).returncode == 0
    print(f"   {'ok' if good else 'FAILED'} after {time.monotonic() - start:.1f} s", flush=True)
    return good


def snapshot():
    "Contents of everything that `make export` writes."
    files = [
        f for g in GENERATED for f in ([ROOT / g] if (ROOT / g).is_file() else (ROOT / g).rglob("*")) if f.is_file()
    ]
    return {f.relative_to(ROOT): f.read_bytes() for f in files if f.suffix in {".py", ".md", ".qmd", ".ipynb", ".ini"}}


def in_sync():
    "Export must change nothing: what is committed is what the notebooks say."
    before = snapshot()
    good = call("export in sync", BIN / "python", "tools/export.py")
    after = snapshot()
    stale = sorted(str(f) for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    if stale:
        print("   not in sync with the notebooks; commit what `make export` wrote: " + ", ".join(stale))
    return good and not stale


def tests():
    "Notebooks and tests in one run; prints the line that continuous integration reads."
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        workers = min(4, os.cpu_count() or 1)
        pytest = [BIN / "python", "-m", "pytest", "tests", f"--junitxml={report}"]
        pytest += ["-n", workers, "--dist", "loadgroup", "--no-loadscope-reorder"]
        title = f"notebooks and tests, {workers} at a time, one thread each"
        good = call(title, *pytest, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
        suite = ET.parse(report).getroot().find("testsuite").attrib if report.exists() else {}
    total, bad, skipped = (
        sum(int(suite.get(k, 0)) for k in keys) for keys in (["tests"], ["failures", "errors"], ["skipped"])
    )
    return good and total > 0, total - bad - skipped, bad, skipped


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--static", action="store_true", help="only lint, export and floors")
    args = args.parse_args()
    steps = [
        call("ruff: notebooks, tests and tools", BIN / "ruff", "check", "."),
        call("ruff: format", BIN / "ruff", "format", "--check", "--quiet", "."),
        in_sync(),
        call("floors: import-linter", BIN / "lint-imports"),
    ]
    if args.static:
        sys.exit(not all(steps))
    good, passed, failed, skipped = tests()
    failed += steps.count(False)
    print(
        f"\n{passed + steps.count(True)} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""),
        flush=True,
    )
    sys.exit(not (good and all(steps)))


if __name__ == "__main__":
    main()
