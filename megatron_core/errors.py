"""What a user is told when something cannot be done."""

from __future__ import annotations


class ReforgeError(Exception):
    """A failure the user can act on: its message names what, where and what to do.

    The command line prints the message without a traceback and exits with ``exit_code``.
    """

    exit_code = 1


class ConfigError(ReforgeError):
    """The recipe or the command line is wrong; nothing was read or written."""

    exit_code = 2


class CorpusError(ReforgeError):
    """Documents, shards or tokens that are missing, empty or unreadable."""


class IntegrityError(ReforgeError):
    """Bytes on disk that are not the bytes that were recorded."""


class Interrupted(ReforgeError):
    """A signal asked for an end, and what was done is saved: the same command continues.

    The exit code is EX_TEMPFAIL of sysexits.h, by which a scheduler's script knows to requeue.
    """

    exit_code = 75


class NumericalError(ReforgeError):
    """A loss or a gradient that is not a number; all ranks come to it together."""


class PeerLostError(ReforgeError):
    """Another rank is gone; what made it go is what matters."""


class MissingExtraError(ReforgeError):
    """An optional dependency that the recipe needs is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: run `pip install 'reforge-llm[{extra}]'`")
