"Settings: whatever is not understood is refused, and the file has one source."

import os
import string
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import (
    SECTIONS,
    BadSetting,
    CannotDo,
    PathSettings,
    Settings,
    commented,
    load,
    nearest,
    rows,
    table,
    variables,
)

ROOT = Path(__file__).resolve().parents[2]
ALL = [(section, key) for section, keys in SECTIONS.items() for key in keys]


def write(folder, text):
    "A settings.ini with this text."
    path = folder / "settings.ini"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder, text, environ=None):
    "The refusal of a whole file."
    with pytest.raises(BadSetting) as caught:
        load(write(folder, text), environ=environ or {})
    return caught.value


def test_top_level_settings_file_is_what_the_declarations_say():
    assert (ROOT / "settings.ini").read_text(encoding="utf-8") == commented()


def test_commented_file_reads_back_as_the_defaults(tmp_path):
    loaded = load(write(tmp_path, commented()), environ={})
    assert replace(loaded, paths=PathSettings(), file=None) == Settings()


@pytest.mark.parametrize(("section", "key"), ALL)
def test_every_key_takes_its_default_from_file_and_environment_alike(tmp_path, section, key):
    text = SECTIONS[section][key].metadata["text"]
    plain = load(write(tmp_path, ""), environ={})
    filed = load(write(tmp_path, f"[{section}]\n{key} = {text}\n"), environ={})
    shouted = load(write(tmp_path, ""), environ={f"SEATRIAL_{section}_{key}".upper(): text})
    assert filed == shouted == plain


BAD = [
    ("serve", "port", "80a"),
    ("serve", "port", "-1"),
    ("serve", "port", "65536"),
    ("serve", "port", "8000.0"),
    ("serve", "port", ""),
    ("serve", "host", ""),
    ("serve", "timeout_s", "0"),
    ("serve", "timeout_s", "nan"),
    ("serve", "timeout_s", "inf"),
    ("serve", "controller", "maybe"),
    ("serve", "port", "8000 ; the usual one"),
    ("journal", "durable", "fsync"),
    ("journal", "hot_days", "0"),
    ("rollout", "alpha", "0"),
    ("rollout", "alpha", "1"),
    ("rollout", "margin_share", "5 %"),
    ("rollout", "margin_share", "1.5"),
    ("rollout", "margin_share", "0,05"),
    ("rollout", "stages_share", "0.5, 0.25, 1"),
    ("rollout", "stages_share", "0.1, 0.5"),
    ("rollout", "stages_share", "0, 1"),
    ("rollout", "stages_share", "0.1, 0.1, 1"),
    ("rollout", "stages_share", "nan, 1"),
    ("rollout", "units_min", "1"),
    ("rollout", "units_min", "9" * 5000),
    ("drift", "fdr_share", "2"),
    ("drift", "psi_floor", "-0.1"),
    ("paths", "artifacts", " "),
    ("paths", "artifacts", "~nobody-of-this-name/x"),
]


@pytest.mark.parametrize(("section", "key", "value"), BAD)
def test_bad_value_is_refused_with_section_key_value_and_rule(tmp_path, section, key, value):
    said = refused(tmp_path, f"[{section}]\n{key} = {value}\n")
    assert (said.section, said.key, said.value) == (section, key, value.strip())
    assert f"[{section}] {key} = " in str(said) and said.rule.startswith("want ") and "settings.ini" in str(said)


@pytest.mark.parametrize(("section", "key", "value"), BAD)
def test_environment_passes_the_same_rules(tmp_path, section, key, value):
    variable = f"SEATRIAL_{section}_{key}".upper()
    said = refused(tmp_path, "", {variable: value})
    assert (said.section, said.key) == (section, key) and variable in str(said)


def test_last_layer_wins(tmp_path):
    file = write(tmp_path, "[serve]\nport = 9000\nhost = 0.0.0.0\n")
    assert load(file, environ={"SEATRIAL_SERVE_PORT": "9100"}).serve == replace(
        Settings().serve, port=9100, host="0.0.0.0"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[sevre]\nport = 1\n", "did you mean 'serve'?"),
        ("[serve]\nprot = 1\n", "did you mean 'port'?"),
        ("[serve]\ntick_interval_s = 1\n", "[rollout] has it"),
        ("[rollout]\nxyzzy = 1\n", "known are"),
        ("[DEFAULT]\nlib_name = sea\n", "no such section"),
        ("[empty section]\n", "no such section"),
        ("[serve]\nport = 1\nport = 2\n", "already exists"),
        ("[serve]\nport = 1\n[serve]\n", "already exists"),
        ("port = 1\n", "no section headers"),
        ("[serve]\nport\n", "parsing errors"),
    ],
)
def test_unknown_or_unreadable_lines_are_refused_with_a_hint(tmp_path, text, told):
    assert told in str(refused(tmp_path, text))


def test_unknown_variable_is_refused_with_a_hint(tmp_path):
    said = refused(tmp_path, "", {"SEATRIAL_SERVE_PROT": "80"})
    assert "did you mean 'SEATRIAL_SERVE_PORT'?" in str(said) and "SEATRIAL_SERVE_PROT" in str(said)


CLUSTER = {
    "SEATRIAL_SERVICE_HOST": "10.0.0.7",
    "SEATRIAL_SERVICE_PORT": "8000",
    "SEATRIAL_SERVICE_PORT_HTTP": "8000",
    "SEATRIAL_PORT": "tcp://10.0.0.7:8000",
    "SEATRIAL_PORT_8000_TCP": "tcp://10.0.0.7:8000",
    "SEATRIAL_PORT_8000_TCP_PROTO": "tcp",
    "SEATRIAL_PORT_8000_TCP_PORT": "8000",
    "SEATRIAL_PORT_8000_TCP_ADDR": "10.0.0.7",
}


