"""One controller acts at a time, finishes what another began, and nothing it does is lost or done twice."""

import json
import logging
import threading
from dataclasses import replace
from itertools import pairwise

import pytest

from seatrial.base.record import Decision, Outcome, Prediction
from seatrial.base.settings import CannotDo
from seatrial.operate.controller import PATIENCE, Controller, watch
from seatrial.operate.helm import decision_of
from seatrial.registry.manifest import UnknownVersion
from seatrial.rollout.memory import Memory
from seatrial.rollout.split import assign
from seatrial.rollout.trial import draft, fold

GOOD, BAD, SAME = (1.0, 0.5), (1.0, 2.0), (1.0, 1.0)


def kinds(decisions, but=("hold",)):
    return [d.kind for d in decisions if d.kind not in but]


def test_a_better_challenger_becomes_champion(bay):
    made = bay.sail(bay.plan(), GOOD)
    assert kinds(made) == ["start", "advance", "promote", "alias"]
    assert bay.champion == "1.1.0"
    assert made[-1].actor == "controller"
    assert [(d.from_version, d.to_version) for d in made if d.kind == "promote"] == [("1.0.0", "1.1.0")]
    assert bay.controller.tick() == []


def test_a_worse_challenger_is_taken_off_before_the_dwell_is_over(bay):
    made = bay.sail(bay.plan(dwell_s=86_400.0), BAD)
    assert kinds(made) == ["start", "rollback"]
    assert bay.champion == "1.0.0"
    assert (made[-1].from_version, made[-1].to_version) == ("1.1.0", "1.0.0")


def test_a_failing_challenger_is_taken_off(bay):
    made = bay.sail(bay.plan(), GOOD, status="error")
    assert kinds(made) == ["start", "rollback"]
    assert "error_rate" in made[-1].reason


def test_silence_promotes_nobody(bay):
    bay.controller.start(bay.plan())
    made = []
    for _ in range(20):
        bay.now += 86_400.0
        made += bay.controller.tick()
    assert [d.kind for d in made] == ["hold"]
    assert bay.champion == "1.0.0"


@pytest.mark.parametrize("kind", ["shadow", "ab"])
def test_a_question_that_is_answered_leaves_the_champion_in_place(bay, kind):
    made = bay.sail(bay.plan(kind=kind), GOOD)
    assert kinds(made) == ["start", "finish"]
    assert bay.champion == "1.0.0"


def test_a_hold_is_written_once_for_each_reason(bay):
    plan = bay.plan(dwell_s=86_400.0)
    made = bay.sail(plan, GOOD, looks=8)
    holds = [(d.reason, d.evidence["verdict"]) for d in made if d.kind == "hold"]
    assert holds
    assert all(a != b for a, b in pairwise(holds))
    assert len(holds) < 8


def test_evidence_in_the_journal_is_what_a_report_can_draw(bay):
    bay.sail(bay.plan(), GOOD)
    for d in bay.journal.decisions(trial="t"):
        if d.kind in ("advance", "promote"):
            assert d.evidence["units"]["challenger"] > 0
            for gate in json.loads(json.dumps(d.evidence))["gates"]:
                assert gate["lower"] <= gate["effect"] <= gate["upper"]


def test_two_controllers_one_acts(bay):
    bay.controller.start(bay.plan())
    other = bay.another("second")
    assert bay.controller.tick()
    assert other.tick() == []
    bay.now += bay.settings.rollout.lease_s + 0.1
    other.tick()
    assert bay.controller.tick() == []  # the lease has changed hands


def test_a_lease_that_is_lost_during_a_look_stops_the_decision(bay, monkeypatch):
    bay.controller.start(bay.plan())
    thief = bay.another("thief")
    scored = bay.journal.scored

    def slow(*a, **kw):  # the look outlasts the lease, and somebody else takes it
        bay.now += bay.settings.rollout.lease_s + 1
        bay.journal.lease("controller", thief.holder, 100.0)
        return scored(*a, **kw)

    monkeypatch.setattr(bay.journal, "scored", slow)
    assert bay.controller.tick() == []
    assert [d.kind for d in bay.journal.decisions(trial="t")] == ["start"]


