"One verdict from many metrics: every situation, every promise, every refusal."

import json
import math
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.stats.betting import always_valid_rates
from seatrial.stats.comparison import non_inferiority, welch
from seatrial.stats.moments import Moments
from seatrial.stats.sequential import always_valid
from seatrial.stats.verdict import (
    Finding,
    Metric,
    Verdict,
    decide,
    finding,
    level_ends,
    levels,
    situation,
    verdict,
)

PRIMARY = Metric("error", "primary", "lower", threshold=0.1)
GUARD = Metric("speed", "guardrail", "higher", margin=0.1)
EVEN = {"control": 0.5, "treatment": 0.5}


def arms(effect, n=4000, sd=1.0):
    "Moments of two arms with exactly this effect."
    return Moments(n, 1.0, sd * sd * (n - 1)), Moments(n, 1.0 + effect, sd * sd * (n - 1))


EFFECTS = {  # of the error, lower is better: what makes each answer sure
    "gain": arms(-0.5),
    "open": arms(-0.1),
    "futile": arms(-0.01),
    "harm": arms(0.5),
    "unknown": None,
}
GUARDS = {"safe": arms(0.0), "open": arms(-0.1), "harm": arms(-0.5), "unknown": None}


def expected(primary, guard, sound):
    "The decision table, said a second time."
    if not sound:
        return "invalid", ""
    if "harm" in (primary, guard):
        return "stop", "harm"
    if primary == "futile":
        return "stop", "futile"
    return ("promote", "") if (primary, guard) == ("gain", "safe") else ("continue", "")


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("guard", list(GUARDS))
@pytest.mark.parametrize("primary", list(EFFECTS))
def test_every_situation_has_the_verdict_of_the_table(primary, guard, sound):
    counts = {"control": 4000, "treatment": 4000 if sound else 3000}
    seen = verdict([PRIMARY, GUARD], {"error": EFFECTS[primary], "speed": GUARDS[guard]}, counts, EVEN)
    assert [f.answer for f in seen.findings] == [primary, guard]
    assert (seen.kind, seen.reason) == expected(primary, guard, sound)


def test_of_32_situations_one_is_a_promotion():
    kinds = {case: decide(*case) for case in product((True, False), repeat=5)}
    assert [case for case, (kind, _) in kinds.items() if kind == "promote"] == [(True, False, False, True, True)]
    for (sound, harmed, futile, *_), (kind, reason) in kinds.items():
        assert (kind == "invalid") == (not sound)
        assert (reason == "harm") == (sound and harmed)
        assert (reason == "futile") == (sound and futile and not harmed)


@pytest.mark.parametrize(
    ("answers", "any_wins", "all_win"),
    [
        (("gain", "gain"), "promote", "promote"),
        (("gain", "open"), "promote", "continue"),
        (("gain", "futile"), "promote", "stop"),
        (("gain", "unknown"), "continue", "continue"),
        (("gain", "harm"), "stop", "stop"),
        (("open", "futile"), "continue", "stop"),
        (("futile", "futile"), "stop", "stop"),
        (("open", "unknown"), "continue", "continue"),
    ],
)
def test_several_primaries_win_as_was_agreed(answers, any_wins, all_win):
    metrics = [replace(PRIMARY, name=name) for name in "ab"]
    evidence = dict(zip("ab", (EFFECTS[a] for a in answers), strict=True))
    assert verdict(metrics, evidence).kind == any_wins
    assert verdict(metrics, evidence, wins="all").kind == all_win


def test_without_a_primary_safe_guardrails_are_enough():
    assert verdict([GUARD], {"speed": GUARDS["safe"]}).kind == "promote"
    assert verdict([GUARD], {"speed": GUARDS["open"]}).kind == "continue"


def test_a_secondary_metric_decides_nothing():
    beside = Metric("clicks", "secondary")
    for effect, answer in ((0.5, "better"), (-0.5, "worse"), (0.0, "open")):
        evidence = {"error": EFFECTS["gain"], "clicks": arms(effect)}
        seen = verdict([PRIMARY, beside], evidence)
        assert seen.kind == "promote" and seen.findings[1].answer == answer


