import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.registry.manifest import (
    Shelf,
    UnknownVersion,
    Version,
    checked_name,
    digests,
    fingerprint,
    number,
    replace_text,
    verify,
    write_tables,
)


def shelved(artifacts, name="tone", version="1.0.0", content=b"weights"):
    folder = artifacts / "models" / name / version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "deep").mkdir()
    (folder / "deep" / "vocabulary.txt").write_bytes(b"words")
    files = digests(folder)
    return Version(name, version, fingerprint(files), folder, {"inputs": []}, {"mae": 1.0}, {"code": "x"}, 1.0, files)


@given(st.text(max_size=20))
def test_an_accepted_name_is_always_one_plain_folder_below_its_parent(text):
    from pathlib import Path

    try:
        name = checked_name(text)
    except ValueError:
        return
    path = Path("/models") / name
    assert path.parent == Path("/models")
    assert path.resolve().parent == Path("/models")
    assert "\n" not in name


@given(st.tuples(*[st.integers(0, 99)] * 3), st.tuples(*[st.integers(0, 99)] * 3))
def test_versions_sort_by_their_numbers(a, b):
    left, right = (number(".".join(map(str, v))) for v in (a, b))
    assert (left < right) == (a < b)


@pytest.mark.parametrize("bad", ["1.0", "01.0.0", "1.0.0-rc1", "v1.0.0", "1.0.0\n", "", None, 1.0])
def test_what_is_no_semantic_version_is_refused(bad):
    with pytest.raises(ValueError, match="version must read like"):
        number(bad)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 11), bit=st.integers(0, 7), deep=st.booleans())
def test_every_flipped_bit_is_named_with_both_checksums(tmp_path_factory, at, bit, deep):
    version = shelved(tmp_path_factory.mktemp("a"), content=b"twelve bytes")
    file = version.folder / ("deep/vocabulary.txt" if deep else "model.onnx")
    damaged = bytearray(file.read_bytes())
    damaged[at % len(damaged)] ^= 1 << bit
    file.write_bytes(damaged)
    with pytest.raises(CannotDo) as refused:
        verify(version)
    said = str(refused.value)
    assert file.name in said
    assert version.files[file.relative_to(version.folder).as_posix()][:12] in said
    assert digests(version.folder)[file.relative_to(version.folder).as_posix()][:12] in said


def test_a_missing_and_an_added_file_are_named(tmp_path):
    version = shelved(tmp_path)
    (version.folder / "extra.py").write_text("print()")
    with pytest.raises(CannotDo, match=r"extra\.py was added"):
        verify(version)
    (version.folder / "extra.py").unlink()
    (version.folder / "model.onnx").unlink()
    with pytest.raises(CannotDo, match=r"model\.onnx is missing"):
        verify(version)


def test_a_whole_folder_that_is_gone_is_named(tmp_path):
    from shutil import rmtree

    version = shelved(tmp_path)
    rmtree(version.folder)
    with pytest.raises(CannotDo, match=r"files of tone 1\.0\.0 are gone"):
        verify(version)


def test_the_tables_survive_a_move_of_the_artifacts_folder(tmp_path):
    version = shelved(tmp_path / "before")
    write_tables(tmp_path / "before", [version], {"tone": {"champion": "1.0.0"}})
    (tmp_path / "before").rename(tmp_path / "after")
    assert verify(Shelf(tmp_path / "after").resolve("tone")).folder == tmp_path / "after" / "models" / "tone" / "1.0.0"


def test_readers_never_see_an_alias_without_its_version(tmp_path):
    versions = [shelved(tmp_path, version=f"1.0.{i}") for i in range(30)]
    write_tables(tmp_path, versions[:1], {"tone": {"champion": "1.0.0"}})
    trouble, done = [], threading.Event()

    def read():
        shelf = Shelf(tmp_path)
        while not done.is_set():
            try:
                shelf.resolve("tone")
            except Exception as error:
                trouble.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(3)]
    [reader.start() for reader in readers]
    for i in range(2, 31):
        write_tables(tmp_path, versions[:i], {"tone": {"champion": f"1.0.{i - 1}"}})
    done.set()
    [reader.join() for reader in readers]
    assert not trouble


@pytest.mark.parametrize("content", ["", "[", "[]", '{"versions": [{"name": "x"}]}', '{"versions": 3}', "\x00"])
def test_a_damaged_manifest_is_refused_and_not_taken_for_empty(tmp_path, content):
    write_tables(tmp_path, [shelved(tmp_path)], {})
    (tmp_path / "registry" / "manifest.json").write_text(content)
    with pytest.raises(CannotDo, match=r"manifest\.json is damaged"):
        Shelf(tmp_path).names()


def test_an_unknown_reference_lists_what_there_is(tmp_path):
    write_tables(tmp_path, [shelved(tmp_path)], {"tone": {"champion": "1.0.0"}})
    shelf = Shelf(tmp_path)
    with pytest.raises(UnknownVersion, match="registered: tone"):
        shelf.resolve("tune")
    with pytest.raises(UnknownVersion, match=r"has no version '2\.0\.0'; it has 1\.0\.0"):
        shelf.resolve("tone", "2.0.0")
    with pytest.raises(UnknownVersion, match="has no challenger now"):
        shelf.resolve("tone", "@challenger")


def test_a_disk_that_refuses_leaves_the_old_file_and_no_scratch(tmp_path, monkeypatch):
    path = replace_text(tmp_path / "t.json", "old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CannotDo, match="No space left on device"):
        replace_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_the_manifest_is_plain_json_with_its_format(tmp_path):
    manifest, aliases = write_tables(tmp_path, [shelved(tmp_path)], {})
    assert json.loads(manifest.read_text())["format"] == json.loads(aliases.read_text())["format"] == 1
