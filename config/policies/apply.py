"""What the terms of a service change in its plan. What it takes to read policies (:mod:`config.policies.fields`, and
with it the models of all their kinds, 1 MiB) is loaded with the first policy that concerns a service.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from config.plan import ClusterPlan
from config.policies.selection import Terms

if TYPE_CHECKING:
    from config.resources.meshtimeout import TimeoutConf


def on_terms(cluster: ClusterPlan, terms: Terms) -> ClusterPlan:
    """The plan of a service as policies want it; the same object where there are none."""
    if not terms.confs:
        return cluster
    fields = terms.fields.get(cluster.protocol)
    if fields is None:
        from config.policies.fields import fields_of

        fields = terms.fields[cluster.protocol] = fields_of(terms, cluster.protocol)
    return replace(cluster, **fields) if fields else cluster


def request_headers_timeout_s(terms: Terms) -> float | None:
    """For the listener in front of the service; ``None`` where no policy says. Kuma would lift the limit then."""
    conf = cast("TimeoutConf | None", terms.confs.get("MeshTimeout"))
    http = conf.http if conf is not None else None
    return http.request_headers_timeout if http is not None else None
