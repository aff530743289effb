"""What nbdev's docs processing takes from us (`doc_procs` in pyproject.toml), for Quarto and tools/docsite.py.

Nothing of a notebook runs while its page is made: signatures, parameter tables and code are read from the export cells
themselves, comments included, so a page cannot differ from the notebook and a site takes seconds. Put this folder on
PYTHONPATH.
"""

import ast
import io
import os
import posixpath
import re
import textwrap
import tokenize
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastcore.nbio import mk_cell
from nbdev.config import ConfigToml, get_config, nbpath2html
from nbdev.process import Processor

DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
WIDTH = 88  # longest one-line signature


class Param(NamedTuple):
    "One row of a parameter table."

    name: str  # as written, stars included
    type: str  # annotation as written, empty without one
    default: str  # default as written, empty without one
    words: str  # the comment beside it

    def __str__(self) -> str:  # `name: type = default`
        typed = f"{self.name}: {self.type}" if self.type else self.name
        return typed + (f" = {self.default}" if self.type else f"={self.default}") * bool(self.default)


@cache
def config() -> ConfigToml:  # of the project that the working directory is in
    "nbdev's configuration, read once: it parses pyproject.toml at every call."
    return get_config()


# ---------------------------------------------------------------- reading the code


def comments(
    source: str,  # Python code
) -> dict[int, tuple[str, bool]]:  # line number → the comment's text, and whether the line holds nothing else
    "Every comment of the code."
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.string.lstrip("# "), not token.line[: token.start[1]].strip()
    return found


def words_at(
    notes: dict[int, tuple[str, bool]],  # from `comments`
    line: int,  # last line of what is commented
) -> str:  # the comment beside that line, else the lines of comment right above it
    "The comment that belongs to a line."
    if line in notes:
        return notes[line][0]
    above = []
    while line - 1 in notes and notes[line - 1][1]:
        line -= 1
        above.insert(0, notes[line][0])
    return " ".join(above)


