"""Work on untrusted input in a child process with limits on processor time and memory.

Knows processes and their limits. Knows nothing of checkpoints or texts.

A checkpoint's pattern, template or tokenizer can run for days, or use memory until the process is
killed from inside a library. In a child process neither harms the run. The child is forked, so it
costs milliseconds and starts with everything already loaded. If the system cannot fork safely
(Windows, macOS), the work is done in this process, without limits.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import psutil

T = TypeVar("T")

MEMORY_SHARE = 1 / 2
"""Share of the machine's memory that a child may use on top of what it starts with."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_THREADS = "TOKENIZERS_PARALLELISM"  # its threads do not survive a fork


class LimitReached(Exception):
    """The work reached a limit; the message says which, as the end of a sentence."""


def can_limit() -> bool:
    """Return True if work can be limited on this system."""
    return sys.platform == "linux"


def run_limited(work: Callable[[], T], cpu_seconds: int) -> T:
    """Do some work in a child process and return its result, which must be picklable.

    Files that the work writes remain; changes in memory are lost.

    Args:
        work: exceptions that it raises are raised here.
        cpu_seconds: processor time after which the child is killed; waiting does not count.

    Raises:
        LimitReached: the child exceeded its time or memory, or a library ended it.
    """
    if not can_limit():
        return work()
    is_result, value = pickle.loads(_answer_of(work, cpu_seconds))
    if not is_result:
        raise value
    return value  # type: ignore[no-any-return]


def try_limited(work: Callable[[], object], cpu_seconds: int) -> None:
    """Check that some work ends, in a child process; its result or exception is ignored.

    Does nothing if the system cannot limit the work. Raises as `run_limited` does.
    """
    if can_limit():
        _answer_of(work, cpu_seconds)


def _answer_of(work: Callable[[], object], cpu_seconds: int) -> bytes:
    """Return (True, result) or (False, exception) of the work, pickled."""
    reading, writing = os.pipe()
    # Until the child has its own handlers, a signal would make it exit as its parent does.
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        child = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        os.close(reading)
        os.close(writing)
        raise
    if child == 0:
        os.close(reading)
        _work_and_exit(work, cpu_seconds, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            # A pending signal is raised here, where the child gets killed.
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            answer = pipe.read()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or not answer:
        raise LimitReached(_describe_end(status, cpu_seconds))
    return answer


def _work_and_exit(work: Callable[[], object], cpu_seconds: int, writing: int) -> NoReturn:
    """Do the work in the child and send the outcome to the parent."""
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        # A library that aborts writes a trace, which may show its input.
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _set_limits(cpu_seconds)
        _use_one_thread()
        try:
            answer = pickle.dumps((True, work()))
        except MemoryError:
            answer = b""
        except Exception as error:
            error.__traceback__ = None
            answer = _pickled_error(error)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)  # exit handlers belong to the parent


def _pickled_error(error: Exception) -> bytes:
    error.__context__ = error.__cause__ = None  # may not be picklable
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError):
        answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return answer


def _set_limits(cpu_seconds: int) -> None:
    import resource

    spent = sum(os.times()[:2])
    seconds = int(spent) + cpu_seconds
    hard = _allowed(resource.RLIMIT_CPU, seconds + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (_allowed(resource.RLIMIT_CPU, seconds), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mapped = psutil.Process().memory_info().vms
    limit = _allowed(resource.RLIMIT_AS, mapped + _memory_share())
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _memory_share() -> int:
    return int(MEMORY_SHARE * psutil.virtual_memory().total)


def _allowed(number: int, wanted: int) -> int:
    """Return the wanted limit, or the one that this process already has if that is lower."""
    import resource

    own = [limit for limit in resource.getrlimit(number) if limit != resource.RLIM_INFINITY]
    return min([wanted, *own])


def _use_one_thread() -> None:
    """Use one thread: threads that libraries have started do not exist in a child."""
    os.environ[_THREADS] = "false"
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _describe_end(status: int, cpu_seconds: int) -> str:
    import resource

    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if number in (signal.SIGXCPU, signal.SIGKILL):
        seconds = _allowed(resource.RLIMIT_CPU, cpu_seconds)
        whose = " (ulimit -t)" if seconds < cpu_seconds else ""
        return f"took more than {seconds} s of processor time{whose}, or was killed"
    wanted = psutil.Process().memory_info().vms + _memory_share()
    limit = _allowed(resource.RLIMIT_AS, wanted)
    memory = f"{_memory_share() / 2**30:.0f} GiB of memory"
    if limit < wanted:
        memory = f"the {limit / 2**30:.1f} GiB of memory that ulimit -v leaves this process"
    if number is None:
        return f"took more than {memory}"
    return f"ended with {signal.Signals(number).name}, as if it took more than {memory}"
