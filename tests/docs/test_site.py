"The site: complete, every link good, and said in the words of the code."

import ast
import html
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import table
from tools import links, nbdocs, readme

ROOT = Path(__file__).resolve().parents[2]
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(
    f for f in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts and "artifacts" not in f.parts
)


def page_of(notebook):
    "The page that a notebook becomes: its name without the number."
    return notebook.relative_to(NBS).with_name(re.sub(r"^\d+_", "", notebook.stem) + ".html").as_posix()


def test_every_link_of_the_site_leads_somewhere(site):
    assert links.dead_links(site) == []


def test_every_notebook_has_a_page_and_a_place_in_the_sidebar(site):
    listed = links.parsed((site / "index.html").read_text()).links
    missing = [
        page_of(n)
        for n in NOTEBOOKS
        if not (site / page_of(n)).exists() or f"./{page_of(n)}" not in {f"./{x}" for x in listed} | listed
    ]
    assert missing == []


def test_rooms_stand_in_the_sidebar_from_the_ground_up(site):
    sections = re.findall(r'"(\w+) · ', (NBS / "_quarto.yml").read_text())
    floors = re.search(r"^layers = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    ground_up = re.findall(r"\w+", floors)[::-1]
    rooms = [s for s in sections if s in ground_up]
    assert [r for r in ground_up if r in rooms and r not in ("model", "engine")] == [
        r for r in rooms if r not in ("model", "engine")
    ]


def test_everything_that_a_module_offers_is_documented(site):
    missing = []
    for notebook in NOTEBOOKS:
        module = re.search(r"#\| default_exp (\S+?)[\"\\]", notebook.read_text())
        if not module:
            continue
        tree = ast.parse((ROOT / "src/seatrial" / f"{module[1].replace('.', '/')}.py").read_text())
        offered = [n.name for n in tree.body if isinstance(n, nbdocs.DEFS) and not n.name.startswith("_")]
        anchors = links.parsed((site / page_of(notebook)).read_text()).anchors
        missing += [f"{module[1]}.{name}" for name in offered if f"{module[1]}.{name}" not in anchors]
    assert missing == []


def test_search_finds_functions_by_name(site):
    found = {entry["section"] for entry in json.loads((site / "search.json").read_text())}
    assert {"welch", "assign", "Journal"} <= found


def test_no_page_shows_a_directive_or_an_error(site):
    for page in site.rglob("*.html"):
        body = re.sub(r"<code.*?</code>|<pre.*?</pre>", "", page.read_text(), flags=re.S)
        assert "#|" not in body, page
        assert 'class="cell-output cell-output-error"' not in body, page


def test_nothing_is_fetched_from_elsewhere_but_formulas(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r'<(?:script|img)[^>]* src="(https?://[^"]+)"', text)
        fetched += re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="(https?://[^"]+)"', text)
        assert all("/katex@" in link for link in fetched), (page, fetched)


def test_every_setting_is_on_the_page_of_settings(site):
    text = (site / "settings.html").read_text()
    assert [r["key"] for r in table().to_pylist() if f"<code>{r['key']}</code>" not in text] == []


def test_readme_and_settings_page_follow_their_sources(capsys):
    assert readme.main(["--check"]) == 0, capsys.readouterr().out


def test_home_page_names_every_notebook():
    home = (NBS / "index.ipynb").read_text()
    unnamed = [
        n.relative_to(NBS).as_posix()
        for n in NOTEBOOKS
        if n.parent != NBS and f"({n.relative_to(NBS).as_posix()})" not in home
    ]
    assert unnamed == []


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ('<a href="gone.html">x</a>', "gone.html: no such file"),
        ('<a href="#gone">x</a>', "#gone: no such place"),
        ('<a href="index.html#gone">x</a>', "no such place on index.html"),
        ('<b id="here">x</b>', "#here names two places"),
        ('<img src="gone.png">', "gone.png: no such file"),
        ('<a href="../outside.html">x</a>', "outside.html: no such file in the site"),
    ],
)
def test_a_dead_link_is_named(tmp_path, page, complaint):
    (tmp_path / "index.html").write_text(f'<p id="here">{page}</p>')
    (tmp_path.parent / "outside.html").write_text("not a page of the site")
    assert [complaint in said for said in links.dead_links(tmp_path)] == [True]


def test_good_links_are_not_complained_about(tmp_path):
    (tmp_path / "index.html").write_text(
        '<p id="here"><a href="#here">x</a><a href="https://example.org/gone">y</a><a href="./">z</a></p>'
    )
    assert links.dead_links(tmp_path) == []


def test_a_folder_without_pages_is_not_a_good_site(tmp_path):
    assert "build the site first" in links.dead_links(tmp_path)[0]