def parameters(
    node: ast.FunctionDef | ast.AsyncFunctionDef,  # a function
    notes: dict[int, tuple[str, bool]],  # comments of its source
) -> list[Param]:  # in order, `/` and `*` included, without self and cls
    "The parameters of a function as they are written."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    rows = list(zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults, [""] * len(plain), strict=True))
    rows += [(a.vararg, None, "*")] if a.vararg else [(None, None, "*")] if a.kwonlyargs else []
    rows += [(arg, default, "") for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    rows += [(a.kwarg, None, "**")] if a.kwarg else []
    if a.posonlyargs:
        rows.insert(len(a.posonlyargs), (None, None, "/"))
    last = {
        (default or arg).end_lineno: arg for arg, default, _ in rows if arg
    }  # a comment belongs to the last on its line
    if node.returns:
        last.pop(node.returns.end_lineno, None)
    found = []
    for arg, default, star in rows:
        if arg is None:
            found.append(Param(star, "", "", ""))
        elif arg.arg not in ("self", "cls"):
            line = (default or arg).end_lineno
            kind, help_ = annotated(arg.annotation)
            said = words_at(notes, line) if last.get(line) is arg else ""
            found.append(Param(star + arg.arg, kind, text(default), said or help_))
    return found


def annotated(
    node: ast.expr | None,  # an annotation
) -> tuple[str, str]:  # the type alone, and the help that an `Annotated` may carry (options of a command)
    "What a parameter is and, for a command, what its help says."
    if not (isinstance(node, ast.Subscript) and text(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple)):
        return text(node), ""
    helps = [
        k.value for call in node.slice.elts if isinstance(call, ast.Call) for k in call.keywords if k.arg == "help"
    ]
    return text(node.slice.elts[0]), helps[0].value if helps and isinstance(helps[0], ast.Constant) else ""


def fields(
    node: ast.ClassDef,  # a class
    notes: dict[int, tuple[str, bool]],  # comments of its source
) -> list[Param]:  # annotated public names of its body
    "The fields of a dataclass or named tuple."
    rows = [n for n in node.body if isinstance(n, ast.AnnAssign) and not text(n.target).startswith("_")]
    return [
        Param(text(n.target), text(n.annotation), field_default(n.value), words_at(notes, n.end_lineno)) for n in rows
    ]


def field_default(
    node: ast.expr | None,  # what a field is set to
) -> str:  # what it is when nobody says otherwise; an ellipsis where only the code can tell
    "The default of a dataclass field."
    if not (isinstance(node, ast.Call) and text(node.func) in ("field", "dataclasses.field")):
        return text(node)
    given = {k.arg: text(k.value) for k in node.keywords}
    factory = given.get("default_factory", "")
    return given.get("default") or (f"{factory}()" if factory.isidentifier() else "…")


def text(
    node: ast.AST | None,  # part of a syntax tree
) -> str:  # its code; the text itself where an annotation is quoted
    "Code of a part of the tree, on one line."
    quoted = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return "" if node is None else repr(node.value) if quoted else ast.unparse(node)


def signature(
    start: str,  # what stands before the parenthesis, such as `def wilson`
    params: list[Param],  # its parameters
    returns: str,  # the annotation of what comes back, or empty
) -> str:  # one line, or one line for each parameter
    "A signature as one would write it."
    end = f" -> {returns}" if returns else ""
    flat = f"{start}({', '.join(map(str, params))}){end}"
    return flat if len(flat) <= WIDTH else "\n".join([f"{start}(", *(f"    {p}," for p in params), f"){end}"])


def constructor(
    start: str,  # such as `class Moments`
    params: list[Param],  # its fields or parameters
) -> str:  # the signature where it fits a line, else the names alone: types and defaults stand in the table
    "How a class is made."
    flat = signature(start, params, "")
    if "\n" not in flat or not table(params):
        return flat
    names = textwrap.wrap(", ".join(p.name for p in params), WIDTH - 4)
    return "\n    ".join([f"{start}(", *names]) + "\n)"


# ---------------------------------------------------------------- writing the page


def code(
    source: str,  # code as written
) -> str:  # HTML that Markdown leaves alone, even in a table cell
    "Inline code with every character that Markdown could read escaped."
    safe = re.sub(r"[^ \w.,:=()-]|__|\.\.+|--+", lambda m: "".join(f"&#{ord(c)};" for c in m[0]), source)
    return f"<code>{safe}</code>" if source else ""


def table(
    params: list[Param],  # rows
    returns: tuple[str, str] = ("", ""),  # type and words of what comes back
) -> str:  # a pipe table, empty where nobody wrote a comment
    "The table of parameters."
    rows = [p for p in params if p.name not in ("*", "/")]
    if not any(p.words for p in rows) and not returns[1]:
        return ""
    heads = ["", "Type", "Default", ""] if any(p.default for p in rows) else ["", "Type", ""]
    lines = [[code(p.name), code(p.type), code(p.default), cell(p.words)] for p in rows]
    lines += [["*returns*", code(returns[0]), "", cell(returns[1])]] if any(returns) and returns != ("None", "") else []
    if len(heads) == 3:
        lines = [[name, kind, said] for name, kind, _, said in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *lines])


def cell(
    words: str,  # a comment
) -> str:  # the same, safe in a table
    "A comment as the cell of a pipe table."
    parts = re.split(r"(`[^`]*`)", words)
    said = [p.replace("|", "&#124;").replace("<", "&lt;") for p in parts[::2]]
    parts[::2], parts[1::2] = said, [code(p.strip("`")) if "|" in p else p for p in parts[1::2]]
    return "".join(parts)


def entry(
    node: ast.stmt,  # a function or class
    source: str,  # the code that it stands in
    line_of: dict[str, int],  # name → its line in the module
    url: str,  # the module's page in the repository
    module: str = "",  # its full name
    owner: str = "",  # the class, for a method
) -> str:  # Markdown: heading, signature, words, table, methods, folded code
    "The documentation of one exported object."
    notes, name = comments(source), f"{owner}.{node.name}" if owner else node.name
    isclass = isinstance(node, ast.ClassDef)
    init = next((n for n in node.body if isinstance(n, DEFS) and n.name == "__init__"), None) if isclass else node
    params = parameters(init, notes) if init else fields(node, notes) if made_of_fields(node) else []
    result = (
        ("", "")
        if isclass or not node.returns
        else (text(node.returns).strip("'"), words_at(notes, node.returns.end_lineno))
    )
    lines = [f"@{text(d)}" for d in node.decorator_list]
    if isclass:
        bases = f"({', '.join(map(text, node.bases))})" if node.bases else ""
        lines.append(constructor(f"class {node.name}", params) if params else f"class {node.name}{bases}")
    else:
        start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        lines.append(signature(f"{start} {node.name}", params, result[0]))
    line = f"#L{line_of[name]}" if name in line_of else ""
    parts = [
        f"{'####' if owner else '###'} {name} {{#{anchor(f'{module}.{name}')} .{'api-method' if owner else 'api'}}}",
        f'<a class="api-source" href="{url}{line}">source</a>',
        "```python\n" + "\n".join(lines) + "\n```",
        (ast.get_docstring(node) or "").strip(),
        table(params, result),
    ]
    if not owner:
        parts.append(folded(source, node))
        methods = [n for n in node.body if isinstance(n, DEFS[:2]) and not n.name.startswith("_")] if isclass else []
        parts += [entry(n, source, line_of, url, module, owner=name) for n in methods]
    return "\n\n".join(p for p in parts if p)


