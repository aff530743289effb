"ONNX Runtime is a library that we import, and nothing that reports about anybody."

import os
import subprocess
import sys

import pytest

LOOK = """
import importlib, os, sys
importlib.import_module(sys.argv[1])
import onnxruntime
files = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{n}")]
print(os.environ.get("ORT_DISABLE_TELEMETRY"), [file for file in files if "onnxruntime" in file])
"""


@pytest.mark.parametrize("module", ["session", "runtime", "surgery", "quantize", "narrow"])
@pytest.mark.parametrize("said", [None, "true"])
def test_telemetry_is_off_wherever_the_library_is_imported_by_us_and_what_somebody_has_set_stays(module, said):
    known = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    known |= {"ORT_DISABLE_TELEMETRY": said} if said else {}
    command = [sys.executable, "-c", LOOK, f"seatrial.engine.{module}"]
    told = subprocess.run(command, env=known, capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"{said or 1} []"
