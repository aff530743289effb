import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.breaker import Breaker, Breakers, Rule, Window, count, heard, lets_through, passable, told

RULE = Rule(share=0.5, least=10, window_s=10.0, open_s=5.0)
KEY = ("m", "1.0.0")


def opened(now_s=0.0):
    breaker = Breaker(RULE)
    heard(breaker, 10, 10, now_s, "it broke")
    assert breaker.state == "open"
    return breaker


@given(st.lists(st.tuples(st.floats(0, 4), st.integers(0, 9), st.integers(0, 9)), max_size=40))
def test_the_window_counts_what_is_younger_than_nine_tenths_of_it_and_nothing_older_than_all_of_it(batches):
    window, now_s, said = Window(10.0), 0.0, []
    for gap, good, bad in batches:
        now_s += gap
        said.append((now_s, good + bad, bad))
        answers, failures = count(window, good + bad, bad, now_s)
        for found, column in ((answers, 1), (failures, 2)):
            surely = sum(batch[column] for batch in said if now_s - batch[0] < 9.0 - 1e-6)
            perhaps = sum(batch[column] for batch in said if now_s - batch[0] <= 10.0 + 1e-6)
            assert surely <= found <= perhaps


@pytest.mark.parametrize(("answers", "failures", "state"), [(9, 9, "closed"), (10, 4, "closed"), (10, 5, "open")])
def test_it_opens_at_the_share_and_not_before_the_least_number(answers, failures, state):
    breaker = Breaker(RULE)
    heard(breaker, answers, failures, 0.0)
    assert breaker.state == state


def test_old_failures_are_forgotten():
    breaker = Breaker(RULE)
    heard(breaker, 9, 9, 0.0)
    heard(breaker, 9, 9, 11.0)
    assert breaker.state == "closed"


def test_an_open_breaker_lets_one_request_try_and_nobody_else():
    breaker = opened()
    assert [lets_through(breaker, t) for t in (0.0, 4.9, 5.0, 5.1, 9.9)] == [False, False, True, False, False]


def test_one_success_closes_it_and_one_failure_opens_it_again():
    healed, broken = opened(), opened()
    assert lets_through(healed, 5.0) and lets_through(broken, 5.0)
    assert heard(healed, 1, 0, 5.5) and heard(broken, 1, 1, 5.5)
    assert (healed.state, broken.state, broken.opened) == ("closed", "open", 2)
    assert not lets_through(broken, 10.4) and lets_through(broken, 10.5)


def test_a_try_that_is_never_heard_of_is_followed_by_another():
    breaker = opened()
    assert [lets_through(breaker, t) for t in (5.0, 9.9, 10.0)] == [True, False, True]


def test_what_was_under_way_when_it_opened_neither_closes_nor_reopens_it():
    breaker = opened()
    assert not heard(breaker, 5, 0, 1.0) and not heard(breaker, 5, 5, 2.0)
    assert (breaker.state, breaker.since_s, breaker.opened) == ("open", 0.0, 1)


def test_a_healed_version_starts_afresh():
    breaker = opened()
    lets_through(breaker, 5.0)
    heard(breaker, 1, 0, 5.1)
    heard(breaker, 9, 9, 5.2)
    assert breaker.state == "closed"


def test_versions_that_never_fail_hold_no_breaker():
    breakers = Breakers(RULE)
    assert not told(breakers, KEY, 1000, 0, 0.0) and not breakers.held and passable(breakers, KEY, 0.0) is None


def test_the_refusal_names_version_last_failure_and_time():
    breakers = Breakers(RULE)
    assert told(breakers, KEY, 10, 10, 0.0, "out of memory")
    refusal = passable(breakers, KEY, 2.0)
    assert (refusal.status, refusal.retry_after_s) == (503, 3)
    assert "version 1.0.0 of m" in refusal.sentence and "out of memory" in refusal.sentence
    assert passable(breakers, ("m", "1.1.0"), 2.0) is None


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 20), st.floats(0, 1)), max_size=60))
def test_a_version_whose_answers_are_all_good_is_asked_again_soon_whatever_happened_before(history):
    breaker, now_s = Breaker(RULE), 0.0
    for gap, answers, share in history:
        now_s += gap
        if lets_through(breaker, now_s):
            heard(breaker, answers, int(answers * share), now_s)
    now_s += RULE.open_s + 1e-6  # and a little for the rounding of the sum
    assert lets_through(breaker, now_s)
    heard(breaker, 1, 0, now_s)
    assert breaker.state == "closed" and lets_through(breaker, now_s)