def test_variables_that_kubernetes_puts_beside_a_service_are_left_alone(tmp_path):
    served = {name.replace("SEATRIAL", "SEATRIAL_SERVE"): text for name, text in CLUSTER.items()}
    loaded = load(write(tmp_path, ""), environ=CLUSTER | served | {"SEATRIAL_SERVE_HOST": "0.0.0.0"})
    assert loaded.serve == replace(Settings().serve, host="0.0.0.0")


@pytest.mark.parametrize(
    "name", ["SEATRIAL_SEVRE_PORT", "SEATRIAL_SERVER_TIMEOUT_S", "SEATRIAL_JOURNAL", "SEATRIAL_PORT"]
)
def test_variable_near_to_a_section_is_refused_with_a_hint(tmp_path, name):
    said = str(refused(tmp_path, "", {name: "80"} | {k: v for k, v in CLUSTER.items() if k != name}))
    assert name in said and "did you mean 'SEATRIAL_" in said


def test_variables_of_others_are_left_alone(tmp_path):
    assert load(write(tmp_path, ""), environ={"SEATRIAL_IMAGE": "x", "SEATRIAL_": "x"}).serve == Settings().serve
    assert (
        load(write(tmp_path, ""), environ={"SEATRIALS": "x", "MY_SEATRIAL_SERVE_PORT": "x"}).serve == Settings().serve
    )


def test_per_cent_sign_in_a_url_is_taken_as_it_is(tmp_path):
    url = "postgresql://sea:100%25%(x)s@db/trial"
    assert load(write(tmp_path, f"[journal]\nurl = {url}\n"), environ={}).journal.url == url


def test_list_may_go_on_in_the_next_line_and_a_byte_order_mark_is_no_section(tmp_path):
    file = write(tmp_path, "\ufeff[rollout]\nstages_share = 0.5,\n    1.0\n")
    assert load(file, environ={}).rollout.stages_share == (0.5, 1.0)


def test_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "settings.ini").write_bytes(b"[serve]\nhost = \xff\xfe\n")
    with pytest.raises(BadSetting, match="not well formed"):
        load(tmp_path / "settings.ini", environ={})


def test_named_file_that_is_missing_is_not_replaced_by_defaults(tmp_path):
    with pytest.raises(CannotDo, match="cannot be read"):
        load(tmp_path / "absent.ini", environ={})
    with pytest.raises(CannotDo, match="cannot be read"):
        load(tmp_path, environ={})


def test_lease_must_outlast_a_tick(tmp_path):
    said = refused(tmp_path, "[rollout]\nlease_s = 5\n", {"SEATRIAL_ROLLOUT_TICK_INTERVAL_S": "5"})
    assert (said.section, said.key) == ("rollout", "lease_s")


def test_nearest_file_above_is_found_and_relative_folders_start_there(tmp_path, monkeypatch):
    write(tmp_path, "[paths]\nartifacts = out\n")
    below = tmp_path / "nbs" / "base"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    loaded = load(environ={"SEATRIAL_PATHS_DATA": "elsewhere"})
    assert loaded.paths == PathSettings(tmp_path / "out", tmp_path / "elsewhere")
    assert loaded.file == tmp_path / "settings.ini"
    (below / "settings.ini").touch()
    assert load(environ={}).paths.artifacts == below / "artifacts"


def test_without_any_file_folders_start_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if nearest(tmp_path):
        pytest.skip(f"there is a settings.ini above {tmp_path}")
    loaded = load(environ={})
    assert loaded.file is None and loaded.paths.artifacts == tmp_path / "artifacts"


def test_absolute_and_home_folders_stay(tmp_path):
    file = write(tmp_path, "[paths]\nartifacts = /somewhere/else\ndata = ~/data\n")
    assert load(file, environ={}).paths == PathSettings(Path("/somewhere/else"), Path.home() / "data")


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Settings().serve.port = 1


def test_table_has_a_meaning_for_every_key_and_a_unit_wherever_the_name_ends_in_one():
    assert [(row["section"], row["key"]) for row in rows()] == ALL
    assert table().column_names == ["section", "key", "default", "unit", "meaning", "rule"]
    for row in rows():
        assert row["meaning"].endswith(".") and row["rule"]
        assert row["unit"] or not row["key"].endswith(("_s", "_ms", "_mb", "_share", "_rows", "_days"))


def test_no_two_settings_share_a_variable():
    assert len(variables()) == len(ALL)


def test_every_section_is_a_frozen_part_of_the_settings():
    assert {f.name for f in fields(Settings)} == {*SECTIONS, "file"}


@given(key=st.sampled_from(ALL), text=st.text(string.printable, max_size=20))
def test_any_text_gives_a_value_or_the_refusal_of_that_key(key, text):
    said = None
    try:
        load(ROOT / "settings.ini", environ={f"SEATRIAL_{key[0]}_{key[1]}".upper(): text})
    except BadSetting as refusal:
        said = refusal
    assert said is None or (said.section == key[0] and said.key in (key[1], "lease_s") and said.rule)


def test_settings_load_without_any_heavy_package():
    code = "import sys, seatrial.base.settings as s; s.load(environ={}); s.commented(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert not loaded & {"numpy", "pyarrow", "sqlalchemy", "pandas", "torch", "scipy", "mlflow", "litserve"}


def test_settings_come_with_the_package_into_a_foreign_folder(tmp_path):
    code = "from seatrial.base.settings import load; print(load().serve.port)"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SEATRIAL_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert done.stdout == "8000\n", done.stderr
