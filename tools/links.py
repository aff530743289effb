"""Every local link, picture and anchor of a built site must exist, and no anchor twice on a page.

usage: python tools/links.py [SITE]     (default _docs; exit 1 and one line for each dead link)
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class PageLinks(HTMLParser):
    "What a page links to, and where it can be linked to."

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.twice: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id" and value:
                self.twice |= {value} & self.anchors
                self.anchors.add(value)
            elif key in ("href", "src", "poster") and value:
                self.links.add(value)


def parsed(
    html: str,  # the text of a page
) -> PageLinks:  # its links and anchors
    "Read one page."
    page = PageLinks()
    page.feed(html)
    return page


def dead_links(
    site: Path,  # folder of the built site
) -> list[str]:  # one sentence for each dead link or doubled anchor, sorted
    "Follow every link that stays inside the site."
    site = site.resolve()
    pages = {file: parsed(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    if not pages:
        return [f"{site} holds no page: build the site first (make docs)"]
    dead: dict[tuple[Path, str], list[str]] = {}  # what is missing → who says so
    for file, page in pages.items():
        for name in page.twice:
            dead[file, f"#{name}"] = [f"{file.relative_to(site)}: #{name} names two places"]
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            start = site if url.path.startswith("/") else file.parent
            target = (start / unquote(url.path).lstrip("/")).resolve() if url.path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or not target.is_relative_to(site):
                said = f"{file.relative_to(site)}: {link}: no such file in the site"
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].anchors:
                said = f"{file.relative_to(site)}: {link}: no such place on {target.relative_to(site)}"
            else:
                continue
            dead.setdefault((target, url.fragment), []).append(said)
    for sheet in site.rglob("*.css"):
        for name in re.findall(r"url\(['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|//|#", name) and not (sheet.parent / unquote(urlsplit(name).path)).exists():
                dead[sheet, name] = [f"{sheet.relative_to(site)}: {name}: no such file in the site"]
    return sorted(s[0] + (f" (and from {len(s) - 1} more pages)" if len(s) > 1 else "") for s in dead.values())


def main() -> int:
    "Check the site and say so."
    site = Path(sys.argv[1] if len(sys.argv) > 1 else "_docs")
    dead = dead_links(site)
    print("\n".join(dead) or f"{len(list(site.rglob('*.html')))} pages, all links good")
    return bool(dead)


if __name__ == "__main__":
    sys.exit(main())
