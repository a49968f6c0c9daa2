"""What Kuma's control plane writes into the status of a MeshExternalService: its virtual IP and its hostnames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import is_

from config.hostnames import Generation, Hostnames, age
from config.load import Document, Key
from config.problems import Problem, Severity
from config.resources.hostnamegenerator import HostnameGenerator
from config.resources.meta import Meta
from config.vips import Address, Claim, Ledger, Owner, usable_wish


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    vips: tuple[Address, ...] = ()
    """IPv4 before IPv6."""
    generations: tuple[Generation, ...] = ()

    @property
    def hostnames(self) -> list[str]:
        return [one.hostname for one in self.generations if one.hostname]

    def as_json(self) -> dict[str, object]:
        """As Kuma writes it; what is empty is left out. Kuma knows one IP: the first."""
        status: dict[str, object] = {}
        if self.vips:
            status["vip"] = {"ip": str(self.vips[0])}
        addresses = [one.address() for one in self.generations if one.hostname]
        if addresses:
            status["addresses"] = addresses
        if self.generations:
            status["hostnameGenerators"] = [one.status() for one in self.generations]
        return status


@dataclass(frozen=True, slots=True)
class Named:
    """The statuses by the keys of their services, and what could not be given, by the same keys."""

    statuses: Mapping[Key, ServiceStatus] = field(default_factory=dict)
    problems: Mapping[Key, list[Problem]] = field(default_factory=dict)


class Naming:
    """Names again and again: who has a virtual IP keeps it, and what did not change is not looked at twice."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._hostnames: Hostnames[Key] = Hostnames()
        self._claims: dict[Key, tuple[Document, Claim, str | None]] = {}
        self._statuses: dict[Key, ServiceStatus] = {}
        self._last: tuple[Sequence[HostnameGenerator], bool, Named] | None = None
        """What the last naming had, as far as it decides about the next, and what came of it: all went well."""

    def name(
        self,
        services: Mapping[Key, Document],
        generators: Sequence[HostnameGenerator],
        now: datetime,
        *,
        also_there: Sequence[Key] = (),
        others_are_gone: bool = True,
    ) -> Named:
        """``also_there``: services that exist and cannot run: they keep the virtual IPs that they have."""
        if self._last is not None and self._is_as_before(services, generators, also_there, others_are_gone):
            return self._last[2]
        claims = self._claims = {key: self._claim(key, document) for key, document in services.items()}
        waiting = [owner_of(key) for key in also_there if key not in services]
        assigned = self.ledger.assign(
            [claim for _, claim, _ in claims.values()],
            now.timestamp(),
            also_there=waiting,
            others_are_gone=others_are_gone,
        )
        metas = {key: document.meta for key, document in services.items()}
        generations = self._hostnames.generate(generators, metas)
        problems: dict[Key, list[Problem]] = {}
        statuses: dict[Key, ServiceStatus] = {}
        for key, (document, claim, complaint) in claims.items():
            vips, generated = assigned.addresses[claim.owner], generations[key]
            known = self._statuses.get(key)
            if known is None or known.vips is not vips or known.generations is not generated:
                known = ServiceStatus(vips, generated)
            statuses[key] = known
            if complaint is not None:
                problems[key] = [document.problem("status.vip.ip", complaint, Severity.WARNING)]
            for fault in assigned.faults.get(claim.owner, ()):
                severity = Severity.ERROR if fault.is_error else Severity.WARNING
                problems.setdefault(key, []).append(document.problem(fault.field, fault.message, severity))
        self._statuses = statuses
        named = Named(statuses, problems)
        self._last = None if problems or waiting else (generators, others_are_gone, named)
        return named

    def _is_as_before(
        self,
        services: Mapping[Key, Document],
        generators: Sequence[HostnameGenerator],
        also_there: Sequence[Key],
        others_are_gone: bool,
    ) -> bool:
        """Whether the same services, of which all are as they were in what they are named by, are named by the same
        generators. Nobody waits for an address then, so time changes nothing either.
        """
        assert self._last is not None
        known = self._claims
        return (
            self._last[1] is others_are_gone
            and len(self._last[0]) == len(generators)
            and all(map(is_, self._last[0], generators))
            and known.keys() == services.keys()
            and all(key in services for key in also_there)
            and all(
                document.meta == known[key][0].meta
                for key, document in services.items()
                if known[key][0] is not document
            )
        )

    def _claim(self, key: Key, document: Document) -> tuple[Document, Claim, str | None]:
        """The claim of a service, and what is wrong with the wish in it."""
        known = self._claims.get(key)
        if known is not None and known[0] is document:
            return known
        meta = document.meta
        wanted, complaint = _wish(meta)
        return document, Claim(owner_of(key), age(meta.creation_time), wanted), complaint


def owner_of(key: Key) -> Owner:
    _, mesh, name, namespace = key
    return Owner(mesh, name, namespace)


def _wish(meta: Meta) -> tuple[Address | None, str | None]:
    vip = meta.status.get("vip")
    text = vip.get("ip") if isinstance(vip, dict) else None
    if text is None or text == "":
        return None, None
    try:
        wanted = usable_wish(text)
    except ValueError:
        return None, "must be an IP address: another one is used"
    return wanted, None if wanted is not None else "no connection can be made to this address: another one is used"