def test_a_controller_that_starts_anew_knows_what_the_old_one_knew(bay):
    bay.sail(bay.plan(), GOOD, looks=4)
    fresh = bay.another("first")
    fresh.tick()
    bay.controller.tick()
    assert fresh.memory == bay.controller.memory


def test_a_promotion_without_its_alias_is_completed_once_by_whoever_comes_next(bay):
    plan = bay.plan()
    bay.controller.start(plan)
    for stage, kind in enumerate(("advance", "promote")):
        bay.journal.decide(decision_of(plan, kind, "", {"stage": stage}, "controller", bay.now))
    assert bay.champion == "1.0.0"
    other = bay.another("second")
    assert kinds(other.tick()) == ["alias"]
    assert bay.champion == "1.1.0"
    assert other.tick() == []
    assert [d.to_version for d in bay.registry.history("film")] == ["1.0.0", "1.1.0"]


def test_an_alias_that_was_decided_but_not_published_is_published(bay):
    bay.journal.decide(Decision("alias", "film", to_version="1.1.0", evidence={"alias": "champion"}))
    assert bay.champion == "1.0.0"
    assert bay.controller.tick() == []
    assert bay.champion == "1.1.0"


def test_a_champion_that_changes_under_a_trial_ends_it(bay):
    bay.controller.start(bay.plan())
    bay.registry.alias("film", "champion", "1.1.1", "by hand", "Ann")
    made = bay.controller.tick()
    assert kinds(made) == ["abort"]
    assert "1.1.1" in made[0].reason
    assert bay.champion == "1.1.1"


def test_a_late_decision_of_a_controller_that_lost_its_lease_changes_nothing(bay):
    plan = bay.plan(stages=(0.25, 0.5, 1.0))
    bay.controller.start(plan)
    for _ in range(3):  # three controllers, all believing that the first stage is over
        bay.journal.decide(decision_of(plan, "advance", "", {"stage": 0}, "controller", bay.now))
    assert fold(bay.journal.decisions())["film"].stage == 1


def test_rolling_back_a_live_trial_keeps_the_champion(bay):
    bay.controller.start(bay.plan())
    made = bay.controller.rollback("film", reason="a feeling", actor="Ann")
    assert [(d.kind, d.actor, d.reason) for d in made] == [("rollback", "Ann", "a feeling")]
    assert not fold(bay.journal.decisions())["film"].live
    assert bay.champion == "1.0.0"


def test_rolling_back_without_a_trial_goes_to_the_champion_before(bay):
    for version in ("1.1.0", "1.1.1"):
        bay.registry.alias("film", "champion", version)
    assert [d.to_version for d in bay.controller.rollback("film")] == ["1.1.0"]
    assert bay.champion == "1.1.0"
    assert [d.to_version for d in bay.controller.rollback("film", "1.0.0")] == ["1.0.0"]


def test_rolling_back_to_a_version_during_a_trial_does_both(bay):
    bay.registry.alias("film", "champion", "1.1.0")
    bay.controller.start(bay.plan(champion="1.1.0", challenger="1.1.1"))
    assert kinds(bay.controller.rollback("film", "1.0.0")) == ["rollback", "alias"]
    assert bay.champion == "1.0.0"
    assert bay.controller.tick() == []


def test_rolling_back_what_has_no_past_is_refused(bay):
    with pytest.raises(ValueError, match=r"no earlier champion than 1\.0\.0"):
        bay.controller.rollback("film")
    with pytest.raises(ValueError, match=r"both are 1\.0\.0"):
        bay.controller.rollback("film", "1.0.0")
    with pytest.raises(UnknownVersion, match=r"no version '7\.0\.0'"):
        bay.controller.rollback("film", "7.0.0")
    with pytest.raises(UnknownVersion, match="no model named 'novel'"):
        bay.controller.rollback("novel")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"challenger": "9.9.9"}, "no version '9.9.9'"),
        ({"champion": "1.1.1"}, "must be the version that serves, 1.0.0"),
        ({"model": "novel"}, "no model named 'novel'"),
    ],
)
def test_a_trial_that_cannot_be_is_not_started(bay, change, says):
    written = len(bay.journal.decisions())
    with pytest.raises(ValueError, match=says):
        bay.controller.start(replace(bay.plan(), **change))
    assert len(bay.journal.decisions()) == written