def made_of_fields(
    node: ast.ClassDef,  # a class
) -> bool:  # whether its fields are its parameters
    "Say whether a class is a dataclass or a named tuple."
    return any("dataclass" in text(d) for d in node.decorator_list) or any("NamedTuple" in text(b) for b in node.bases)


def folded(
    source: str,  # the code that the object stands in
    node: ast.stmt,  # the object
    name: str = "code",  # what to click on
) -> str:  # a closed block that opens on click
    "The whole code, comments and decorators included, out of the way."
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    whole = "\n".join(source.splitlines()[first - 1 : node.end_lineno])
    return f'<details class="api-code">\n<summary>{name}</summary>\n\n```python\n{whole}\n```\n\n</details>'


def documented(
    source: str,  # an export cell
    line_of: dict[str, int],  # name → its line in the module
    url: str,  # the module's page in the repository
    module: str = "",  # its full name, such as `seatrial.stats.moments`
) -> list[str]:  # Markdown: constants as they are, then each object; a private one is only its folded code
    "The documentation of everything that a cell exports."
    source = re.sub(r"\A(#\|.*\n)+", "", source)  # directives of the notebook
    lines, found, plain = source.splitlines(), [], []
    for node in ast.parse(source).body:
        if isinstance(node, DEFS):
            private = node.name.startswith("_")
            found.append(folded(source, node, node.name) if private else entry(node, source, line_of, url, module))
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            plain += lines[node.lineno - 1 : node.end_lineno]
    return ["```python\n" + "\n".join(plain) + "\n```"] * bool(plain) + found


# ---------------------------------------------------------------- links


@cache
def index() -> tuple[dict[str, str], dict[str, list[str]]]:  # full name → page; any ending of it → the full names
    "Where each public object of the package is documented, from nbdev's own index."
    file = config().lib_path / "_modidx.py"
    space: dict = {}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), space)
    pages, endings = {}, defaultdict(list)
    for names in space["d"]["syms"].values():
        for full, (page, _) in names.items():
            parts = full.split(".")
            if not any(p.startswith("_") for p in parts):
                pages[full] = f"{page.partition('#')[0]}#{anchor(full)}"
                for i in range(len(parts)):
                    endings[".".join(parts[i:])].append(full)
    for module, names in space["d"]["syms"].items():
        pages[module] = next(iter(names.values()))[0].partition("#")[0]
        endings[module] = endings[module.partition(".")[2]] = [module]
    return pages, endings


def anchor(
    full: str,  # full name, such as `seatrial.stats.moments.Moments`
) -> str:  # without the package: a heading `Fit`, a class `Fit` and a function `fit` must not share one
    "Where on its page an object is described."
    return full.partition(".")[2]


def find(
    name: str,  # what stands in backticks, such as `Moments`, `welch()` or `stats.moments.Moments`
    module: str,  # the module whose page it stands on, such as `seatrial.stats.moments`
) -> str | None:  # page and anchor; None where the name is unknown or could mean two things
    "The page of a name: this module's own first, then the only one in the package."
    pages, endings = index()
    called, name = name.endswith("()"), name.removesuffix("()")
    here = pages.get(f"{module}.{name}")
    word = re.fullmatch("[a-z]+", name) and not called  # `write` and `split` mean many things to many modules
    return here or (pages[endings[name][0]] if len(endings.get(name, ())) == 1 and not word else None)


