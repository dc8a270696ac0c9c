"""Admission against a model that looks at every open connection each time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from p2p.net.admission import Admission, AdmissionLimits
from tests.kit.effort import examples

HOSTS = ("10.0.0.1", "10.0.0.2", "127.0.0.1", "2001:db8::1", "2001:db8::2")
IDLE_S = 2.0


@dataclass
class Open:
    host: str
    since: float
    active: bool = False


def same_host(one: str, other: str) -> bool:
    return one == other or (one.startswith("2001") and other.startswith("2001"))


STEP = st.tuples(
    st.sampled_from(["admit"] * 6 + ["active", "closed", "closed", "dialled", "evict"]),
    st.sampled_from(HOSTS),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)


@given(st.integers(1, 6), st.none() | st.integers(1, 4), st.lists(STEP, max_size=60))
@examples(300)
def test_the_limits_hold_and_only_the_oldest_idle_connection_is_evicted(
    total: int, per_host: int | None, steps: list[tuple[str, str, int, float]]
) -> None:
    admission = Admission[int](AdmissionLimits(total, per_host, IDLE_S))
    model: dict[int, Open] = {}
    now, dialled = 0.0, 0
    for number, (kind, host, other, passed) in enumerate(steps):
        now += passed
        mine = [key for key, one in model.items() if same_host(one.host, host)]
        evictable = [key for key, one in model.items() if not one.active and one.since <= now - IDLE_S]
        match kind:
            case "admit":
                at_limit = per_host is not None and len(mine) >= per_host and host != "127.0.0.1"
                candidates = [key for key in evictable if key in mine] if at_limit else evictable
                needed = at_limit or len(model) >= total
                verdict = admission.admit(number, host, now)
                assert verdict.admitted == (not needed or bool(candidates))
                assert verdict.evicted == (candidates[0] if needed and candidates else None)
                if verdict.evicted is not None:
                    del model[verdict.evicted]
                if verdict.admitted:
                    model[number] = Open(host, now)
            case "active":
                admission.on_active(other)
                if other in model:
                    model[other].active = True
            case "closed":
                admission.on_closed(other)
                model.pop(other, None)
            case "dialled":
                admission.on_dialled(number, host)
                model[number] = Open(host, now, active=True)
                dialled += 1
            case "evict":
                evicted = admission.evict_idle(now)
                assert evicted == (evictable[0] if evictable else None)
                if evicted is not None:
                    del model[evicted]
        assert len(admission) == len(model) <= total + dialled
