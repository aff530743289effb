import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.base.settings import CannotDo, RegistrySettings
from seatrial.registry import versions
from seatrial.registry.manifest import Shelf, UnknownVersion, verify
from seatrial.registry.versions import Registry, aliases_of, unfinished


def test_the_first_version_becomes_champion_and_verifies(registry, bundle):
    made = registry.register(bundle("a"), name="tone", metrics={"mae": 1.5})
    assert (made.version, registry.shelf.aliases("tone")) == ("1.0.0", {"champion": "1.0.0"})
    assert verify(registry.shelf.resolve("tone")) == made
    assert not unfinished(registry.settings, registry.journal)


def test_numbers_follow_the_rule_and_an_override(registry, bundle):
    numbers = [
        registry.register(bundle("a"), name="tone", metrics={"mae": 1.5}).version,
        registry.register(bundle("b", weights=(3.0, 4.0)), name="tone", metrics={"mae": 1.4}).version,
        registry.register(bundle("c", weights=(5.0, 6.0)), name="tone", metrics={"mae": 1.4}).version,
        registry.register(bundle("d", kink=True), name="tone", metrics={"mae": 1.0}).version,
        registry.register(bundle("e", weights=(7.0, 8.0), kink=True), name="tone", bump="minor").version,
    ]
    assert numbers == ["1.0.0", "1.1.0", "1.1.1", "2.0.0", "2.1.0"]
    assert registry.shelf.version("tone", "2.0.0").lineage["parent"] == "1.0.0"


def test_the_same_bytes_are_the_same_version(registry, bundle):
    made = registry.register(bundle("a"), name="tone", metrics={"mae": 1.5})
    assert registry.register(bundle("again"), name="tone", metrics={"mae": 0.1}) == made
    assert registry.register(made.folder, name="other").version == "1.0.0"
    assert len(registry.shelf.versions("tone")) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "../up"}, "name must start with"),
        ({"name": "tone", "bump": "huge"}, "bump must be one of"),
        ({"name": "tone", "better": "more"}, "better must be"),
        ({"name": "tone", "metric": "r2"}, "metric must be one of"),
        ({"name": "tone", "metrics": {"mae": float("nan")}}, "must be a finite number"),
    ],
)
def test_a_wrong_word_stores_nothing(registry, bundle, wrong, says):
    with pytest.raises(ValueError, match=says):
        registry.register(bundle("a"), **wrong)
    assert registry.shelf.names() == ()
    assert not (registry.settings.paths.artifacts / "models").exists()


def test_what_is_no_bundle_is_refused_and_leaves_nothing(registry, tmp_path):
    with pytest.raises(CannotDo, match=r"bundle\.json"):
        registry.register(tmp_path / "nowhere", name="tone")
    assert registry.shelf.names() == ()


def test_history_says_who_served_at_every_time(registry, bundle):
    registry.register(bundle("a"), name="tone")
    registry.register(bundle("b", weights=(3.0, 4.0)), name="tone")
    first = registry.history("tone")[0].time_s
    up = registry.alias("tone", "champion", "1.0.1", "better", "ann")
    registry.alias("tone", "shadow", "1.0.0")
    down = registry.alias("tone", "champion", "1.0.0", "worse", "bo")
    assert (up.from_version, up.to_version, up.actor) == ("1.0.0", "1.0.1", "ann")
    times = [first - 1, first, up.time_s, down.time_s - 0.5, down.time_s, down.time_s + 1e6]
    assert [registry.served_at("tone", t) for t in times] == [None, "1.0.0", "1.0.1", "1.0.1", "1.0.0", "1.0.0"]
    registry.alias("tone", "shadow", None)
    assert registry.shelf.aliases("tone") == {"champion": "1.0.0"}


def test_an_alias_cannot_point_to_what_is_not_there(registry, bundle):
    registry.register(bundle("a"), name="tone")
    before = registry.history("tone")
    for name, alias, version, error in (
        ("tone", "champion", "9.0.0", UnknownVersion),
        ("tune", "champion", "1.0.0", UnknownVersion),
        ("tune", "champion", None, UnknownVersion),
        ("tone", "prod", "1.0.0", ValueError),
    ):
        with pytest.raises(error):
            registry.alias(name, alias, version)
    assert registry.history("tone") == before


