"""How long the waiting threads of a computation spin before they sleep.

Knows the variables that OpenMP libraries read as they are loaded. Knows nothing of torch.

After each parallel region the threads of GNU's OpenMP (libgomp, which torch brings on Linux) turn
in a loop of up to 300,000 rounds, to be there at once for the next. Where another process wants the
same processor, they burn the time in which it, or the thread that all wait for, could compute.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

SPIN_VARIABLE = "GOMP_SPINCOUNT"
SPIN_ROUNDS = 30_000
"""Rounds before a waiting thread sleeps: 1.5 ms where a round takes 50 ns.

A trade, since waking a thread takes time too. On two cores of a virtual machine with AMX, beside
another busy process, 128 windows took 5.1 s with it, 15.0 s with libgomp's own 300,000, 3.6 s with
10,000 and 2.9 s with 1,000; with nothing beside them 1.60, 1.54, 1.69 and 1.82 s. A fit took 3.4,
15.3, 2.0 and 1.2 s, and 0.64, 0.61, 0.68 and 0.90 s.
"""
_CHOICES_OF_THE_USER = (SPIN_VARIABLE, "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def shorten_spinning(environment: MutableMapping[str, str]) -> None:
    """Have waiting threads sleep soon, unless the user has chosen how they wait.

    Only what loads torch afterwards in this process heeds it.
    """
    if not any(environment.get(name) for name in _CHOICES_OF_THE_USER):
        environment[SPIN_VARIABLE] = str(SPIN_ROUNDS)


def describe_waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what decides how threads wait, for the report; empty where nothing is set."""
    chosen = [f"{name}={environment[name]}" for name in _CHOICES_OF_THE_USER if name in environment]
    return {"waiting threads": ", ".join(chosen)} if chosen else {}
