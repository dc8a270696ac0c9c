"""Admission of connections: the limits in all and per host, and which idle connection is evicted."""

from __future__ import annotations

import pytest

from p2p.net.admission import Admission, AdmissionLimits, Verdict, counted_host

IDLE_S = 0.1
LONG = 10.0
"""A time at which all that came at 0 was idle for long enough."""


def full(total: int, per_host: int | None = None, hosts: tuple[str, ...] = ()) -> Admission[int]:
    """Connections 0, 1, … of these hosts, all idle since the time 0."""
    admission = Admission[int](AdmissionLimits(total, per_host, IDLE_S))
    for number, host in enumerate(hosts):
        assert admission.admit(number, host, 0.0) == Verdict(admitted=True)
    return admission


def test_a_connection_is_admitted_while_there_is_room() -> None:
    admission = full(2, hosts=("10.0.0.1", "10.0.0.2"))
    assert len(admission) == 2


def test_one_too_many_is_refused_while_the_others_are_new() -> None:
    admission = full(2, hosts=("10.0.0.1", "10.0.0.2"))
    assert admission.admit(2, "10.0.0.3", IDLE_S - 0.01) == Verdict(admitted=False)
    assert len(admission) == 2


def test_the_oldest_idle_connection_is_evicted_for_a_new_one() -> None:
    admission = full(2, hosts=("10.0.0.1", "10.0.0.2"))
    assert admission.admit(2, "10.0.0.3", IDLE_S) == Verdict(admitted=True, evicted=0)
    assert admission.admit(3, "10.0.0.3", IDLE_S) == Verdict(admitted=True, evicted=1)
    assert admission.admit(4, "10.0.0.3", IDLE_S) == Verdict(admitted=False)
    assert len(admission) == 2


def test_an_active_connection_is_never_evicted() -> None:
    admission = full(2, hosts=("10.0.0.1", "10.0.0.2"))
    admission.on_active(0)
    assert admission.admit(2, "10.0.0.3", LONG).evicted == 1
    admission.on_active(2)
    assert admission.admit(3, "10.0.0.3", 2 * LONG) == Verdict(admitted=False)


def test_a_closed_connection_makes_room() -> None:
    admission = full(1, hosts=("10.0.0.1",))
    admission.on_closed(0)
    assert admission.admit(1, "10.0.0.2", 0.0) == Verdict(admitted=True)


def test_a_host_at_its_limit_replaces_its_own_idle_connection_and_no_other() -> None:
    admission = full(9, 2, ("10.0.0.2", "10.0.0.1", "10.0.0.1"))
    assert admission.admit(3, "10.0.0.1", LONG) == Verdict(admitted=True, evicted=1)
    admission.on_active(2)
    admission.on_active(3)
    assert admission.admit(4, "10.0.0.1", 2 * LONG) == Verdict(admitted=False)
    assert admission.admit(4, "10.0.0.2", 2 * LONG) == Verdict(admitted=True)


def test_loopback_may_use_all_connections() -> None:
    admission = full(3, 1, ("127.0.0.1", "127.0.0.1", "::1"))
    assert not admission.admit(3, "127.0.0.1", 0.0).admitted


def test_a_network_of_ipv6_counts_as_one_host() -> None:
    admission = full(9, 2, ("2001:db8::1", "2001:db8::ffff:2"))
    assert not admission.admit(2, "2001:db8::3", 0.0).admitted
    assert admission.admit(2, "2001:db8:0:1::3", 0.0).admitted


def test_a_dialled_connection_counts_but_is_neither_refused_nor_evicted() -> None:
    admission = full(1, hosts=("10.0.0.1",))
    admission.on_dialled(1, "10.0.0.2")
    assert len(admission) == 2
    assert admission.admit(2, "10.0.0.3", LONG) == Verdict(admitted=True, evicted=0)
    assert admission.admit(3, "10.0.0.3", LONG) == Verdict(admitted=False)


def test_a_caller_out_of_descriptors_evicts_idle_connections_one_by_one() -> None:
    admission = full(9, hosts=("10.0.0.1", "10.0.0.2", "10.0.0.1"))
    admission.on_active(0)
    assert admission.evict_idle(IDLE_S / 2) is None
    assert admission.evict_idle(LONG, "10.0.0.1") == 2
    assert admission.evict_idle(LONG) == 1
    assert admission.evict_idle(LONG) is None
    assert len(admission) == 1


def test_a_connection_that_was_refused_or_evicted_may_be_closed_again() -> None:
    admission = full(1, hosts=("10.0.0.1",))
    admission.admit(1, "10.0.0.1", LONG)
    admission.on_closed(0)
    admission.on_active(0)
    admission.on_closed(99)
    assert len(admission) == 1


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("localhost", "localhost"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_the_name_under_which_a_host_is_counted(host: str, counted: str) -> None:
    assert counted_host(host) == counted
