import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.serve.redact import KINDS, iban, luhn, redacted, redacted_record


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "from {} to", "[{}]", "a={},", "{}.", "{}:8080", "host_{}"]))
def test_every_ipv4_address_is_hidden(number, frame):
    address = str(ipaddress.IPv4Address(number))
    assert address not in redacted(frame.format(address))


@given(st.integers(2**96, 2**128 - 1))
def test_every_ipv6_address_is_hidden(number):
    address = str(ipaddress.IPv6Address(number))
    assert redacted(f"from {address} to") == "from [ip] to"


@given(st.text("0123456789", min_size=12, max_size=18), st.sampled_from(["", " ", "-"]))
def test_every_number_with_a_luhn_digit_is_hidden_and_its_neighbours_are_not_cards(digits, gap):
    last = next(d for d in "0123456789" if luhn(digits + d))
    whole = digits + last
    text = gap.join(whole[i : i + 4] for i in range(0, len(whole), 4))
    assert redacted(f"card {text} ok", ["card"]) == "card [card] ok"
    assert redacted(f"card_{text}_1", ["card"]) == "card_[card]_1"
    assert not luhn(digits + str((int(last) + 1) % 10))


@given(st.sampled_from(["DE", "GB", "FR", "NO"]), st.text("0123456789", min_size=11, max_size=26))
def test_every_account_number_with_a_right_remainder_is_hidden(country, account):
    check = next(f"{n:02}" for n in range(2, 99) if iban(f"{country}{n:02}{account}"))
    whole = f"{country}{check}{account}"
    assert redacted(f"to {whole} now", ["iban"]) == "to [iban] now"
    assert redacted(" ".join(whole[i : i + 4] for i in range(0, len(whole), 4)), ["iban"]) == "[iban]"


@pytest.mark.parametrize(
    "address", ["a@b.co", "ann.lee+x@mail.example.org", "ANN_LEE%x@EXAMPLE.COM", "max@müller.de", "max@名がドメイン.co"]
)
def test_mail_addresses_are_hidden_wherever_they_stand(address):
    assert redacted(f"<{address}>,{address};x={address}") == "<[email]>,[email];x=[email]"


@pytest.mark.parametrize(
    "number", ["+49 30 901820", "+1 (555) 010-9999", "030/901820", "(030) 901 820", "+491701234567"]
)
def test_telephone_numbers_are_hidden(number):
    assert redacted(f"call {number} now") == "call [phone] now"


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 10**11), st.uuids())
def test_measurements_counts_and_identifiers_stay(number, count, id):
    line = f"{number:.6g} ms, {count:,} rows, {id}"
    assert redacted(line, ["email", "ip", "phone", "iban"]) == line


@given(st.text(max_size=300))
def test_what_is_redacted_once_does_not_change_again(text):
    once = redacted(text)
    assert redacted(once) == once


def test_kinds_that_are_not_asked_for_stay():
    assert redacted("a@b.co 203.0.113.9", ["ip"]) == "a@b.co [ip]" and redacted("a@b.co", []) == "a@b.co"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
)


@given(JSON)
def test_a_record_stays_json_and_keeps_its_form(record):
    json.dumps(redacted_record(record))
    assert type(redacted_record(record)) is type(record)


def test_every_kind_has_a_pattern_and_a_setting():
    from seatrial.base.settings import Settings

    assert set(Settings().guard.redact) == set(KINDS)