WILSON = """
@cache
def wilson(
    k: int,  # successes, 0 <= k <= n
    n: int | None = None,  # trials
    *,
    alpha: float = 0.05,  # two-sided miss rate
) -> "Interval":  # bounds on the rate
    "Score interval."
    return k  # not this comment
"""


def test_a_function_is_documented_in_its_own_words():
    (said,) = nbdocs.documented(WILSON, {"wilson": 7}, "https://example.org/stats.py")
    assert "### wilson {#wilson .api}" in said
    assert '"https://example.org/stats.py#L7"' in said
    assert "def wilson(k: int, n: int | None = None, *, alpha: float = 0.05) -> Interval\n" in said
    assert "successes, 0 &lt;= k &lt;= n" in said
    assert "| *returns* | <code>Interval</code> |  | bounds on the rate |" in said
    assert said.count("not this comment") == 1, "only the folded code shows it"


def test_a_comment_belongs_to_the_last_parameter_on_its_line():
    node = ast.parse(source := "def f(a, b=1,  # of b\n      c=2):  # of nobody\n    pass").body[0]
    assert [(p.name, p.words) for p in nbdocs.parameters(node, nbdocs.comments(source))] == [
        ("a", ""),
        ("b", "of b"),
        ("c", "of nobody"),
    ]


def test_the_help_of_a_command_is_said_in_its_table():
    (said,) = nbdocs.documented("def go(port: Annotated[int, typer.Option(help='Where to listen.')] = 80): ...", {}, "")
    assert "def go(port: int = 80)" in said
    assert "| <code>port</code> | <code>int</code> | <code>80</code> | Where to listen. |" in said


def test_a_default_is_shown_as_written_and_never_evaluated():
    (said,) = nbdocs.documented("def load(environ=os.environ): ...", {}, "")
    assert "def load(environ=os.environ)" in said


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1))
def test_code_in_a_table_reads_back_as_it_was(source):
    shown = nbdocs.code(source)
    assert "|" not in shown
    assert html.unescape(shown.removeprefix("<code>").removesuffix("</code>")) == source


def test_a_name_that_could_mean_two_things_is_no_link(monkeypatch):
    pages = {
        "s.a.load": "a.html#load",
        "s.b.load": "b.html#load",
        "s.a.Moments": "a.html#moments",
        "s.a.merge": "a.html#merge",
    }
    endings = {
        "load": ["s.a.load", "s.b.load"],
        "b.load": ["s.b.load"],
        "Moments": ["s.a.Moments"],
        "merge": ["s.a.merge"],
    }
    monkeypatch.setattr(nbdocs, "index", lambda: (pages, endings))
    said = nbdocs.linked("`load` of `b.load` gives `Moments`, and `Moments` again; [`Moments`](x)", "s.c", "c.html")
    assert (
        said
        == "`load` of [`b.load`](b.html#load) gives [`Moments`](a.html#moments), and `Moments` again; [`Moments`](x)"
    )
    assert nbdocs.linked("`load`", "s.a", "a.html") == "[`load`](#load)", "a module means its own names"
    assert nbdocs.linked("one `merge`, one `merge()`", "s.c", "c.html") == "one `merge`, one [`merge()`](a.html#merge)"
    assert nbdocs.linked("# `Moments`\n```\n`Moments`\n```", "s.c", "c.html") == "# `Moments`\n```\n`Moments`\n```"


def test_a_class_too_long_for_a_line_is_named_by_its_fields():
    fields = "".join(f"    field_{i}: float = 0.0  # the {i}th\n" for i in range(9))
    (said,) = nbdocs.documented(f"@dataclass\nclass Wide:\n    'Wide.'\n{fields}", {}, "")
    assert "class Wide(\n    field_0, field_1" in said
    assert "| <code>field_8</code> | <code>float</code> | <code>0.0</code> | the 8th |" in said


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[shift](../drift/09_shift.ipynb#psi)", "[shift](../drift/shift.html#psi)"),
        ("[licence](../../LICENSE)", "[licence](https://github.com/seatrial/seatrial/blob/main/LICENSE)"),
        ("![x](../images/voyage.svg)", "![x](../images/voyage.svg)"),
        ("[out](https://example.org/a.ipynb)", "[out](https://example.org/a.ipynb)"),
        ("[here](#there)", "[here](#there)"),
    ],
)
def test_links_of_a_notebook_hold_on_the_site(monkeypatch, written, shown):
    monkeypatch.chdir(ROOT)
    assert nbdocs.published(written, NBS / "stats") == shown


def test_a_notebook_that_was_never_exported_is_named(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=r"nowhere\.py is not exported yet: run `make export`"):
        nbdocs.source_of(Path("seatrial/stats/nowhere.py"))
