"""Run a notebook's lessons against the exported package.

Each `#| export` cell gives way to the names of the module that it is exported to: the lessons test what users import.
usage: python tools/notebooks.py NOTEBOOK [--flags "slow gpu"]
       python tools/notebooks.py --serve    (for many: see `serve`)
"""

import argparse
import gc
import importlib
import os
import re
import sys
import tempfile
from pathlib import Path

EXPORT = {"export", "exports", "exporti"}
# What `--serve` imports for all: libraries of others, never the package, and none that starts a thread of its own.
SHARED = ["nbdev.test", "nbdev.processors", "execnb.shell", "matplotlib.pyplot", "pyarrow.parquet", "pyarrow.dataset"]
SHARED += ["sqlalchemy", "scipy.stats", "statsmodels.api", "sklearn.linear_model"]
SHARED += ["torch._dynamo", "torch.onnx", "onnxscript"]
STAND_IN = """
import importlib
globals().update({{k: v for k, v in vars(importlib.import_module("{module}")).items() if not k.startswith("__")}})
"""


def stand_in(cell, default, package):
    "The cell that replaces an export cell, or None where the cell exports nothing."
    found = EXPORT & set(cell.directives_ or {})
    if cell.cell_type != "code" or not found:
        return None
    named = [cell.directives_[k] for k in found if cell.directives_[k] not in ("", "true")]
    module = named[0] if named else default
    return STAND_IN.format(module=f"{package}.{module}") if module else None


def run(path, force=()):
    "Run one notebook; its traceback is printed and False returned where a lesson fails."
    from execnb.shell import CaptureShell
    from fastcore.xtras import working_directory
    from nbdev.config import get_config
    from nbdev.process import NBProcessor
    from nbdev.processors import _default_exp
    from nbdev.test import _skip_cell

    config = get_config()
    notebook = NBProcessor(path, rm_directives=False, process=True).nb
    flags = config.tst_flags.split() if isinstance(config.tst_flags, str) else config.tst_flags
    skip = _skip_cell(notebook, flags, list(force))
    default = _default_exp(notebook)
    for cell in notebook.cells:
        cell.source = stand_in(cell, default, config.lib_path.name) or cell.source
    shell = CaptureShell(path, profile=False)
    with working_directory(path.parent):
        try:
            shell.run_all(notebook, exc_stop=True, preproc=skip, cell_timeout=config.cell_timeout)
        except BaseException:
            print(shell.prettytb(fname=path), file=sys.stderr)
            return False
    return True


def run_and_leave(path, force=()):
    "Run one notebook in a place of its own and end this process: status 0 where every lesson held."
    os.environ["IN_TEST"] = "1"
    with tempfile.TemporaryDirectory() as artifacts:
        os.environ["SEATRIAL_PATHS_ARTIFACTS"] = artifacts
        good = run(path.resolve(), force)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if good else 1)


def serve():
    """Answer each line `NOTEBOOK<tab>LOG` with the exit status of a process that ran it and wrote to LOG.

    Each notebook has a process to itself: a fork of this one, which imports what most of them need once and for all.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a look for a GPU must not keep the forks from using it
    for name in SHARED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        notebook, log = line.rstrip("\n").split("\t")
        child = os.fork()
        if not child:
            with open(os.devnull) as nothing, open(log, "w") as out:
                for here, there in ((nothing, 0), (out, 1), (out, 2)):
                    os.dup2(here.fileno(), there)
            run_and_leave(Path(notebook))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("notebook", type=Path, nargs="?")
    args.add_argument("--flags", default="", help="run cells of these flags too, for example: slow gpu")
    args.add_argument("--serve", action="store_true", help="run the notebooks that standard input names")
    args = args.parse_args()
    if args.serve:
        serve()
    elif not args.notebook:
        sys.exit("name a notebook, or say --serve")
    else:
        run_and_leave(args.notebook, re.split(r"[ ,]+", args.flags) if args.flags else ())


if __name__ == "__main__":
    main()
