"""A sender's number is worked out once: the same as anew, for any value, and of a bounded number of senders."""

from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.phone import Numbering
from cht_rapidpro.domain.records.senders import Senders

KENYA = Numbering("KE", None)
VALUES = st.sampled_from(["0712345678", "+254712345678", "254", "999", "", "Safaricom", " 0712 345 678"]) | st.text()


@given(st.lists(VALUES | st.integers() | st.none() | st.lists(st.text()), max_size=20))
def test_a_number_is_what_it_is_anew(values: list[object]) -> None:
    senders = Senders(KENYA)
    for value in [*values, *values]:
        assert senders.normalized(value) == (KENYA.normalize(value) or value)


def test_the_cache_of_senders_is_bounded() -> None:
    senders = Senders(KENYA)
    for number in range(3000):
        senders.normalized(f"+2547{number:08}")
        senders.normalized("+254712345678" + "0" * number)
    assert len(senders._known) == 1000
