"make bench says what it claims to say, at sizes that take no time."

import re
import subprocess
import sys
from pathlib import Path

from tools import bench

ROOT = Path(__file__).resolve().parent.parent


def rows(text):
    "Rows of all printed tables, as cells."
    return [[c.strip() for c in x.strip("|").split("|")] for x in text.splitlines() if x.startswith("| ")]


def test_every_way_to_use_a_covariate_finds_the_same_effect(capsys):
    bench.stats(rows=4000, rounds=1)
    found = {row[0]: row for row in rows(capsys.readouterr().out)}
    assert set(bench.COMPARERS) < set(found)
    with_covariate = [found[name][3:] for name in bench.COMPARERS if "CUPED" in name]
    without = [found[name][3:] for name in bench.COMPARERS if "CUPED" not in name]
    for group, digits in ((with_covariate, 1e-3), (without, 1e-5)):
        for column in zip(*group, strict=True):
            values = [float(v) for v in column]
            assert max(values) - min(values) < digits, group
    assert float(with_covariate[0][1]) < 0.7 * float(without[0][1])


def test_summaries_that_grow_are_timed(capsys):
    bench.streams(batches=20)
    found = rows(capsys.readouterr().out)[1:]
    assert len(found) == 6 and all(float(row[1].replace(",", "")) > 0 for row in found)


def test_the_simulations_name_every_world_scale_and_method(capsys):
    bench.looks(runs=20, units=60)
    found = rows(capsys.readouterr().out)
    worlds = {row[0] for row in found if re.match(r"Bernoulli|normal|lognormal", row[0])}
    assert len(worlds) == 6 and {row[3] for row in found if row[0] in worlds} == {
        "always valid",
        "t-test",
        "betting, exact",
    }
    assert {row[0] for row in found[-10:]} == {"one bet", "five bets"}


def test_many_features_are_timed_and_weighed(capsys):
    bench.distances(rows=5000, features=3)
    found = rows(capsys.readouterr().out)
    assert len(found) == 2 + 1 + 7 and all(float(row[1].replace(",", "")) > 0 for row in found[3:])


def test_streaming_detectors_are_timed_and_counted(capsys):
    bench.detectors(alarms=20, most=3000, runs=5)
    assert len(rows(capsys.readouterr().out)) == 1 + len(bench.watchmen())


def test_contextual_policies_are_timed(capsys):
    bench.contexts(rounds=2)
    found = rows(capsys.readouterr().out)
    assert len(found) == 1 + 3 and all(float(cost) > 0 for row in found[1:] for cost in row[1:])


def test_an_unknown_section_is_bad_usage():
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench", "speed"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "serve, engine, journal, stats, bandit, drift" in done.stderr


def test_bandits_are_compared_in_both_worlds_and_timed(capsys):
    bench.bandit(runs=4, steps=(300, 300), turns=5, draws=100)
    found = rows(capsys.readouterr().out)
    regrets = [row for row in found if row[0].startswith(("two arms", "ten arms"))]
    assert {row[3] for row in regrets} == {"imed", "thompson", "ucb1"} and len(regrets) == 6
    assert all(float(row[4]) > 0 for row in regrets)
    late = [row for row in found if row[0].startswith("late, ")]
    assert len(late) == 4 and all(float(row[4]) >= float(row[3]) > 0 for row in late)
    asked = {row[0]: [float(v) for v in row[1:]] for row in found if len(row) == 5 and row[0] != "estimator"}
    assert {"ips", "dr", "shrunk-dr", "Thompson's own log"} < set(asked) and len(asked) == 10
    assert all(lower < upper for _, lower, upper, _ in asked.values())
    costs = {row[0]: row[1:] for row in found if "2 arms" in row[0] or "20 features" in row[0]}
    assert {"imed, 2 arms", "thompson without propensity, 2 arms", "linear, 10 arms, 20 features"} < set(costs)
    assert len(costs) == 14 and all(float(v) > 0 for cells in costs.values() for v in cells)
