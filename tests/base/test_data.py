"Data: every file is what its README says, no group straddles a split, and a fingerprint sees values only."

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base import data
from seatrial.base.data import SOURCES, change_points, data_hash, document, named, open_bandit, place, rated_text, split
from seatrial.base.settings import CannotDo

ROOT = Path(__file__).resolve().parents[2]
LINES = [line for line in (ROOT / "data" / "README.md").read_text().splitlines() if line.startswith("| `")]
README = {cells[0].strip("`"): cells for cells in ([c.strip() for c in line.strip("|").split("|")] for line in LINES)}


def test_readme_lists_exactly_the_files_that_have_a_loader():
    assert set(README) == {source.file for source in SOURCES.values()}
    there = {str(p.relative_to(ROOT / "data")) for p in (ROOT / "data").rglob("*") if p.is_file()}
    assert there == set(README) | {"README.md", "change_points/labels.json"}


@pytest.mark.parametrize("name", SOURCES)
def test_file_has_the_rows_columns_and_licence_that_its_readme_states(name):
    table, stated = named(name), README[SOURCES[name].file]
    assert table.num_rows == int(stated[1].replace(",", ""))
    for column in re.findall(r"`(\w+)`", stated[2]):
        assert column in table.column_names
    said = table.schema.metadata
    assert said[b"licence"].decode() == stated[4] and said[b"origin"]


def test_csv_files_are_read_without_losing_a_line_or_inventing_a_missing_text():
    with (ROOT / "data" / "sms_spam.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = data.sms_spam()
    assert table["text"].to_pylist() == [row["text"] for row in rows] and table["text"].null_count == 0


def test_process_yield_has_its_missing_values_and_nothing_else_is_missing():
    table = data.process_yield()
    assert sum(column.null_count for column in table.columns) == 106
    assert all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in table.schema.types)


@pytest.mark.parametrize(("domain", "documents"), [("film", 10605), ("product", 300), ("news", 498)])
def test_rated_text_has_the_documents_that_the_readme_names(domain, documents):
    table = rated_text(domain)
    assert pc.unique(table["domain"]).to_pylist() == [domain]
    assert len(pc.unique(document(table["id"]))) == documents


@pytest.mark.parametrize("loader", [rated_text, open_bandit, data.open_bandit_items, change_points])
def test_unknown_name_is_refused_with_the_known_ones(loader):
    with pytest.raises(ValueError, match=r"(film|men|occupancy).*got 'womens'"):
        loader("womens")


@pytest.mark.parametrize(("series", "people"), [("occupancy", 5), ("bitcoin", 5)])
def test_change_points_lie_inside_their_series(series, people):
    table = change_points(series)
    marks = json.loads(table.schema.metadata[b"labels"])
    assert len(marks) == people
    assert all(0 <= i < table.num_rows for person in marks.values() for i in person)


def test_missing_data_file_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("SEATRIAL_PATHS_DATA", str(tmp_path))
    with pytest.raises(CannotDo, match=r"sms_spam\.csv is not there.*SEATRIAL_PATHS_DATA"):
        data.sms_spam()
    with pytest.raises(CannotDo, match="is not there"):
        change_points("bitcoin")


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", b"\x00" * 100])
def test_corrupt_data_file_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setenv("SEATRIAL_PATHS_DATA", str(tmp_path))
    (tmp_path / "rated_text.parquet").write_bytes(content)
    with pytest.raises(CannotDo, match=r"rated_text\.parquet cannot be read"):
        rated_text()


groups = st.lists(st.text(max_size=3), min_size=1, max_size=60)
weights = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(keys=groups, weights=weights, seed=st.integers(0, 5))
def test_split_keeps_every_row_once_and_every_group_together(keys, weights, seed):
    shares = {f"part{i}": w / sum(weights) for i, w in enumerate(weights)}
    table = pa.table({"row": range(len(keys)), "key": keys})
    parts = split(table, by="key", shares=shares, seed=seed)
    assert list(parts) == list(shares)
    assert sorted(row for part in parts.values() for row in part["row"].to_pylist()) == list(range(len(keys)))
    owned = [set(part["key"].to_pylist()) for part in parts.values()]
    assert sum(map(len, owned)) == len(set(keys))
    for part in parts.values():
        assert part["row"].to_pylist() == sorted(part["row"].to_pylist())


