from __future__ import annotations

from memaudit.attack.memory import FIRST_PATIENCE, Backoff


def passes_until_doubled(backoff: Backoff) -> int:
    return next(number for number in range(1, 1000) if backoff.passed())


def test_sizes_are_halved_and_doubled_again() -> None:
    backoff = Backoff()
    assert backoff.fits(12) == 12
    assert not any(backoff.passed() for _ in range(100))
    for expected in (6, 3, 1, 1):
        backoff.shrink()
        assert backoff.fits(12) == expected
    for expected in (1, 3, 6, 12):
        passes_until_doubled(backoff)
        assert backoff.fits(12) == expected


def test_doubling_too_early_makes_it_wait_longer() -> None:
    backoff = Backoff()
    waited = []
    for _ in range(3):
        backoff.shrink()
        waited.append(passes_until_doubled(backoff))
    assert waited == [FIRST_PATIENCE, 2 * FIRST_PATIENCE, 4 * FIRST_PATIENCE]
    backoff.shrink()
    backoff.shrink()  # at once, so the first was not doubled too early but halved too little
    assert passes_until_doubled(backoff) == 8 * FIRST_PATIENCE