def test_missing_data_are_never_healthy_and_say_why():
    waiting = verdict([PRIMARY, GUARD], {"error": EFFECTS["gain"], "speed": (Moments(1, 1.0, 0.0), Moments())})
    assert waiting.kind == "continue" and "speed" in waiting.words and "two values" in waiting.words
    assert waiting.of("unknown") == ("speed",) and math.isnan(waiting.findings[1].effect)


def test_an_invalid_trial_still_names_the_harm_and_claims_nothing():
    evidence = {"error": EFFECTS["gain"], "speed": GUARDS["harm"]}
    seen = verdict([PRIMARY, GUARD], evidence, 1e-6)
    assert seen.kind == "invalid" and seen.split_p == 1e-6
    assert "harm: speed" in seen.words and "err with a chance" not in seen.words


def test_a_gain_below_the_threshold_is_not_yet_a_win():
    close = replace(PRIMARY, threshold=0.3)
    seen = verdict([close], {"error": arms(-0.25)})
    assert seen.kind == "continue" and "below the threshold" in seen.findings[0].why
    assert verdict([close], {"error": arms(-0.31)}).kind == "promote"


def test_a_strict_primary_must_prove_its_threshold():
    loose, strict = (replace(PRIMARY, threshold=0.3, strict=s) for s in (False, True))
    assert verdict([loose], {"error": arms(-0.31)}).kind == "promote"
    assert verdict([strict], {"error": arms(-0.31)}).kind == "continue"
    assert verdict([strict], {"error": arms(-0.6)}).kind == "promote"


@given(st.floats(-1, 1), st.sampled_from(["primary", "guardrail", "secondary"]), st.integers(3, 5000))
@settings(max_examples=60, deadline=None)
def test_a_metric_turned_upside_down_gives_the_same_answer(effect, kind, n):
    terms = {"primary": {"threshold": 0.1}, "guardrail": {"margin": 0.1}, "secondary": {}}[kind]
    c, t = arms(effect, n)
    up = finding(Metric("m", kind, "higher", **terms), (c, t))
    down = finding(Metric("m", kind, "lower", **terms), (replace(c, mean=-c.mean), replace(t, mean=-t.mean)))
    assert up.answer == down.answer
    assert (up.alpha_lower, up.alpha_upper) == (down.alpha_upper, down.alpha_lower)
    for mine, theirs in ((up.effect, -down.effect), (up.lower, -down.upper), (up.upper, -down.lower)):
        assert mine == pytest.approx(theirs, nan_ok=True)


@given(st.floats(-0.4, 0.4), st.booleans(), st.sampled_from(["higher", "lower"]), st.floats(0.01, 0.3))
@settings(max_examples=60, deadline=None)
def test_a_guardrail_says_what_non_inferiority_says(effect, relative, better, margin):
    pair, compare = arms(effect), partial(welch, relative=relative)
    seen = finding(Metric("m", "guardrail", better, margin, relative=relative, compare=welch), pair, 0.05, 0.05)
    theirs = non_inferiority(compare, *pair, margin, better, 0.05)
    assert seen.answer == {"non-inferior": "safe", "inferior": "harm", "open": "open"}[theirs.verdict]
    assert seen.p_value == theirs.p_value


@pytest.mark.parametrize("compare", [always_valid, welch])
def test_the_numbers_of_a_finding_are_those_of_its_comparison(compare):
    pair = arms(-0.2)
    seen = finding(replace(PRIMARY, compare=compare), pair, 0.02, 0.005)
    good, bad = compare(*pair, 0.02, side="less"), compare(*pair, 0.005, side="greater")
    assert (seen.lower, seen.upper) == (bad.lower, good.upper)
    assert (seen.effect, seen.p_value, seen.baseline) == (good.effect, good.p_value, 1.0)