def test_a_damaged_challenger_is_not_started(bay):
    file = bay.registry.shelf.version("film", "1.1.0").folder / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CannotDo, match=r"model\.onnx"):
        bay.controller.start(bay.plan())


def test_a_second_trial_of_a_model_and_a_used_name_are_refused(bay):
    bay.controller.start(bay.plan("one"))
    with pytest.raises(ValueError, match="'one' of film is live"):
        bay.controller.start(bay.plan("two"))
    bay.controller.abort("one", "enough")
    with pytest.raises(ValueError, match="must be a new name"):
        bay.controller.start(bay.plan("one"))
    assert bay.controller.start(bay.plan("two")).id


def test_of_two_starts_at_the_same_moment_the_second_is_told(bay, monkeypatch):
    other, decide = bay.another("second"), bay.journal.decide
    other.memory.read(bay.journal.decisions())

    def raced(made):  # somebody starts between the check and the write
        monkeypatch.setattr(bay.journal, "decide", decide)
        bay.controller.start(bay.plan("one"))
        return decide(made)

    monkeypatch.setattr(bay.journal, "decide", raced)
    with pytest.raises(ValueError, match="'one' of film was started at the same moment"):
        other.start(bay.plan("two"))
    assert fold(bay.journal.decisions())["film"].plan.trial == "one"


def test_aborting_what_is_not_live_is_refused(bay):
    with pytest.raises(ValueError, match="live: none"):
        bay.controller.abort("t", "why not")


def test_memory_is_the_same_in_one_piece_and_in_many(bay):
    bay.sail(bay.plan(), GOOD)
    decisions = bay.journal.decisions()
    whole = Memory().read(decisions)
    for cut in range(len(decisions)):
        assert Memory().read(decisions[:cut]).read(decisions[cut:]) == whole


def break_leases(bay):
    with bay.journal.sql() as c:
        c.exec_driver_sql("ALTER TABLE leases RENAME TO lost")


def mend_leases(bay):
    with bay.journal.sql() as c:
        c.exec_driver_sql("ALTER TABLE lost RENAME TO leases")


def test_watching_outlives_trouble_that_passes_and_says_what_it_was(bay, caplog):
    bay.controller.start(bay.plan())
    break_leases(bay)
    stop, seen = threading.Event(), []

    class Mend(logging.Handler):
        def emit(self, record):
            if "look 2 of" in record.getMessage():
                mend_leases(bay)

    logger = logging.getLogger("seatrial.operate.controller")
    logger.addHandler(handler := Mend())
    try:
        watch(bay.controller, stop, 0.0, lambda d: (seen.append(d.kind), stop.set()))
    finally:
        logger.removeHandler(handler)
    assert seen == ["hold"]
    assert len(caplog.records) == 2
    assert "journal" in caplog.text
    assert bay.journal.lease("controller", "next", 1.0)  # given back


def test_watching_ends_where_trouble_does_not_pass(bay, caplog):
    bay.controller.start(bay.plan())
    break_leases(bay)
    with pytest.raises(CannotDo, match=f"failed {PATIENCE} times in a row"):
        watch(bay.controller, threading.Event(), 0.0)
    assert len(caplog.records) == PATIENCE + 1  # and the lease could not be given back


def test_watching_does_not_hide_a_mistake_in_the_program(bay, monkeypatch):
    def mistaken(*a, **kw):
        raise KeyError("typo")

    bay.controller.start(bay.plan())
    monkeypatch.setattr(bay.journal, "scored", mistaken)
    with pytest.raises(KeyError):
        watch(bay.controller, threading.Event(), 0.0)


