"Write what follows from the notebooks: package, report templates, settings.ini, README.md, page of settings."

import shutil
import sys
from pathlib import Path

from nbdev.doclinks import nbdev_export

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "seatrial"


def copy_templates():
    "Report templates travel inside the wheel."
    target = PACKAGE / "defaults" / "reports"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "nbs" / "reports", target, ignore=shutil.ignore_patterns(".*"))


def main():
    nbdev_export.__wrapped__()
    for room in PACKAGE.iterdir():
        if room.is_dir() and any(room.glob("*.py")):
            (room / "__init__.py").touch()
    copy_templates()
    sys.path.insert(0, str(ROOT))
    from seatrial.base.settings import commented
    from tools import readme

    (ROOT / "settings.ini").write_text(commented(), encoding="utf-8")
    readme.main([])


if __name__ == "__main__":
    main()
