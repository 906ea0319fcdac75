"""How long waiting threads spin before they sleep.

Knows the variables that OpenMP libraries read on loading. Knows nothing of torch.

After each parallel region the threads of GNU OpenMP (libgomp, which torch uses on Linux) spin for
up to 300,000 rounds, to be ready for the next. If another process needs the same processor, they
waste time in which it, or the thread that all wait for, could compute.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

SPIN_VARIABLE = "GOMP_SPINCOUNT"
SPIN_ROUNDS = 30_000
"""Rounds before a waiting thread sleeps: 1.5 ms if a round takes 50 ns.

A trade-off, since waking a thread takes time too. On two cores of a virtual machine with AMX, next
to another busy process, 128 windows took 5.1 s with this value, 15.0 s with libgomp's default of
300,000, 3.6 s with 10,000 and 2.9 s with 1,000; on an idle machine 1.60, 1.54, 1.69 and 1.82 s.
A fit took 3.4, 15.3, 2.0 and 1.2 s, and 0.64, 0.61, 0.68 and 0.90 s.
"""
_USER_VARIABLES = (SPIN_VARIABLE, "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def shorten_spinning(environment: MutableMapping[str, str]) -> None:
    """Make waiting threads sleep soon, unless the user has set how they wait.

    Has an effect only if torch is loaded afterwards.
    """
    if not any(environment.get(name) for name in _USER_VARIABLES):
        environment[SPIN_VARIABLE] = str(SPIN_ROUNDS)


def describe_waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that set how threads wait, for the report; empty if none is set."""
    settings = [f"{name}={environment[name]}" for name in _USER_VARIABLES if name in environment]
    return {"waiting threads": ", ".join(settings)} if settings else {}
