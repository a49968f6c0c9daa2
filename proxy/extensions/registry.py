"""Which extensions are installed, and whether a config suits one.

Code of others runs here, so it runs in a thread that may be left behind: an import or a ``validate`` that takes longer
than ``ANSWER_S`` counts as broken, and its type is not asked again until it has come back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from itertools import islice
from threading import Lock, Thread
from typing import Any

from config.extension import NOTHING, Supplied
from config.load import Key
from proxy.extensions.api import Extension, Factory

log = logging.getLogger("koguma.extensions")

GROUP = "koguma.extension"
SHIPPED = {"srv": ("proxy.extensions.srv", "SrvDiscovery"), "http": ("proxy.extensions.http", "HttpDiscovery")}
ANSWER_S = 1.0
"""How long an import, or a judgement of a config, may take."""
MAX_JUDGED = 4096
"""Configs of one type whose judgement is remembered."""
MAX_FAULTS_SHOWN = 20


class Registry:
    """Loads what is used, once. Its methods may be called from any thread, and take ``ANSWER_S`` at most."""

    def __init__(self, more: Mapping[str, Factory] | None = None) -> None:
        """``more``: by type, besides those that are shipped and installed."""
        self._factories: dict[str, Factory] = dict(more or {})
        self._types: dict[str, _Type] = {}
        self._lock = Lock()

    def check(self, type: str, config: Any) -> Sequence[str] | None:
        """What is wrong with a config; ``None``: there is no such extension."""
        found = self._type(type)
        return found.judge(config) if found is not None else None

    def extension(self, type: str, config: Any) -> Extension | None:
        """The extension, if this config of it was found good. Asks nobody."""
        found = self._types.get(type)
        return found.extension if found is not None and found.is_good(config) else None

    def _type(self, name: str) -> _Type | None:
        with self._lock:
            known = self._types.get(name)
            if known is None:
                factory = self._factory(name)
                if factory is None:
                    return None
                known = self._types[name] = _Type(name, factory)
            return known

    def _factory(self, name: str) -> Factory | None:
        if name in self._factories:
            return self._factories[name]
        if name in SHIPPED:
            module, attribute = SHIPPED[name]
            return lambda: _made(getattr(import_module(module), attribute))
        installed = sorted(entry_points(group=GROUP, name=name), key=lambda point: point.value)
        if len(installed) > 1:
            names = ", ".join(point.value for point in installed)
            log.warning("extension %s is installed more than once (%s): the first is used", name, names)
        return (lambda: _made(installed[0].load())) if installed else None


def _made(factory: Factory) -> Extension:
    return factory()


class InstalledExtensions:
    """For whoever plans and runs nothing: configs are checked, and nothing is ever supplied."""

    def __init__(self) -> None:
        self._registry = Registry()

    def check(self, type: str, config: Any) -> Sequence[str] | None:
        return self._registry.check(type, config)

    def supplied(self, key: Key) -> Supplied:
        return NOTHING


class _Type:
    """One extension, and what was asked of it."""

    def __init__(self, name: str, factory: Factory) -> None:
        self.name = name
        self.extension: Extension | None = None
        self._factory = factory
        self._judged: dict[str, tuple[str, ...]] = {}
        self._asking: Thread | None = None

    def is_good(self, config: Any) -> bool:
        return self._judged.get(json.dumps(config, sort_keys=True)) == ()

    def judge(self, config: Any) -> tuple[str, ...]:
        text = json.dumps(config, sort_keys=True)
        known = self._judged.get(text)
        if known is not None:
            return known
        if self._asking is not None and self._asking.is_alive():
            return (f"extension {self.name} still has not answered an earlier question",)
        answer: list[tuple[str, ...]] = []
        thread = self._asking = Thread(
            target=lambda: answer.append(_guarded(lambda: self._ask(json.loads(text)))),
            name=f"extension {self.name}: validate",
            daemon=True,
        )
        thread.start()
        thread.join(ANSWER_S)
        if not answer:
            return (f"extension {self.name} did not answer within {ANSWER_S:g} s",)
        if len(self._judged) >= MAX_JUDGED:
            self._judged.clear()
        self._judged[text] = answer[0]
        return answer[0]

    def _ask(self, config: Any) -> tuple[str, ...]:
        if self.extension is None:
            self.extension = self._factory()
        return tuple(str(fault) for fault in islice(self.extension.validate(config), MAX_FAULTS_SHOWN))


def _guarded(ask: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return ask()
    except BaseException as exc:  # whatever others' code raises, SystemExit included, is its own fault
        return (f"the extension is broken: {type(exc).__name__}: {exc}",)
