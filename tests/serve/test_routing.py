from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.base.journal import Journal
from seatrial.base.record import Decision
from seatrial.registry.manifest import Shelf, Version, write_tables
from seatrial.rollout.trial import Gate, Plan, TrialState, plan_to_dict
from seatrial.serve.protocol import Refused
from seatrial.serve.routing import Policy, Router, promotions, refresh, way

GATE = (Gate("error_rate", margin=0.02),)
BOTH = frozenset({"1.0.0", "1.1.0"})
CANARY = Plan("t", "m", "1.0.0", "1.1.0", gates=GATE)


def published(artifacts, champion):
    rows = [Version("m", number, "0" * 64, artifacts / number, {}, {}, {}, 0.0) for number in sorted(BOTH)]
    write_tables(artifacts, rows, {"m": {"champion": champion} if champion else {}})


@given(st.text(min_size=1, max_size=20), st.integers(0, 3))
def test_a_unit_that_met_the_challenger_keeps_it_in_all_later_stages(unit, stage):
    policies = [Policy("m", BOTH, "1.0.0", TrialState(CANARY, tuple(range(n + 1)))) for n in range(stage, 4)]
    variants = [way(policy, unit).variant for policy in policies]
    assert variants == sorted(variants, reverse=True)  # champion … challenger, never back


@given(st.text(min_size=1, max_size=20), st.sampled_from(sorted(BOTH)))
def test_an_explicit_version_is_outside_every_trial(unit, version):
    route = way(Policy("m", BOTH, "1.0.0", TrialState(CANARY, (0.0,))), unit, version)
    assert (route.version, route.trial, route.shadow) == (version, "", "")


def test_a_model_without_a_champion_is_refused_unless_a_version_is_named(tmp_path):
    published(tmp_path, "")
    router = Router(Shelf(tmp_path), Journal(tmp_path / "journal"))
    refresh(router)
    with pytest.raises(Refused, match="has no champion"):
        router.route("m", "u")
    assert router.route("m", "u", "1.1.0").version == "1.1.0"


def test_a_rolled_back_canary_sends_everybody_to_the_champion(tmp_path):
    published(tmp_path, "1.0.0")
    journal = Journal(tmp_path / "journal")
    router = Router(Shelf(tmp_path), journal)
    journal.decide(Decision("start", "m", "t", evidence=plan_to_dict(CANARY)))
    refresh(router)
    assert {router.route("m", f"u{i}").version for i in range(200)} == BOTH
    journal.decide(Decision("rollback", "m", "t", evidence={"stage": 0}))
    refresh(router)
    assert {(router.route("m", f"u{i}").version, router.route("m", f"u{i}").trial) for i in range(200)} == {
        ("1.0.0", "")
    }


def test_a_new_router_reads_the_same_state_as_one_that_followed(tmp_path):
    published(tmp_path, "1.0.0")
    journal = Journal(tmp_path / "journal")
    old = Router(Shelf(tmp_path), journal)
    for decision in [
        Decision("start", "m", "t", evidence=plan_to_dict(CANARY)),
        Decision("advance", "m", "t", evidence={"stage": 0}),
        Decision("hold", "m", "t", evidence={"stage": 1}),
    ]:
        journal.decide(decision)
        refresh(old)
    new = Router(Shelf(tmp_path), journal)
    refresh(new)
    assert new.table == old.table and new.last_id == old.last_id


LAST = [
    Decision("start", "m", "t", evidence=plan_to_dict(CANARY)),
    *(Decision("advance", "m", "t", evidence={"stage": stage}) for stage in range(len(CANARY.stages) - 1)),
]
PROMOTE, ROLLBACK = (Decision(kind, "m", "t", to_version="1.1.0") for kind in ("promote", "rollback"))


def alias(name, version):
    return Decision("alias", "m", to_version=version, evidence={"alias": name})