@pytest.mark.parametrize("dies_in", ["record", "reconcile", "write_tables", "set_aliases", "settled_aliases"])
def test_a_registration_that_died_anywhere_is_mended_by_the_next_open(registry, bundle, monkeypatch, dies_in):
    registry.register(bundle("a"), name="tone", metrics={"mae": 1.5})
    calls, true = [], getattr(versions, dies_in)

    def dying(*args, **kw):
        calls.append(1)
        if len(calls) < (2 if dies_in in ("reconcile", "set_aliases", "settled_aliases") else 1):
            return true(*args, **kw)
        raise KeyboardInterrupt

    monkeypatch.setattr(versions, dies_in, dying)
    with pytest.raises(KeyboardInterrupt):
        registry.register(bundle("b", weights=(3.0, 4.0)), name="tone", metrics={"mae": 1.0})
    monkeypatch.undo()
    assert registry.shelf.resolve("tone").version == "1.0.0"  # servers saw nothing of it
    again = Registry(registry.settings, registry.journal)
    known = [v.version for v in again.shelf.versions("tone")]
    assert known == (["1.0.0"] if dies_in == "record" else ["1.0.0", "1.1.0"])
    assert sorted(p.name for p in (registry.settings.paths.artifacts / "models" / "tone").iterdir()) == known
    assert all(verify(v) for v in again.shelf.versions("tone"))
    assert not unfinished(again.settings, again.journal)


def test_a_first_registration_that_died_after_its_record_still_gets_a_champion(registry, bundle, monkeypatch):
    def dying(journal, client, known):
        if known:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(versions, "settled_aliases", dying)
    with pytest.raises(KeyboardInterrupt):
        registry.register(bundle("a"), name="tone")
    monkeypatch.undo()
    assert registry.shelf.names() == ()
    again = Registry(registry.settings, registry.journal)
    assert again.shelf.aliases("tone") == {"champion": "1.0.0"}


def test_a_decision_without_its_alias_is_completed(registry, bundle):
    registry.register(bundle("a"), name="tone")
    registry.register(bundle("b", weights=(3.0, 4.0)), name="tone")
    registry.journal.decide(Decision("alias", "tone", "", "1.0.0", "1.0.1", "then no power", {"alias": "champion"}))
    assert Shelf(registry.settings.paths.artifacts).resolve("tone").version == "1.0.0"
    again = Registry(registry.settings, registry.journal)
    assert again.shelf.resolve("tone").version == "1.0.1"
    assert again.client.get_model_version_by_alias("tone", "champion").tags["version"] == "1.0.1"


def test_either_book_restores_the_other(registry, bundle, tmp_path):
    registry.register(bundle("a"), name="tone", metrics={"mae": 1.5}, lineage={"data": "abc"})
    made = registry.shelf.versions("tone")
    (registry.settings.paths.artifacts / "registry" / "manifest.json").write_text("{")
    registry = Registry(registry.settings, registry.journal)
    assert registry.shelf.versions("tone") == made
    elsewhere = replace(registry.settings, registry=RegistrySettings(f"sqlite:///{tmp_path}/new.db"))
    moved = Registry(elsewhere, registry.journal)
    moved.publish()
    assert moved.shelf.versions("tone") == made
    assert moved.client.get_run(moved.client.search_model_versions()[0].run_id).data.metrics == {"mae": 1.5}


def test_an_alias_moved_behind_our_back_is_moved_back(registry, bundle):
    registry.register(bundle("a"), name="tone")
    registry.register(bundle("b", weights=(3.0, 4.0)), name="tone")
    registry.client.set_registered_model_alias("tone", "champion", "2")
    registry.publish()
    assert registry.client.get_model_version_by_alias("tone", "champion").tags["version"] == "1.0.0"