def test_rates_are_judged_by_betting_from_counts():
    metric = Metric("failures", "guardrail", "lower", 0.02, compare=partial(always_valid_rates, share=0.5))
    assert verdict([metric], {"failures": ((5, 3000), (4, 3000))}).kind == "promote"
    assert verdict([metric], {"failures": ((5, 3000), (400, 3000))}).reason == "harm"
    assert verdict([metric], {"failures": ((0, 5), (0, 5))}).kind == "continue"


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 20), st.booleans(), st.sampled_from(["any", "all"]))
def test_no_more_than_alpha_is_ever_spent(primaries, guards, others, split, wins):
    if not primaries + guards:
        return
    metrics = [replace(PRIMARY, name=f"p{i}") for i in range(primaries)]
    metrics += [replace(GUARD, name=f"g{i}") for i in range(guards)]
    metrics += [Metric(f"s{i}", "secondary") for i in range(others)]
    parts = levels(metrics, 0.05, split)
    assert sum(parts.values()) == pytest.approx(0.05)
    ends = {m.name: level_ends(m, metrics, parts, wins) for m in metrics}
    good = [ends[m.name][0] for m in metrics if m.kind == "primary"]
    assert (sum(good) if wins == "any" else max(good, default=0)) <= parts["promotion"] * (1 + 1e-12)
    assert all(ends[m.name][0] == parts["promotion"] for m in metrics if m.kind == "guardrail")
    assert sum(ends[m.name][1] for m in metrics if m.kind != "secondary") == pytest.approx(parts["harm"])
    assert sum(sum(ends[m.name]) for m in metrics if m.kind == "secondary") == pytest.approx(parts["secondary"])
    assert (parts["split"] > 0) == split and (parts["secondary"] > 0) == (others > 0)


def test_weights_move_alpha_to_where_they_say():
    parts = levels([PRIMARY], 0.1, False, {"promotion": 3, "harm": 1, "secondary": 1, "split": 1})
    assert parts == pytest.approx({"promotion": 0.075, "harm": 0.025, "secondary": 0, "split": 0})


@pytest.mark.parametrize("primary", list(EFFECTS))
def test_a_verdict_survives_strict_json(primary):
    seen = verdict([PRIMARY, GUARD], {"error": EFFECTS[primary], "speed": GUARDS["open"]}, 0.5)
    told = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert told["kind"] == seen.kind and told["words"] == seen.words and len(told["findings"]) == 2
    assert set(told) == set(Verdict.__slots__) and set(told["findings"][0]) == set(Finding.__slots__)


def test_numbers_of_numpy_become_plain_ones():
    pair = np.random.default_rng(0).normal(size=(2, 500))
    told = verdict([replace(PRIMARY, compare=welch)], {"error": tuple(pair)}).to_dict()
    assert all(type(v) in (str, int, float, type(None)) for v in told["findings"][0].values())


def test_shards_give_the_verdict_of_the_whole():
    rng = np.random.default_rng(1)
    c, t = rng.normal(1, 1, 2000), rng.normal(0.7, 1, 2000)
    shards = tuple(sum((Moments.of(x) for x in np.array_split(a, 17)), Moments()) for a in (c, t))
    whole, merged = verdict([PRIMARY], {"error": (c, t)}), verdict([PRIMARY], {"error": shards})
    assert whole.kind == merged.kind and whole.findings[0].lower == pytest.approx(merged.findings[0].lower)


@pytest.mark.parametrize("answer", list(EFFECTS))
def test_words_and_table_name_every_metric_that_decides(answer):
    seen = verdict([PRIMARY, GUARD], {"error": EFFECTS[answer], "speed": GUARDS["safe"]})
    shown = seen._repr_markdown_()
    assert seen.words in shown and "| error |" in shown and "| speed |" in shown and "error" in seen.words
    assert shown.startswith(f"**{seen.kind.capitalize()}")


METRICS = [Metric("error", "primary", "lower", threshold=0.1)]
METRICS += [Metric(f"guard {i}", "guardrail", margin=0.2, relative=i == 0) for i in range(3)]
METRICS += [Metric(f"other {i}", "secondary") for i in range(16)]


