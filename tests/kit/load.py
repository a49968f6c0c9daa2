"""Clients that never pause, while something happens to the proxy."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class Load(ABC):
    """Threads that work from the beginning of a ``with`` to its end."""

    def __init__(self, clients: int) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(clients)]

    @abstractmethod
    def _work(self) -> None:
        """What each does, until :attr:`is_over`."""

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)
