import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.settings import CannotDo
from seatrial.serve.keys import RIGHTS, Keyring, add, allow, caller, is_local, made, presented, read_keys, revoke
from seatrial.serve.protocol import Refused

FAR, HERE = "203.0.113.9", "127.0.0.1"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


def may(ring, secret, right, address=FAR, now=0.0):
    try:
        allow(caller(ring, secret, address, now), right)
    except Refused as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize("role", RIGHTS)
@pytest.mark.parametrize("right", RIGHTS)
def test_a_key_may_what_its_role_may_and_nothing_else(path, role, right):
    secret = add(path, "x", role).encode()
    assert may(Keyring(path), secret, right) == (200 if right in RIGHTS[role] else 403)


@given(st.binary(max_size=80))
def test_no_guess_is_a_key(tmp_path_factory, guess):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    add(path, "x", "admin")
    ring = Keyring(path)
    assert may(ring, guess, "predict") == 401
    id = next(iter(read_keys(path)))
    assert may(ring, f"st_{id}_".encode() + guess, "predict") == 401


def test_the_key_is_nowhere_in_the_file_and_only_its_owner_may_read_it(path):
    secret = add(path, "x", "predict")
    assert secret not in path.read_text() and secret[12:] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_a_revoked_key_stops_working_at_the_next_look(path):
    secret = add(path, "x", "predict").encode()
    ring = Keyring(path, look_s=1.0)
    assert may(ring, secret, "predict", now=0.0) == 200
    revoke(path, secret[3:11].decode())
    assert may(ring, secret, "predict", now=0.5) == 200
    assert may(ring, secret, "predict", now=1.5) == 401


def test_revoking_the_last_key_does_not_open_the_server(path):
    secret = add(path, "x", "predict").encode()
    revoke(path, secret[3:11].decode())
    assert may(Keyring(path), b"", "predict") == 401 and may(Keyring(path), b"", "operate", HERE) == 401


def test_without_a_file_strangers_predict_and_only_this_machine_operates(path):
    ring = Keyring(path)
    assert [may(ring, b"", right) for right in ("predict", "observe", "operate", "admin")] == [200, 200, 403, 403]
    assert may(ring, b"", "operate", HERE) == 200 and may(ring, b"", "admin", HERE) == 403


ENTRY = {"id": "a1b2c3d4", "name": "x", "role": "admin", "sha256": "0" * 64, "created_s": 1.0}
WRONG = [
    {"id": 5},
    {"role": ["admin"]},
    {"sha256": "é" * 64},
    {"sha256": "0" * 63},
    {"sha256": 0},
    {"created_s": "now"},
]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2, "keys": []}', '{"format": 1, "keys": [1]}', '{"format": 1, "keys": {}}', "\x00"]
    + ["[" * 100_000]
    + [json.dumps({"format": 1, "keys": [ENTRY | wrong]}) for wrong in WRONG],
)
def test_a_damaged_file_is_refused_and_never_opens_the_server(path, text):
    path.write_text(text)
    with pytest.raises(CannotDo, match="not a file of keys"):
        read_keys(path)
    ring = Keyring(path)
    assert may(ring, b"", "predict") == 401 and may(ring, b"st_a1b2c3d4_x", "predict") == 401
    assert path.name in ring.trouble and str(path.parent) not in ring.trouble


def test_a_file_that_cannot_even_be_looked_at_never_opens_the_server(path):
    path.symlink_to(path)
    ring = Keyring(path)
    assert may(ring, b"", "predict") == 401 and "Too many levels" in ring.trouble


def test_a_file_that_turns_bad_leaves_the_last_keys_in_force_until_it_is_good_again(path):
    secret = add(path, "x", "predict").encode()
    ring, good = Keyring(path, look_s=0.0), path.read_text()
    assert may(ring, secret, "predict", now=0.0) == 200
    path.write_text("{")
    assert may(ring, secret, "predict", now=1.0) == 200 and ring.trouble
    path.write_text(json.dumps(json.loads(good) | {"keys": []}))
    assert may(ring, secret, "predict", now=2.0) == 401 and not ring.trouble


def test_a_file_that_is_gone_leaves_the_last_keys_in_force_until_one_is_there_again(path):
    secret = add(path, "x", "predict").encode()
    ring, good = Keyring(path, look_s=0.0), path.read_text()
    path.unlink()
    for now in (0.0, 1.0):
        asked = (
            may(ring, secret, "predict", now=now),
            may(ring, b"", "predict", now=now),
            may(ring, b"", "operate", HERE),
        )
        assert asked == (200, 401, 401) and ring.trouble.startswith(f"{path.name} is gone")
    path.write_text(good)
    assert may(ring, secret, "predict", now=2.0) == 200 and not ring.trouble
    path.unlink()
    assert may(ring, secret, "predict", now=3.0) == 200 and ring.trouble
    path.write_text(json.dumps(json.loads(good) | {"keys": []}))
    assert may(ring, secret, "predict", now=4.0) == 401 and may(ring, b"", "predict", now=4.0) == 401
    path.unlink()
    assert may(ring, b"", "predict", now=5.0) == 401 and may(Keyring(path), b"", "predict") == 200


@pytest.mark.parametrize(("name", "role"), [("", "predict"), ("x" * 65, "predict"), ("a\nb", "predict"), ("x", "root")])
def test_a_key_needs_a_name_and_a_known_role(name, role):
    with pytest.raises(ValueError, match="must"):
        made(name, role, 0.0)


def test_a_place_that_cannot_hold_the_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotDo, match="cannot be"):
        add(tmp_path / "file" / "keys.json", "x", "predict")


def test_keys_come_as_bearer_tokens_or_api_keys():
    assert presented([(b"authorization", b"bearer  abc ")]) == b"abc" == presented([(b"x-api-key", b"abc")])
    assert presented([(b"authorization", b"Basic abc"), (b"cookie", b"st_1")]) == b""


def test_loopback_is_this_machine_whatever_it_is_written_like():
    assert [is_local(a) for a in ("127.8.8.8", "::1", "", "10.0.0.1", "::ffff:10.0.0.1", "evil")] == [1, 1, 1, 0, 0, 0]
