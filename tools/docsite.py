"""Build the docs site without Quarto: nbdev's own processing, rendered by smalldocs.

usage: python tools/docsite.py [OUT]     (default _docs)

`nbdev-docs` gives the same sources to the real Quarto (`PYTHONPATH=tools nbdev-docs`; the docs workflow does). Here
everything happens in a copy of the project in a temporary folder, so that a build neither disturbs nor needs a clean
checkout, and needs no network. Formulas are drawn by KaTeX: from node_modules/katex (`npm install katex`) where it is,
else from its CDN.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
KATEX = ROOT / "node_modules" / "katex" / "dist"
KATEX_FILES = ("katex.min.css", "katex.min.js", "contrib/auto-render.min.js")
SKIPPED = shutil.ignore_patterns("artifacts", "__pycache__", ".*", "_proc", "_docs")
# What smalldocs says about the keys that only Quarto reads.
QUARTO_ONLY = (
    "unknown key format-links",
    "format commonmark",
    "html-math-method is ignored",
    "output-file is not read",
)
# Dead links are told by tools/links.py, which sees every page and every anchor.
TOLD_ELSEWHERE = ("broken link",)


def copied(
    folder: Path,  # where the copy goes; must exist
) -> Path:  # the copied project
    "Copy what a page is made from: notebooks, exported package, configuration."
    for name in ("nbs", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=SKIPPED)
    for file in ROOT.iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copy2(file, folder)
    return folder


def processed(
    project: Path,  # a copy of the project
) -> Path:  # folder of the processed notebooks
    "Do what `nbdev-docs` does before it calls Quarto."
    os.environ.pop("IN_TEST", None)  # nbdev builds no index under it
    os.chdir(project)
    from nbdev import doclinks
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    refresh_quarto_yml()
    doclinks._build_modidx()
    return proc_nbs(n_workers=0, force=True)


def settle(
    proc: Path,  # processed notebooks; renamed in place
) -> None:
    "Give each notebook the name of its page, as Quarto does by `output-file`."
    sidebar = (proc / "_quarto.yml").read_text(encoding="utf-8")
    for file in sorted(proc.rglob("*.ipynb")):
        name = re.search(r"output-file: (\S+)\.html", file.read_text(encoding="utf-8"))
        page = file.with_stem(name[1]) if name else file
        if page != file and page.exists():
            where = f"{file.name} and {page.name} in {file.parent.name}/"
            raise SystemExit(f"{where} would become the same page: rename one notebook")
        sidebar = sidebar.replace(file.relative_to(proc).as_posix(), page.relative_to(proc).as_posix())
        file.rename(page)
    (proc / "_quarto.yml").write_text(sidebar, encoding="utf-8")


def rendered(
    proc: Path,  # processed notebooks under their final names
    out: Path,  # the site; replaced
) -> list[str]:  # what could not be rendered as meant
    "Render the pages and put the site in place."
    from smalldocs.site import build

    site = build(proc, quiet=True)
    for file in site.out.rglob("*"):
        if file.suffix in (".html", ".css"):
            depth = len(file.relative_to(site.out).parts) - 1
            file.write_text(at_home(file.read_text(encoding="utf-8"), file.suffix, "../" * depth), encoding="utf-8")
        elif file.suffix in (".ipynb", ".yml"):
            file.unlink()
    if KATEX.exists():
        shutil.copytree(KATEX / "fonts", site.out / "site_libs" / "katex" / "fonts")
        for name in KATEX_FILES:
            (site.out / "site_libs" / "katex" / name).parent.mkdir(exist_ok=True)
            shutil.copy(KATEX / name, site.out / "site_libs" / "katex" / name)
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(site.out, out)
    return [w for w in site.warnings if not any(known in w for known in QUARTO_ONLY + TOLD_ELSEWHERE)]


def at_home(
    content: str,  # a page or a style sheet
    kind: str,  # its suffix
    up: str,  # the way to the site's root
) -> str:  # the same without what is fetched from elsewhere
    "Fonts come from the reader's system, and formulas from the site itself where KaTeX is at hand."
    if kind == ".css":
        return re.sub(r"@import url\([\"']?https://fonts[^)]*\);?", "", content)
    from smalldocs.layout import KATEX as CDN

    return content.replace(CDN, f"{up}site_libs/katex") if KATEX.exists() else content


def unlisted(
    nbs: Path,  # the notebooks
) -> list[str]:  # notebooks without a place in the sidebar
    "A notebook that the sidebar forgets would be a page that nobody finds."
    sidebar = yaml.safe_dump(yaml.safe_load((nbs / "_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"])
    names = sorted(f.relative_to(nbs).as_posix() for f in nbs.rglob("*.ipynb"))
    return [f"nbs/{n} is not in the sidebar of nbs/_quarto.yml: make export" for n in names if n not in sidebar]


def main() -> int:
    "Build the site and say what could not be done well."
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_docs").resolve()
    with tempfile.TemporaryDirectory(prefix="site-") as folder:
        project = copied(Path(folder).resolve())
        warnings = unlisted(project / "nbs")
        proc = processed(project)
        settle(proc)
        warnings += rendered(proc, out)
        os.chdir(ROOT)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{len(list(out.rglob('*.html')))} pages in {out}")
    return bool(warnings)


if __name__ == "__main__":
    sys.exit(main())
