"""A process that reaches nothing but this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


class ReachedOutError(Exception):
    """Something asked for another machine."""


@contextmanager
def nothing_but_local() -> Iterator[list[Any]]:
    """Refuse every look-up of a name and every connection to another machine.

    Yields what was asked for, since a library may swallow the refusal.
    """
    asked: list[Any] = []

    def refuse(host: object) -> None:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name and not name.startswith((*_LOCAL, socket.gethostname())):
            asked.append(name)
            raise ReachedOutError(name)

    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse(address[0])
        connect(self, address)

    def guarded_look_up(host: Any, *rest: Any, **named: Any) -> Any:
        refuse(host)
        return look_up(host, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield asked
