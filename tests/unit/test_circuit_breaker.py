"""The circuit breaker: when it opens, how long it rests, and that one probe is let through."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.circuit_breaker import FAILURES_MAX, JITTER, REST_S, CircuitBreaker


def broken(now_s=0.0, chance=0.0):
    """Return a breaker that has just opened."""
    breaker = CircuitBreaker()
    for _ in range(FAILURES_MAX):
        assert breaker.lets_through(now_s)
        breaker.failed(now_s, chance)
    return breaker


def test_it_opens_after_failures_in_a_row():
    """Five failures open it, four and a success do not."""
    breaker = CircuitBreaker()
    for _ in range(FAILURES_MAX - 1):
        breaker.failed(0.0, 0.0)
    breaker.succeeded()
    for _ in range(FAILURES_MAX - 1):
        breaker.failed(0.0, 0.0)
    assert breaker.lets_through(0.0)
    breaker.failed(0.0, 0.0)

    assert breaker.state == "open"
    assert not breaker.lets_through(REST_S - 0.001)


def test_half_open_lets_one_probe_through():
    """After the rest one call is let through, and nobody else until its end is known."""
    breaker = broken()
    assert breaker.lets_through(REST_S)
    assert breaker.state == "half_open"
    assert not breaker.lets_through(10 * REST_S)
    breaker.succeeded()

    assert (breaker.state, breaker.failures) == ("closed", 0)
    assert breaker.lets_through(REST_S)


def test_a_failed_probe_opens_it_again():
    """One failure is enough in half open, and the rest begins anew."""
    breaker = broken()
    assert breaker.lets_through(REST_S)
    breaker.failed(REST_S + 5, 0.0)

    assert breaker.state == "open"
    assert breaker.retry_in_s(REST_S + 5) == REST_S
    assert not breaker.lets_through(2 * REST_S)
    assert breaker.lets_through(2 * REST_S + 5)


@given(chance=st.floats(0, 1))
def test_jitter_lengthens_the_rest(chance):
    """The rest is never shorter than told, nor longer by more than the jitter."""
    wait_s = broken(chance=chance).retry_in_s(0.0)

    assert REST_S <= wait_s <= REST_S * (1 + JITTER)


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "succeed", "fail"]), st.floats(0, 2 * REST_S)), max_size=60
)


@given(steps=STEPS)
def test_it_behaves_as_its_diagram(steps):
    """Against a history of what was let through: never a second probe, never a call in the rest."""
    breaker, now_s = CircuitBreaker(), 0.0
    under_way, in_a_row, failed_s = 0, 0, 0.0
    for step, wait_s in steps:
        now_s += wait_s
        if step == "ask":
            before = breaker.state
            if breaker.lets_through(now_s):
                under_way += 1
                assert before != "half_open"
                assert before == "closed" or now_s >= failed_s + REST_S
            else:
                assert before == "half_open" or now_s < failed_s + REST_S
        elif under_way:
            under_way -= 1
            if step == "succeed":
                in_a_row = 0
                breaker.succeeded()
                assert breaker.state == "closed"
            else:
                in_a_row, failed_s = in_a_row + 1, now_s
                breaker.failed(now_s, 0.0)
                assert breaker.state == ("open" if in_a_row >= FAILURES_MAX else "closed")
