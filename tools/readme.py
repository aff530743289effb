"""Make README.md from nbs/index.ipynb and the page of settings from base.settings; keep lists of notebooks complete.

The lists are the table of rooms in nbs/index.ipynb and the sidebar in nbs/_quarto.yml; people write their words.

usage: python tools/readme.py [--check]     (--check writes nothing; exit 1 where a file is out of date)
"""

import argparse
import difflib
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
MADE = "<!-- Made from {source} by tools/readme.py: change it there. -->\n\n"


def moved(
    link: str,  # target of a link or picture in nbs/index.ipynb
) -> str:  # the same target, seen from the root of the repository
    "A relative link from one folder further up."
    path, hash_, anchor = link.partition("#")
    if not path or re.match(r"[a-z]+:|/", path):
        return link
    full = Path(os.path.normpath(NBS / path))
    if not full.exists():
        raise SystemExit(f"nbs/index.ipynb links to {path}, which does not exist: write the file or take the link out")
    return full.relative_to(ROOT).as_posix() + hash_ + anchor


def listed(
    line: str,  # a line of the home page
) -> str:  # the same; of a room's row, the last cell names every notebook of the room
    "The table of rooms, kept complete: questions are written by people, names are read from the folders."
    row = re.fullmatch(r"\| (\w+) \| (.+) \| .* \|(\n?)", line)
    notebooks = sorted((NBS / row[1]).glob("*.ipynb")) if row else []
    if not notebooks:
        return line
    names = (f"[{re.sub(r'^[0-9]+_', '', n.stem).replace('_', ' ')}]({row[1]}/{n.name})" for n in notebooks)
    return f"| {row[1]} | {row[2]} | {', '.join(names)} |{row[3]}"


def sidebar() -> str:  # the text of nbs/_quarto.yml
    "The site's configuration with every notebook in the sidebar, in reading order."

    def section(m: re.Match) -> str:
        return m[1] + "[" + ", ".join(f"{m[2]}/{n.name}" for n in sorted((NBS / m[2]).glob("*.ipynb"))) + "]"

    text = (NBS / "_quarto.yml").read_text(encoding="utf-8")
    return re.sub(r'(- section: "(\w+) [^"]*"\n +contents: )\[.*\]', section, text)


def home() -> str:  # the text of nbs/index.ipynb
    "The home page with a complete table of rooms."
    notebook = json.loads((NBS / "index.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = [listed(line) for line in "".join(cell["source"]).splitlines(keepends=True)]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def readme(
    page: str,  # the text of nbs/index.ipynb
) -> str:  # the text of README.md
    "The home page as GitHub shows it."
    import nbformat
    from nbconvert import MarkdownExporter

    body, _ = MarkdownExporter().from_notebook_node(nbformat.reads(page, as_version=4))
    body = re.sub(r"\]\(([^)\s]+)\)", lambda m: f"]({moved(m[1])})", body)
    return MADE.format(source="nbs/index.ipynb") + re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


SETTINGS = """---
title: All settings
description: What may an operator change, and what does it default to?
---

{made}Settings live in `settings.ini`, one section a room, with the unit in the last word of the key. seatrial reads the
nearest such file above the working directory, or the one that `--settings` names; whatever that file does not mention
keeps the default below. An environment variable `SEATRIAL_<SECTION>_<KEY>` beats the file:
`SEATRIAL_SERVE_PORT=9000 seatrial serve`. An unknown section, an unknown key or a bad value is refused, with the
section, the key, the value and the rule. Only variables that belong to no section are left alone (a cluster sets some
that begin with `SEATRIAL_` too). How that works is told in [the notebook of settings](base/settings.html).

The tables are printed from the declarations that check the file, so they cannot disagree with it.
"""


def settings_page() -> str:  # the text of nbs/settings.qmd
    "Every setting with its default, unit, meaning and rule."
    from seatrial.base.settings import table

    parts, section = [SETTINGS.format(made=MADE.format(source="base.settings.table()"))], ""
    for row in table().to_pylist():
        if row["section"] != section:
            section = row["section"]
            parts.append(f"\n## {section}\n\n| key | default | unit | meaning | accepts |\n|---|---|---|---|---|\n")
        default = f"`{row['default']}`" if row["default"] else "*empty*"
        line = f"| `{row['key']}` | {default} | {row['unit']} | {row['meaning']} | {row['rule']} |"
        parts.append(line.replace("<", "&lt;") + "\n")
    return "".join(parts)


def main(
    args: list[str] | None = None,  # command line; None: the real one
) -> int:  # 1 where --check found a file out of date
    "Write the files, or say which of them is out of date."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is out of date")
    check, stale = parser.parse_args(args).check, 0
    page = home()
    made = {NBS / "index.ipynb": page, ROOT / "README.md": readme(page)}
    made |= {NBS / "settings.qmd": settings_page(), NBS / "_quarto.yml": sidebar()}
    for file, wanted in made.items():
        found = file.read_text(encoding="utf-8") if file.exists() else ""
        if found == wanted:
            continue
        if check:
            stale += 1
            diff = difflib.unified_diff(found.splitlines(), wanted.splitlines(), "found", "wanted", lineterm="", n=0)
            print(f"{file.relative_to(ROOT)} is out of date: run python tools/readme.py", *list(diff)[:12], sep="\n")
        else:
            file.write_text(wanted, encoding="utf-8")
            print(f"wrote {file.relative_to(ROOT)}")
    return min(stale, 1)


if __name__ == "__main__":
    sys.exit(main())