def linked(
    source: str,  # Markdown
    module: str,  # the module whose page it is, or empty
    page: str,  # the page's path in the site
) -> str:  # the same; the first mention of each known name is a link
    "Names in backticks as links, outside code, headings and links."
    seen, fenced, lines = set(), False, []

    def link(m: re.Match) -> str:
        target = find(m[1], module)
        if target is None or target in seen:
            return m[0]
        seen.add(target)
        return f"[{m[0]}]({relative(target, page)})"

    for line in source.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        skip = fenced or line.startswith(("#", "    ", "<")) or line.lstrip().startswith("```")
        lines.append(line if skip else re.sub(r"(?<![\[\w`])`([A-Za-z][\w.]*(?:\(\))?)`(?![\]`])", link, line))
    return "\n".join(lines)


def relative(
    target: str,  # path in the site, anchor included
    page: str,  # the page that links to it
) -> str:  # the link to write
    "A link from one page to another."
    path, hash_, anchor = target.partition("#")
    return ("" if path == page else posixpath.relpath(path, posixpath.dirname(page) or ".")) + hash_ + anchor


def published(
    source: str,  # Markdown of a notebook
    folder: Path,  # the notebook's folder
) -> str:  # the same with links that hold on the site
    "Links to notebooks become links to their pages; links to files outside the notebooks lead to the repository."
    cfg = config()

    def fix(m: re.Match) -> str:
        path, hash_, anchor = m[2].partition("#")
        if not path or re.match(r"[a-z]+:|/", path):
            return m[0]
        if path.endswith(".ipynb"):
            return f"{m[1]}({nbpath2html(Path(path)).as_posix()}{hash_}{anchor})"
        full = Path(os.path.normpath(folder / path))
        if full.is_relative_to(cfg.nbs_path) or not full.is_relative_to(cfg.config_path):
            return m[0]
        return f"{m[1]}({cfg.git_url}/blob/{cfg.branch}/{full.relative_to(cfg.config_path).as_posix()}{hash_}{anchor})"

    return re.sub(r"(\]|^\[[^\]]+\]: *)\(([^)\s]+)\)", fix, source)


# ---------------------------------------------------------------- the processor


class Page(Processor):
    "A notebook as a page: export cells become documentation, names and notebooks become links."

    def begin(self) -> None:
        cfg, path = config(), Path(self.nb.path_).resolve()
        where = path.relative_to(cfg.nbs_path.resolve())
        page, module = nbpath2html(where).as_posix(), ""
        for c in self.nb.cells:
            module = (
                f"{cfg.lib_path.name}.{c.directives_['default_exp'].strip()}"
                if "default_exp" in c.directives_
                else module
            )
        self.nb.cells = list(self.cells(module))
        for c in self.nb.cells:
            if c.cell_type == "markdown":
                said = re.sub(r"\A(#\|.*\n)+", "", c.source)  # directives that came from the cell's metadata
                c.source = published(linked(said, module, page), path.parent)
            for out in c.get("outputs", []):
                said = out.get("data", {}).get("text/markdown")
                if said:
                    out["data"]["text/markdown"] = published("".join(said), path.parent)

    def cells(self, module: str):
        "The page's cells, documentation in place of what is exported."
        file = Path(*module.split(".")).with_suffix(".py") if module else None
        for c in self.nb.cells:
            marks = c.directives_.keys() if c.cell_type == "code" else set()
            if marks & {"export", "exports"} and "hide" not in marks:
                if "exports" in marks:
                    yield c
                for said in documented(c.source, *source_of(file), module):
                    yield mk_cell(said, "markdown")
            elif not marks & {"exporti", "hide", "default_exp"}:
                yield c


@cache
def source_of(
    file: Path,  # the module, relative to the folder that holds the package
) -> tuple[dict[str, int], str]:  # name → line, and the module's page in the repository
    "Where the exported code of a notebook is read by people."
    cfg = config()
    code_root = cfg.lib_path.parent
    if not (code_root / file).exists():
        raise SystemExit(f"{file} is not exported yet: run `make export` before building the docs")
    lines = {}
    for node in ast.parse((code_root / file).read_text(encoding="utf-8")).body:
        if isinstance(node, DEFS):
            lines[node.name] = node.lineno
            lines |= {f"{node.name}.{n.name}": n.lineno for n in getattr(node, "body", []) if isinstance(n, DEFS)}
    root = code_root.relative_to(cfg.config_path).as_posix()
    return lines, f"{cfg.git_url}/blob/{cfg.branch}/{root}/{file.as_posix()}"