def test_trouble_that_comes_and_goes_does_not_add_up(bay):
    stop, looks = threading.Event(), []

    class Rough(Controller):
        def tick(self):
            looks.append(len(looks))
            if len(looks) > 3 * PATIENCE:
                stop.set()
            elif len(looks) % PATIENCE:
                raise CannotDo("a swell")
            return super().tick()

    bay.controller.start(bay.plan())
    watch(Rough(bay.journal, bay.registry, bay.settings, holder="rough"), stop, 0.0)
    assert len(looks) == 3 * PATIENCE + 1


@pytest.mark.parametrize("huge", [1e160, 1e200])
@pytest.mark.parametrize("errors", [SAME, BAD])
def test_one_impossible_answer_holds_the_trial_and_says_so(bay, caplog, huge, errors):
    plan = bay.plan()
    bay.controller.start(plan)
    bay.traffic(plan, bay.controller.memory.states["film"], errors)
    spoil(bay, plan, huge)
    made = bay.controller.tick()
    assert [(d.kind, d.evidence["verdict"]) for d in made] == [("hold", "invalid")]
    assert f"{huge:g}" in made[0].reason
    assert "abs_error" in caplog.text
    bay.traffic(plan, bay.controller.memory.states["film"], errors)
    assert bay.controller.tick() == []  # the same reason is not written twice


def spoil(bay, plan, huge):
    "One unit to which the champion's answer is out of this world."
    unit = next(
        u
        for u in (f"v{i}" for i in range(99))
        if assign(u, plan.salt, {"challenger": 0.5, "champion": 0.5}) == "champion"
    )
    said = Prediction("odd", "champion", bay.now, plan.trial, "film", plan.champion, unit, outputs={"y": huge})
    bay.journal.append([said, Outcome("odd", "y", 0.0, bay.now)])
    bay.journal.drain()
    bay.now += 1


def test_an_impossible_answer_does_not_keep_a_failing_challenger_in_service(bay):
    plan = bay.plan()
    bay.controller.start(plan)
    spoil(bay, plan, 1e200)
    bay.traffic(plan, bay.controller.memory.states["film"], GOOD, status="error")
    assert kinds(bay.controller.tick()) == ["rollback"]


def test_a_challenger_that_answers_nothing_is_taken_off(bay):
    assert kinds(bay.sail(bay.plan(), (1.0, float("nan")))) == ["start", "rollback"]


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"columns": 2}, r"champion's inputs, got 'x': FP32 \[-1, 2\] in .*, FP32 \[-1, 1\] in the champion 1\.0\.0"),
        ({"names": ("x2", "y")}, "champion's inputs, got 'x': nothing in"),
        ({"names": ("x", "z")}, "champion's outputs, got 'y': nothing in"),
    ],
)
def test_a_challenger_that_clients_could_not_talk_to_is_not_started(bay, tmp_path, shape, says):
    made = bay.registry.register(bay.graph(tmp_path / "other.onnx", 1.0, **shape), name="film", bump="major")
    with pytest.raises(ValueError, match=says):
        bay.controller.start(bay.plan(challenger=made.version))


def test_a_trial_judges_the_output_that_the_model_has(bay):
    plan = draft("canary", "t", "film", "1.0.0", "1.1.0", bay.settings.rollout, outcome="stars", output="rating")
    with pytest.raises(ValueError, match="output must be one of y, got 'rating'"):
        bay.controller.start(plan)
    plan = draft("canary", "t", "film", "1.0.0", "1.1.0", bay.settings.rollout, outcome="stars")
    assert bay.controller.start(plan).evidence["output"] == "y"


def test_a_second_rollback_does_not_bring_back_what_the_first_took_away(bay):
    for version in ("1.1.0", "1.1.1"):
        bay.registry.alias("film", "champion", version)
    gone = [bay.controller.rollback("film")[-1].to_version for _ in range(2)]
    assert gone == ["1.1.0", "1.0.0"]
    with pytest.raises(ValueError, match=r"no earlier champion than 1\.0\.0: name a version"):
        bay.controller.rollback("film")
    bay.controller.rollback("film", "1.1.1")  # who insists may
    assert bay.champion == "1.1.1"


