"""What an extension is. An installed package offers one under its type's name::

    [project.entry-points."koguma.extension"]
    my-type = "my_package:MyExtension"

The entry point is a class or a function that takes no arguments and gives an :class:`Extension`. It need not import
anything of Koguma. A MeshExternalService uses it by ``spec.extension: {type: my-type, config: ...}``.

What goes wrong in an extension stays there. Each type has a thread of its own, so that one that blocks keeps only its
own services waiting; one that raises is started again, later each time; and what it supplied last stays in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Endpoint = Mapping[str, Any]
"""As in ``spec.endpoints``: ``address``, ``port`` and, if there are several levels, ``priority``."""


class Publish(Protocol):
    def __call__(self, endpoints: Sequence[Endpoint], tls: Mapping[str, Any] | None = None) -> None:
        """Replace what the service has. ``tls`` is as ``spec.tls``; secrets may be named, as there. It is checked like
        a resource: what is wrong is refused as a whole, said, and what came before stays. Raises ``ValueError`` for
        what is not JSON, or too much of it.
        """


@dataclass(frozen=True, slots=True)
class Context:
    """What an extension is told of the service that it works for."""

    mesh: str
    service: str
    config: Any
    """``spec.extension.config``, after :meth:`Extension.validate` found nothing wrong with it."""
    publish: Publish
    nameservers: Callable[[], Sequence[tuple[str, int]]]
    """The DNS servers (IP address, port) that the proxy uses now."""


class Extension(Protocol):
    """One object serves all services of its type."""

    def validate(self, config: Any) -> Iterable[str]:
        """What is wrong with a config, a sentence for each fault. Must be quick (a second at most) and do no I/O."""

    async def watch(self, context: Context) -> None:
        """Publish the endpoints of one service each time that they change, until cancelled. Runs in the event loop of
        the extension's own thread, beside the watches of its other services.
        """


Factory = Callable[[], Extension]
