"""How waiting threads spin: short in the command, as the user says, untouched in the library."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from memaudit.system.threads import SPIN_VARIABLE, describe_waiting, shorten_spinning

CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def test_waiting_threads_sleep_soon_where_the_user_has_not_chosen() -> None:
    environment = {"PATH": "/bin"}
    assert describe_waiting(environment) == {}
    shorten_spinning(environment)
    assert environment == {"PATH": "/bin", "GOMP_SPINCOUNT": "30000"}
    assert describe_waiting(environment) == {"waiting threads": "GOMP_SPINCOUNT=30000"}


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_has_chosen_stays(name: str) -> None:
    environment = {name: "7"}
    shorten_spinning(environment)
    assert environment == {name: "7"}
    assert describe_waiting(environment) == {"waiting threads": f"{name}=7"}


@pytest.mark.parametrize(
    ("given", "spun"), [({}, "30000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_the_command_says_it_before_torch_is_loaded(given: dict[str, str], spun: str) -> None:
    code = (
        "import os, sys, memaudit.cli.app as command\n"
        f"show = lambda: print(os.environ.get('{SPIN_VARIABLE}'), 'torch' in sys.modules)\n"
        "command.app = show\n"
        "command.main()"
    )
    environment = {key: value for key, value in os.environ.items() if key not in CHOICES} | given
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [spun, "False"]


def test_the_library_leaves_the_environment_alone() -> None:
    if SPIN_VARIABLE in os.environ:
        pytest.skip(f"{SPIN_VARIABLE} is set here")
    import memaudit.pipeline.scan  # noqa: F401

    assert SPIN_VARIABLE not in os.environ
