"""Signals are noted, not obeyed; the handlers before come back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from megatron_core.errors import Interrupted, PeerLostError
from megatron_core.parallel.interrupts import SIGNALS, Interrupts


@pytest.fixture(autouse=True)
def harmless() -> Iterator[None]:
    """A signal that is not caught fails the test instead of ending the tests."""

    def not_caught(number: int, frame: object) -> None:
        raise AssertionError(f"signal {number} was not caught")

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, not_caught) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.requested
        os.kill(os.getpid(), number)
        assert interrupts.requested
        assert interrupts.received == number
    assert interrupts.requested  # it may be asked later
    assert signal.getsignal(number) is before
    with pytest.raises(AssertionError, match="was not caught"):
        os.kill(os.getpid(), number)


def test_signals_are_handed_on() -> None:
    handed: list[signal.Signals] = []
    with Interrupts(forward=handed.append):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert handed == [signal.SIGTERM, signal.SIGUSR1]


def test_an_inner_block_gives_back_to_the_outer_one() -> None:
    with Interrupts() as outer:
        with Interrupts() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert (inner.requested, outer.requested) == (True, False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.requested


def test_handlers_are_put_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Interrupted) as raised, Interrupts():
        raise Interrupted("step 3 is saved")
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert raised.value.exit_code == os.EX_TEMPFAIL


def test_a_signal_is_obeyed_when_another_rank_is_gone() -> None:
    with pytest.raises(AssertionError, match="signal 15 was not caught"), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        raise PeerLostError("rank 1 stops: another rank is gone")
    with pytest.raises(PeerLostError), Interrupts():
        raise PeerLostError("and no signal came")


def test_outside_the_main_thread_nothing_is_requested() -> None:
    found: list[bool] = []

    def work() -> None:
        with Interrupts() as interrupts:
            found.append(interrupts.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
