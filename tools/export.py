"Write what follows from the notebooks: the package, its travelling defaults, and README.md."

import shutil
import sys
from pathlib import Path

from nbdev.doclinks import nbdev_export

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "seatrial"


def copy_defaults():
    "Settings and report templates travel inside the wheel."
    target = PACKAGE / "defaults"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "nbs" / "reports", target / "reports", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "settings.ini", target / "settings.ini")


def main():
    nbdev_export.__wrapped__()
    for room in PACKAGE.iterdir():
        if room.is_dir() and any(room.glob("*.py")):
            (room / "__init__.py").touch()
    copy_defaults()
    sys.path.insert(0, str(ROOT))
    from tools import readme

    readme.main([])


if __name__ == "__main__":
    main()