def test_only_another_champion_in_the_journal_ends_a_promotion():
    told = [replace(decision, time_s=float(i)) for i, decision in enumerate([*LAST, PROMOTE])]
    promoted = {"m": "1.1.0"}
    assert promotions(told, {}) == promoted
    for name, version, left in [
        ("champion", "1.1.0", promoted),
        ("challenger", "1.0.0", promoted),
        ("champion", "1.0.0", {}),
    ]:
        assert promotions([*told, alias(name, version)], {}) == left


def test_a_promotion_that_comes_after_a_rollback_sends_nobody_to_the_challenger(tmp_path):
    published(tmp_path, "1.0.0")
    journal = Journal(tmp_path / "journal")
    router = Router(Shelf(tmp_path), journal)
    for decision in [*LAST, ROLLBACK, PROMOTE]:
        journal.decide(decision)
    refresh(router)
    assert router.route("m", "u").version == "1.0.0"


def test_nobody_is_sent_back_between_a_promotion_and_the_alias_file(tmp_path):
    published(tmp_path, "1.0.0")
    journal = Journal(tmp_path / "journal")
    router = Router(Shelf(tmp_path), journal)
    for decision in [*LAST, PROMOTE]:
        journal.decide(decision)
    for decision in [alias("challenger", ""), alias("champion", "1.1.0")]:
        refresh(router)
        assert router.route("m", "u").version == "1.1.0"
        journal.decide(decision)
    refresh(router)
    assert router.route("m", "u").version == "1.1.0"
    published(tmp_path, "1.1.0")
    refresh(router)
    assert router.route("m", "u").version == "1.1.0" and not router.pending
    journal.decide(alias("champion", "1.0.0"))
    published(tmp_path, "1.0.0")
    refresh(router)
    assert router.route("m", "u").version == "1.0.0"


def test_a_router_for_one_model_knows_no_other(tmp_path):
    published(tmp_path, "1.0.0")
    router = Router(Shelf(tmp_path), Journal(tmp_path / "journal"), only="other")
    refresh(router)
    with pytest.raises(Refused, match="no model named 'm'"):
        router.route("m", "u")


def test_a_table_that_nobody_can_read_stops_nobody_and_the_next_sound_one_is_followed(tmp_path, caplog):
    published(tmp_path, "1.0.0")
    router = Router(Shelf(tmp_path), Journal(tmp_path / "journal"))
    assert refresh(router) and not refresh(router) and not router.trouble
    (tmp_path / "registry" / "aliases.json").write_bytes(b"[" * 100_000)  # deeper than a parser goes
    assert not refresh(router) and not refresh(router)
    assert "cannot be read" in router.trouble or "damaged" in router.trouble
    assert len(caplog.records) <= 1 and router.route("m", "u").version == "1.0.0"
    published(tmp_path, "1.1.0")
    assert refresh(router) and not router.trouble and router.route("m", "u").version == "1.1.0"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("aliases.json", '{"format": 1}'),
        ("aliases.json", '{"format": 1, "aliases": []}'),
        ("aliases.json", '{"format": 1, "aliases": {"m": "1.0.0"}}'),
        ("aliases.json", "{}"),
        ("manifest.json", '{"format": 1}'),
    ],
)
def test_a_table_that_lacks_what_it_is_for_is_damaged_and_the_last_state_stays_in_force(tmp_path, file, text):
    published(tmp_path, "1.0.0")
    router = Router(Shelf(tmp_path), Journal(tmp_path / "journal"))
    refresh(router)
    (tmp_path / "registry" / file).write_text(text)
    assert not refresh(router) and f"{file} is damaged" in router.trouble
    assert router.route("m", "u").version == "1.0.0"
    published(tmp_path, "1.1.0")
    assert refresh(router) and not router.trouble and router.route("m", "u").version == "1.1.0"


def test_trouble_that_passes_without_a_change_is_forgotten(tmp_path):
    published(tmp_path, "1.0.0")
    router = Router(Shelf(tmp_path), Journal(tmp_path / "journal"))
    refresh(router)
    router.trouble = "the journal cannot be read"  # as a look that failed leaves it
    assert not refresh(router) and not router.trouble
