import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.inquest import Death, Rules, Standing, in_a_row, pause_s, put, refusals, standings

KEYS = st.sampled_from([("a", "1.0.0"), ("a", "2.0.0"), ("b", "1.0.0")])
SUSPECTS = st.tuples(KEYS) | st.just(())
DEATH = st.builds(Death, st.floats(0, 3600), st.floats(0, 100), st.just("it broke"), st.integers(0, 3), SUSPECTS)
DEATHS = st.lists(DEATH, max_size=20).map(lambda deaths: sorted(deaths, key=lambda death: death.time_s))


@given(DEATHS, st.floats(0, 4000))
def test_only_versions_with_enough_strikes_of_late_are_refused_and_never_for_longer_than_the_window(deaths, wait):
    rules, now = Rules(), (deaths[-1].time_s if deaths else 0.0) + wait
    found = refusals(deaths, now, rules)
    for key, (why, until_s) in found.items():
        its = [
            death for death in deaths if key in death.suspects and death.blame and now - death.time_s < rules.window_s
        ]
        assert sum(death.blame for death in its) >= rules.strikes
        assert now < until_s <= its[-1].time_s + rules.window_s and why.startswith(" ".join(key))
    assert not wait > rules.window_s or not found


@given(DEATHS)
def test_kills_from_outside_make_nobody_wait_and_pauses_only_grow(deaths):
    rules = Rules()
    outside = [Death(death.time_s, death.lived_s + 1, death.cause, 0, death.suspects) for death in deaths]
    assert in_a_row(outside, (), rules) == 0 and not refusals(outside, 0.0, rules)
    pauses = [pause_s(count, rules) for count in range(30)]
    assert pauses == sorted(pauses) and pauses[0] == 0 and pauses[-1] == rules.longest_s
    assert 0 <= in_a_row(deaths, (), rules) <= len(deaths)


def test_the_file_of_a_keeper_survives_a_full_disk(tmp_path):
    missing = tmp_path / "gone" / "worker-0.json"
    put(missing, Standing("worker-0", 1, "up", 0, "", {}))  # cannot be written, and nothing happens
    assert standings(missing.parent) == []
    Path(tmp_path / "worker-1.json").write_text("{half")
    assert standings(tmp_path) == []
    put(tmp_path / "worker-2.json", Standing("worker-2", 1, "up", 0, "", {("a", "1"): ("why", time.monotonic() + 9)}))
    assert [(one.worker, list(one.refused)) for one in standings(tmp_path)] == [("worker-2", [("a", "1")])]