def test_a_rollback_between_a_promotion_and_its_alias_undoes_just_this_promotion(bay):
    bay.registry.alias("film", "champion", "1.1.0")
    plan = bay.plan(champion="1.1.0", challenger="1.1.1")
    bay.controller.start(plan)
    for stage, kind in enumerate(("advance", "promote")):
        bay.journal.decide(decision_of(plan, kind, "", {"stage": stage}, "controller", bay.now))
    made = bay.another("second").rollback("film", reason="too late")
    assert [d.to_version for d in made] == ["1.1.1", "1.1.0"]
    assert bay.champion == "1.1.0"
    assert bay.controller.tick() == []


def test_an_unreadable_start_is_told_and_stops_nobody(bay, caplog):
    bay.journal.decide(Decision("start", "other", "odd", evidence={"wind": 7}))
    assert kinds(bay.sail(bay.plan(), GOOD)) == ["start", "advance", "promote", "alias"]
    assert "trial odd of other did not begin" in caplog.text


class Patient(Controller):
    "Counts its ticks, and stops after the first that decided something."

    def tick(self):
        self.ticks = [*getattr(self, "ticks", ()), super().tick()]
        if self.ticks[-1]:
            self.stop.set()
        return self.ticks[-1]


def test_nobody_ticks_while_everything_is_finished_and_a_trial_that_begins_is_found(bay):
    watcher = Patient(bay.journal, bay.registry, bay.settings, clock=lambda: bay.now, holder="patient")
    watcher.stop = threading.Event()
    watching = threading.Thread(target=watch, args=(watcher, watcher.stop, 0.001))
    watching.start()
    while not watcher.seen:
        watching.join(0.01)
    assert not watcher.open and not hasattr(watcher, "ticks") and bay.journal.lease("controller", "anybody", 0.0)
    bay.controller.start(bay.plan())
    watching.join(30)
    assert not watching.is_alive() and [d.kind for d in watcher.ticks[0]] == ["hold"]


def test_a_controller_that_stays_until_all_is_done_finishes_what_another_began_and_leaves(bay):
    plan = bay.plan()
    bay.controller.start(plan)
    for stage in range(len(plan.stages)):
        kind = "promote" if stage == len(plan.stages) - 1 else "advance"
        bay.journal.decide(decision_of(plan, kind, "", {"stage": stage}, "controller", bay.now))
    made = []
    watch(bay.controller, threading.Event(), 0.0, lambda d: made.append(d.kind), until_done=True)
    assert made == ["alias"] and bay.registry.shelf.aliases("film")["champion"] == plan.challenger


def test_a_controller_that_stays_until_all_is_done_publishes_what_was_decided_and_not_published(bay):
    tables = bay.registry.shelf.folder / "registry" / "aliases.json"
    before = tables.read_text()
    bay.registry.alias("film", "champion", "1.1.0", "by hand", "Ann")
    tables.write_text(before)  # whoever decided was killed before it was published
    watch(bay.controller, threading.Event(), 0.0, until_done=True)
    assert bay.registry.shelf.aliases("film")["champion"] == "1.1.0"
    watch(bay.controller, threading.Event(), 0.0, until_done=True)  # nothing is left, so it leaves at once


def test_evidence_is_read_again_only_when_a_record_was_appended_or_the_stage_is_another(bay, monkeypatch):
    read, scored = [], bay.journal.scored
    monkeypatch.setattr(bay.journal, "scored", lambda *a, **kw: (read.append(1), scored(*a, **kw))[1])
    plan = bay.plan()
    bay.controller.start(plan)
    bay.traffic(plan, bay.controller.memory.states["film"], GOOD, units=20)
    for _ in range(5):
        bay.controller.tick()
    quiet = len(read)
    for _ in range(5):
        bay.controller.tick()
    assert len(read) == quiet
    bay.traffic(plan, bay.controller.memory.states["film"], GOOD, units=1)
    bay.controller.tick()
    assert len(read) == quiet + 1
    bay.journal.append([Outcome("r0", "y", 1.0, bay.now)])  # not drained yet
    bay.controller.tick()
    assert len(read) == quiet + 2