def test_a_lost_journal_adopts_the_aliases_that_mlflow_remembers(registry, bundle, tmp_path):
    registry.register(bundle("a"), name="tone")
    registry.register(bundle("b", weights=(3.0, 4.0)), name="tone")
    registry.alias("tone", "champion", "1.0.1")
    with Journal(tmp_path / "empty") as fresh:
        again = Registry(registry.settings, fresh)
        again.publish()
        assert again.shelf.aliases("tone") == {"champion": "1.0.1"}
        assert [m.reason for m in again.history("tone")] == ["adopted from MLflow: the journal has no history of it"]


def test_a_tracking_store_that_cannot_be_used_names_the_setting_and_stores_nothing(settings, journal, bundle, tmp_path):
    (tmp_path / "file").write_text("")
    broken = replace(settings, registry=RegistrySettings(f"sqlite:///{tmp_path}/file/mlflow.db"))
    with pytest.raises(CannotDo, match="tracking_uri"):
        Registry(broken, journal).register(bundle("a"), name="tone")
    assert not list((settings.paths.artifacts / "models").glob("*/*"))


RACE = """
import sys
from pathlib import Path
from seatrial.base.settings import PathSettings, Settings
from seatrial.registry.versions import Registry

home, mine = Path(sys.argv[1]), sys.argv[2:]
with Registry(Settings(paths=PathSettings(home / "artifacts", home / "data"))) as registry:
    sys.stdin.readline()  # all start together
    print(*(registry.register(home / name, name="tone", bump="minor").version for name in mine))
"""