@given(keys=groups, more=groups, seed=st.integers(0, 5))
def test_rows_that_arrive_later_move_nobody(keys, more, seed):
    def where(keys):
        parts = split(pa.table({"key": keys}), by="key", seed=seed)
        return {key: name for name, part in parts.items() for key in part["key"].to_pylist()}

    before, after = where(keys), where(more[::-1] + keys)
    assert before == {key: after[key] for key in before}


def test_split_gives_the_shares_that_were_asked_for():
    n, shares = 40_000, {"a": 0.1, "b": 0.25, "c": 0.65}
    parts = split(pa.table({"i": range(n)}), shares=shares)
    for name, share in shares.items():
        assert abs(parts[name].num_rows / n - share) < 4 * np.sqrt(share * (1 - share) / n)


def test_seeds_split_independently():
    a, b = (np.array([place(str(i), seed) for i in range(5000)]) for seed in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(5000)


@pytest.mark.parametrize(
    "shares", [{}, {"a": 1.1}, {"a": 0.5, "b": 0.4}, {"a": 1.0, "b": 0.0}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}]
)
def test_shares_that_do_not_divide_the_whole_are_refused(shares):
    with pytest.raises(ValueError, match="shares must be above 0 and add up to 1"):
        split(pa.table({"i": [1, 2]}), shares=shares)


@pytest.mark.parametrize("by", ["document", ["only one key"]])
def test_groups_that_do_not_fit_the_table_are_refused(by):
    with pytest.raises(ValueError, match=r"by must (name a column|have one key)"):
        split(pa.table({"i": [1, 2]}), by=by)


COLUMNS = {
    "text": st.one_of(st.none(), st.text(max_size=4)),
    "number": st.one_of(st.none(), st.floats(width=64)),
    "count": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    "flag": st.one_of(st.none(), st.booleans()),
}
TYPES = {"text": pa.string(), "number": pa.float64(), "count": pa.int64(), "flag": pa.bool_()}
tables = st.lists(st.fixed_dictionaries(COLUMNS), max_size=8).map(
    lambda rows: pa.Table.from_pylist(rows, pa.schema(TYPES))
)


@given(table=tables, cut=st.integers(0, 8))
def test_fingerprint_sees_values_and_not_how_they_are_stored(table, cut):
    stored = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    encoded = stored.set_column(0, "text", stored["text"].dictionary_encode())
    large = stored.set_column(0, "text", stored["text"].cast(pa.large_string()))
    assert data_hash(stored) == data_hash(encoded) == data_hash(large) == data_hash(table)


@given(table=tables.filter(lambda t: t.num_rows), draw=st.data())
def test_fingerprint_changes_with_any_value(table, draw):
    i = draw.draw(st.integers(0, table.num_rows - 1))
    name = draw.draw(st.sampled_from(list(TYPES)))
    rows = table.to_pylist()
    old = rows[i][name]
    rows[i][name] = draw.draw(COLUMNS[name].filter(lambda v: repr(v) != repr(old)))
    assert data_hash(pa.Table.from_pylist(rows, table.schema)) != data_hash(table)


def test_fingerprint_depends_on_names_types_and_order():
    table = pa.table({"a": [1, 2]})
    others = [pa.table({"b": [1, 2]}), pa.table({"a": [1.0, 2.0]}), pa.table({"a": [2, 1]}), pa.table({"a": [1]})]
    shifted = [pa.table({"a": ["ab", "c"]}), pa.table({"a": ["a", "bc"]})]
    assert len({data_hash(t) for t in [table, *others, *shifted]}) == 7


def test_fingerprint_survives_another_compression(tmp_path):
    table = data.bike_hours()
    pq.write_table(table, tmp_path / "again.parquet", compression="gzip", row_group_size=1000)
    assert data_hash(pq.read_table(tmp_path / "again.parquet")) == data_hash(table)


def test_fingerprint_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="column 'a' has type list"):
        data_hash(pa.table({"a": [[1], [2]]}))