@pytest.mark.parametrize(
    ("gain", "loss", "wrong"),
    [(0.0, 0.0, ("promote", "harm")), (0.5, 0.2, ("promote", "harm", "futile")), (0.1, 0.0, ("harm", "futile"))],
    ids=["nothing moves", "a guardrail at its margin", "a gain exactly worth having"],
)
def test_the_family_error_of_twenty_metrics_holds_while_somebody_looks(gain, loss, wrong):
    runs, looks, batch, rng, errors = 40, 5, 150, np.random.default_rng(5), 0
    shift = np.zeros(20)
    shift[0], shift[1] = -gain, -loss
    for _ in range(runs):
        c, t = (
            1 + np.sqrt(0.5) * (rng.normal(size=(looks * batch, 1)) + rng.normal(size=(looks * batch, 20)))
            for _ in range(2)
        )
        t, ever = t + shift, False
        for n in range(batch, looks * batch + 1, batch):
            evidence = {m.name: (Moments.of(c[:n, j]), Moments.of(t[:n, j])) for j, m in enumerate(METRICS)}
            seen = verdict(METRICS, evidence, {"control": n, "treatment": n}, EVEN)
            ever |= (seen.reason or seen.kind) in (*wrong, "invalid") or bool(seen.of("better") + seen.of("worse"))
        errors += ever
    assert errors / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"kind": "guard"}, "kind of m must be one of primary, guardrail, secondary, got"),
        ({"better": "up"}, "better of m must be one of higher, lower, got"),
        ({"kind": "guardrail"}, "margin of the guardrail m must be above 0"),
        ({"margin": -0.1}, "margin of m must be at least 0, it is a size without a sign, got -0.1"),
        ({"threshold": -1}, "threshold of m must be at least 0"),
        ({"threshold": math.nan}, "threshold of m must be a finite number"),
        ({"kind": "guardrail", "margin": 0.1, "threshold": 0.1}, "threshold of m must be left out"),
        ({"kind": "secondary", "margin": 0.1}, "margin of m must be left out"),
        ({"kind": "guardrail", "margin": 1.5, "relative": True}, "margin of m must be below 1"),
        ({"name": ""}, "name of a metric must be a non-empty text"),
    ],
)
def test_a_metric_that_cannot_be_meant_is_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        Metric(**{"name": "m"} | terms)


@pytest.mark.parametrize(
    ("metrics", "evidence", "more", "message"),
    [
        ([PRIMARY], {}, {}, "evidence must name every metric .* it lacks error"),
        ([PRIMARY], {"error": None, "eror": None}, {}, "got also eror"),
        ([PRIMARY, PRIMARY], {"error": None}, {}, "metrics must be named once each, got error twice"),
        ([], {}, {}, "metrics must hold a primary metric or a guardrail"),
        ([PRIMARY], {"error": ([1.0, math.nan], [1.0, 2.0])}, {}, "evidence of error cannot be compared: control must"),
        ([PRIMARY], {"error": None}, {"wins": "most"}, "wins must be one of any, all"),
        ([PRIMARY], {"error": None}, {"alpha": 5}, "alpha must lie strictly between 0 and 1"),
        ([PRIMARY], {"error": None}, {"arrivals": 1.5}, "arrivals must be counts for each arm or a p-value"),
        ([PRIMARY], {"error": None}, {"arrivals": {"control": 5}}, "arrivals and shares must be given together"),
        ([PRIMARY], {"error": None}, {"shares": EVEN}, "arrivals and shares must be given together"),
        ([PRIMARY], {"error": None}, {"weights": {"harm": 1}}, "weights must name promotion, harm, secondary, split"),
    ],
)
def test_a_trial_that_cannot_be_judged_is_refused(metrics, evidence, more, message):
    with pytest.raises(ValueError, match=message):
        verdict(metrics, evidence, **more)


def test_situation_reads_the_answers():
    one = finding(PRIMARY, EFFECTS["gain"])
    for answer, known in {
        "gain": (False, False, True, True),
        "harm": (True, False, False, True),
        "futile": (False, True, False, True),
        "unknown": (False, False, False, False),
    }.items():
        assert situation([replace(one, answer=answer)]) == known


@pytest.mark.parametrize("evidence", [[1.0, 2.0, 3.0], (Moments(), Moments(), 0.05), Moments(5, 1.0, 1.0)])
def test_evidence_that_is_no_pair_is_refused(evidence):
    with pytest.raises(ValueError, match="evidence of error must be a pair, control and treatment"):
        verdict([PRIMARY], {"error": evidence})