def test_processes_that_register_at_once_get_different_versions(settings, bundle, tmp_path):
    folders = [bundle(f"b{i}", weights=(float(i), 1.0)).folder.name for i in range(6)]
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    racers = [
        subprocess.Popen([*command, *folders[i::2]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    got = sorted(" ".join(said).split())
    assert got == [f"1.{i}.0" for i in range(6)]
    shelf = Shelf(settings.paths.artifacts)
    assert [v.version for v in shelf.versions("tone")] == got
    assert all(verify(v) for v in shelf.versions("tone"))
    assert shelf.aliases("tone") == {"champion": "1.0.0"}


def test_reading_the_registry_never_imports_mlflow_or_torch(registry, bundle, settings):
    registry.register(bundle("a"), name="tone")
    code = """
import json, sys
from pathlib import Path
from seatrial.base.settings import PathSettings, Settings
from seatrial.registry.versions import Registry
home = Path(sys.argv[1])
with Registry(Settings(paths=PathSettings(home, home))) as registry:
    version = registry.shelf.resolve("tone").version
    registry.history("tone"), registry.served_at("tone", 1e12)
print(json.dumps([version, [m for m in ("mlflow", "torch", "sklearn", "onnx") if m in sys.modules]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(settings.paths.artifacts)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == ["1.0.0", []]
    assert done.stderr == ""


def test_registering_on_a_new_machine_says_nothing_on_the_error_stream(bundle, tmp_path):
    bundle("a")
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path), "a"], input="go\n", capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("1.0.0\n", "")


def test_aliases_fold_in_the_order_of_the_decisions():
    def move(time_s, to, alias="champion"):
        return Decision("alias", "tone", to_version=to, evidence={"alias": alias}, time_s=time_s)

    log = [move(1, "1.0.0"), move(2, "1.1.0", "shadow"), move(3, "", "shadow"), move(3, "2.0.0")]
    assert aliases_of(log, 2) == {"tone": {"champion": "1.0.0", "shadow": "1.1.0"}}
    assert aliases_of(log) == {"tone": {"champion": "2.0.0"}}
    assert aliases_of([replace(log[0], kind="promote")]) == {}


def test_a_backup_without_its_books_is_refused_and_not_touched(registry, bundle, books):
    made = registry.register(bundle("a"), name="tone")
    artifacts = registry.settings.paths.artifacts
    shutil.rmtree(artifacts / "registry")
    shutil.copy(books, artifacts)
    for _ in range(2):
        with pytest.raises(CannotDo, match=r"holds tone/1\.0\.0, but neither .* nothing was changed"):
            Registry(registry.settings, registry.journal)
    assert verify(made) == made


@pytest.mark.parametrize("manifest", ["{", '{"format": 1, "versions": []}'])
def test_a_broken_manifest_and_a_mistyped_tracking_store_lose_nothing(registry, bundle, tmp_path, manifest):
    made = registry.register(bundle("a"), name="tone")
    (registry.settings.paths.artifacts / "registry" / "manifest.json").write_text(manifest)
    mistyped = replace(registry.settings, registry=RegistrySettings(f"sqlite:///{tmp_path}/mistyped.db"))
    with pytest.raises(CannotDo, match="tracking_uri"):
        Registry(mistyped, registry.journal)
    again = Registry(registry.settings, registry.journal)
    assert again.shelf.resolve("tone") == verify(made)


def test_a_folder_that_somebody_put_there_is_left_alone_and_named(registry, bundle, caplog):
    registry.register(bundle("a"), name="tone")
    stranger = registry.settings.paths.artifacts / "models" / "tone" / "1.0.1"
    stranger.mkdir()
    (stranger / "weights").write_text("weeks of work")
    again = Registry(registry.settings, registry.journal)
    assert "holds tone/1.0.1, which no book knows" in caplog.text
    with pytest.raises(CannotDo, match="is there already"):
        again.register(bundle("b", weights=(3.0, 4.0)), name="tone")
    assert (stranger / "weights").read_text() == "weeks of work"
    assert [v.version for v in again.shelf.versions("tone")] == ["1.0.0"]


def test_what_was_registered_only_half_is_set_aside(registry, bundle, monkeypatch, caplog):
    def dying(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(versions, "record", dying)
    with pytest.raises(KeyboardInterrupt):
        registry.register(bundle("a"), name="tone")
    monkeypatch.undo()
    again = Registry(registry.settings, registry.journal)
    (orphan,) = (registry.settings.paths.artifacts / "models" / ".orphans").iterdir()
    assert sorted(p.name for p in orphan.iterdir()) == ["bundle.json", "model.onnx"]
    assert "registered only half" in caplog.text
    assert again.register(bundle("again"), name="tone").version == "1.0.0"


def test_a_move_that_could_not_be_made_is_not_made_later(registry, bundle):
    registry.register(bundle("a"), name="tone")
    registry.register(bundle("b", weights=(3.0, 4.0)), name="tone")
    mistyped = replace(registry.settings, registry=RegistrySettings("foo://x"))
    before = registry.history("tone")
    with pytest.raises(CannotDo, match="tracking_uri"):
        Registry(mistyped, registry.journal).alias("tone", "champion", "1.0.1")
    assert registry.history("tone") == before
    assert Registry(registry.settings, registry.journal).shelf.resolve("tone").version == "1.0.0"


def test_a_damaged_version_never_becomes_champion(registry, bundle):
    registry.register(bundle("a"), name="tone")
    bad = registry.register(bundle("b", weights=(3.0, 4.0)), name="tone")
    (bad.folder / "model.onnx").write_bytes(b"\x08 something else")
    before = registry.history("tone")
    with pytest.raises(CannotDo, match=r"model\.onnx is not what was registered as tone 1\.0\.1"):
        registry.alias("tone", "champion", "1.0.1")
    assert registry.history("tone") == before


def test_only_the_files_of_the_bundle_are_stored(registry, bundle):
    made = bundle("a")
    (made.folder / "notes.txt").write_text("not for everybody")
    stored = registry.register(made.folder, name="tone")
    assert sorted(p.name for p in stored.folder.iterdir()) == sorted(stored.files) == ["bundle.json", "model.onnx"]


def test_metrics_given_with_known_bytes_are_not_dropped_in_silence(registry, bundle, caplog):
    registry.register(bundle("a"), name="tone", metrics={"mae": 1.5})
    registry.register(bundle("again"), name="tone", metrics={"mae": 1.5})
    assert "not stored" not in caplog.text
    assert registry.register(bundle("third"), name="tone", metrics={"mae": 0.1}).metrics == {"mae": 1.5}
    assert "tone 1.0.0 holds these bytes already and keeps its metrics; those given now were not stored" in caplog.text
