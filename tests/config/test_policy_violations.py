"""Every violation that a policy can have, with Kuma's field and text, on its line; and what is only a warning.

A case is one document. ``#!`` marks the line that the violation must name.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from config.load import load_resources
from config.problems import Problem, Severity
from config.resources.meshcircuitbreaker import DETECTORS
from config.resources.meshloadbalancingstrategy import MAX_MAGLEV_TABLE_SIZE, MAX_RING_SIZE

ZERO = "must be greater than zero when defined"
NEGATIVE = "must not be negative when defined"
EMPTY = "must not be empty"
DEFINED = "must be defined"
PERCENT = "must be in inclusive range [0, 100]"
NOTHING = "has no effect in this version"
ANY_TIMEOUT = "at least one timeout should be configured"
MES_LABELS = "must be set when kind is MeshExternalService"
BAD_NAME = "invalid characters: must consist of lower case alphanumeric characters, '-', '.' and '_'."


def policy(kind: str, *lines: str) -> str:
    return "\n".join([f"type: {kind}", "name: p", "spec:", *(f"  {line}" for line in lines)])


def to(kind: str, *lines: str, target: str = "{kind: Mesh}") -> str:
    """A policy with one entry in ``to``, of which ``lines`` are the default."""
    return policy(kind, "to:", f"- targetRef: {target}", "  default:", *(f"    {line}" for line in lines))


def timeout(*lines: str, target: str = "{kind: Mesh}") -> str:
    return to("MeshTimeout", *lines, target=target)


def top(target: str) -> str:
    """A policy with the ``targetRef`` on the marked line."""
    return policy(
        "MeshTimeout",
        f"targetRef: {target} #!",
        "to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 1s}}]",
    )


def aimed(target: str, kind: str = "MeshTimeout", conf: str = "{connectionTimeout: 1s}") -> str:
    """A policy with the ``targetRef`` of its entry on the marked line."""
    return policy(kind, "to:", "- default: " + conf, f"  targetRef: {target} #!")


def breaker(*lines: str) -> str:
    return to("MeshCircuitBreaker", *lines)


def outlier(line: str) -> str:
    return breaker("outlierDetection:", "  detectors: {totalFailures: {}}", f"  {line}")


def detector(line: str) -> str:
    return breaker("outlierDetection:", "  detectors:", f"    {line} #!")


def retry(*lines: str) -> str:
    return to("MeshRetry", *lines)


def balancing(*lines: str, target: str = "{kind: Mesh}") -> str:
    return to("MeshLoadBalancingStrategy", *lines, target=target)


D = "spec.to[0].default"
R = f"{D}.conf"
O = f"{D}.outlierDetection"  # noqa: E741

ERRORS = [
    # targetRef
    (top("{kind: ''}"), "spec.targetRef.kind", DEFINED),
    (top("{}"), "spec.targetRef.kind", DEFINED),
    (top("{kind: MeshMultiZoneService}"), "spec.targetRef.kind", "value 'MeshMultiZoneService' is not supported"),
    (top("{kind: Nonsense}"), "spec.targetRef.kind", "value 'Nonsense' is not supported"),
    (top("{kind: Mesh, name: a}"), "spec.targetRef.name", "using name with kind Mesh is not yet supported"),
    (top("{kind: Mesh, tags: {a: b}}"), "spec.targetRef.tags", "must not be set with kind Mesh"),
    (top("{kind: Mesh, labels: {a: b}}"), "spec.targetRef.labels", "must not be set with kind Mesh"),
    (top("{kind: Mesh, namespace: a}"), "spec.targetRef.namespace", "must not be set with kind Mesh"),
    (top("{kind: Mesh, sectionName: a}"), "spec.targetRef.sectionName", "must not be set with kind Mesh"),
    (top("{kind: Mesh, mesh: a}"), "spec.targetRef.mesh", "must not be set with kind Mesh"),
    (top("{kind: Mesh, proxyTypes: [Car]}"), "spec.targetRef.proxyTypes[0]",
     "in body should be one of [Sidecar Gateway]"),
    (top("{kind: Mesh, kinds: a}"), "spec.targetRef.kinds", 'unknown field; did you mean "kind"?'),
    (top("{kind: Mesh, tags: null}"), "spec.targetRef.tags", 'in body must be of type object: "null"'),
    (top("{kind: Dataplane, sectionName: a}"), "spec.targetRef.sectionName",
     "can only be used with inbound policies"),
    (top("{kind: Dataplane, name: a, labels: {a: b}}"), "spec.targetRef.labels",
     "either labels or name and namespace must be specified"),
    (top("{kind: Dataplane, tags: {a: b}}"), "spec.targetRef.tags", "must not be set with kind Dataplane"),
    (top("{kind: Dataplane, name: A}"), "spec.targetRef.name", BAD_NAME),
    (top("{kind: MeshSubset, name: a}"), "spec.targetRef.name", "must not be set with kind MeshSubset"),
    (top("{kind: MeshSubset, tags: {a: ''}}"), "spec.targetRef.tags.a", "tag value must be non-empty"),
    (top("{kind: MeshSubset, tags: {'': a}}"), "spec.targetRef.tags", "tag name must be non-empty"),
    (top("{kind: MeshServiceSubset}"), "spec.targetRef.name", "must be set with kind MeshServiceSubset"),
    (aimed("{kind: MeshSubset}"), "spec.to[0].targetRef.kind", "value 'MeshSubset' is not supported"),
    (aimed("{kind: Dataplane}"), "spec.to[0].targetRef.kind", "value 'Dataplane' is not supported"),
    (aimed("{kind: MeshExternalService}"), "spec.to[0].targetRef.labels", MES_LABELS),
    (aimed("{kind: MeshExternalService, name: a, labels: {a: b}}"), "spec.to[0].targetRef.labels",
     "either labels or name must be specified"),
    (aimed("{kind: MeshExternalService, name: a, sectionName: b}"), "spec.to[0].targetRef.sectionName",
     "must not be set with kind MeshExternalService"),
    (aimed("{kind: MeshExternalService, name: a, tags: {a: b}}"), "spec.to[0].targetRef.tags",
     "must not be set with kind MeshExternalService"),
    (aimed("{kind: MeshHTTPRoute, name: a}", "MeshCircuitBreaker", "{connectionLimits: {}}"),
     "spec.to[0].targetRef.kind", "value 'MeshHTTPRoute' is not supported"),
    (policy("MeshTimeout", "to:", "- default: {connectionTimeout: 1s} #!"), "spec.to[0].targetRef",
     "in body is required"),
    # MeshTimeout
    (policy("MeshTimeout", "targetRef: {kind: Mesh}").replace("spec:", "spec: #!"), "spec",
     "at least one of 'to' or 'rules' has to be defined"),
    (timeout("connectionTimeout: 0s #!"), f"{D}.connectionTimeout", ZERO),
    (timeout("connectionTimeout: -1s #!"), f"{D}.connectionTimeout", ZERO),
    (timeout("idleTimeout: -1s #!"), f"{D}.idleTimeout", NEGATIVE),
    (timeout("idleTimeout: 5 #!"), f"{D}.idleTimeout", 'in body must be of type string: "integer"'),
    (timeout("idleTimeout: '5' #!"), f"{D}.idleTimeout", 'time: missing unit in duration "5"'),
    (timeout("idleTimeout: 5d #!"), f"{D}.idleTimeout", 'time: unknown unit "d" in duration "5d"'),
    (timeout("idleTimout: 5s #!", "connectionTimeout: 1s"), f"{D}.idleTimout",
     'unknown field; did you mean "idleTimeout"?'),
    (timeout("{} #!").replace("default:\n", "default: #!\n").replace("{} #!", "{}"), D, ANY_TIMEOUT),
    (policy("MeshTimeout", "to:", "- targetRef: {kind: Mesh} #!"), D, ANY_TIMEOUT),
    (timeout("http: {} #!"), f"{D}.http", "at least one timeout in this section should be configured"),
    (timeout("http: {requestTimeout: -1s} #!"), f"{D}.http.requestTimeout", NEGATIVE),
    (timeout("http: {streamIdleTimeout: -1s} #!"), f"{D}.http.streamIdleTimeout", NEGATIVE),
    (timeout("http: {maxStreamDuration: -1s} #!"), f"{D}.http.maxStreamDuration", NEGATIVE),
    (timeout("http: {maxConnectionDuration: -1s} #!"), f"{D}.http.maxConnectionDuration", NEGATIVE),
    (timeout("http: {requestTimeout: 1s, requestHeadersTimeout: -1s} #!"), f"{D}.http.requestHeadersTimeout",
     NEGATIVE),
    (policy("MeshTimeout", "rules:", "- default: {} #!"), "spec.rules[0].default", ANY_TIMEOUT),
    (policy("MeshTimeout", "rules:", "- matches: [{}] #!", "  default: {idleTimeout: 1s}"), "spec.rules[0].matches[0]",
     "must specify at least one of 'spiffeID' or 'sni'"),
    (policy("MeshTimeout", "rules:", "- matches: [{spiffeID: {value: a}}] #!", "  default: {idleTimeout: 1s}"),
     "spec.rules[0].matches[0].spiffeID.type", "must be set"),
    (policy("MeshTimeout", "rules:", "- matches: [{spiffeID: {type: Regex}}] #!", "  default: {idleTimeout: 1s}"),
     "spec.rules[0].matches[0].spiffeID.type", 'unrecognized type "Regex", supported values are: Exact, Prefix'),
    (policy("MeshTimeout", "from:", "- targetRef: {kind: MeshService, name: a} #!", "  default: {idleTimeout: 1s}"),
     "spec.from[0].targetRef.kind", "value 'MeshService' is not supported"),
    (policy("MeshTimeout", "from:", "- targetRef: {kind: Mesh}", "  default: {connectionTimeout: 0s} #!"),
     "spec.from[0].default.connectionTimeout", ZERO),
    (policy("MeshTimeout", "rules: [{default: {idleTimeout: 1s}}]",
            "to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]").replace("spec:", "spec: #!"),
     "spec", "fields 'to' must be empty when 'rules' is defined"),
    (policy("MeshTimeout", "rules: [{default: {idleTimeout: 1s}}]",
            "from: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]").replace("spec:", "spec: #!"),
     "spec", "fields 'to' and 'from' must be empty when 'rules' is defined"),
    # MeshCircuitBreaker
    (policy("MeshCircuitBreaker", "targetRef: {kind: Mesh}").replace("spec:", "spec: #!"), "spec",
     "at least one of 'to' or 'rules' has to be defined"),
    (policy("MeshCircuitBreaker", "to:", "- targetRef: {kind: Mesh}", "  default: {} #!"), D,
     "at least one of: 'connectionLimits' or 'outlierDetection' should be configured"),
    *((breaker("connectionLimits:", f"  {name}: {value} #!"), f"{D}.connectionLimits.{name}", ZERO)
      for name in ("maxConnections", "maxConnectionPools", "maxPendingRequests", "maxRequests", "maxRetries")
      for value in (0, -1)),
    (breaker("connectionLimits: {maxRequests: many} #!"), f"{D}.connectionLimits.maxRequests",
     'in body must be of type integer: "string"'),
    (breaker("outlierDetection: {disabled: true} #!"), f"{O}.detectors", DEFINED),
    (breaker("outlierDetection: {detectors: {}} #!"), f"{O}.detectors",
     f"must have at least one defined: {', '.join(DETECTORS)}"),
    (outlier("interval: 0s #!"), f"{O}.interval", ZERO),
    (outlier("baseEjectionTime: -1s #!"), f"{O}.baseEjectionTime", ZERO),
    (outlier("maxEjectionPercent: 101 #!"), f"{O}.maxEjectionPercent", PERCENT),
    (outlier("maxEjectionPercent: -1 #!"), f"{O}.maxEjectionPercent", PERCENT),
    (outlier("healthyPanicThreshold: 101 #!"), f"{O}.healthyPanicThreshold",
     "must be in inclusive range [0.0, 100.0]"),
    *((detector(f"{name}: {{consecutive: 0}}"), f"{O}.detectors.{name}.consecutive", ZERO)
      for name in ("totalFailures", "gatewayFailures", "localOriginFailures")),
    *((detector(f"{name}: {{{field}: 0}}"), f"{O}.detectors.{name}.{field}", ZERO)
      for name in ("successRate", "failurePercentage") for field in ("minimumHosts", "requestVolume")),
    (detector("failurePercentage: {threshold: 101}"), f"{O}.detectors.failurePercentage.threshold", PERCENT),
    (detector("successRate: {standardDeviationFactor: '0'}"), f"{O}.detectors.successRate.standardDeviationFactor",
     "must be greater than 0"),
    *((detector(f"successRate: {{standardDeviationFactor: {value}}}"),
       f"{O}.detectors.successRate.standardDeviationFactor", "invalid number") for value in ("xyz", "'nan'", "''")),
    (detector("successRate: {standardDeviationFactor: true}"), f"{O}.detectors.successRate.standardDeviationFactor",
     'in body must be of type string: "boolean"'),
    (policy("MeshCircuitBreaker", "rules:", "- default: {connectionLimits: {maxRequests: 0}} #!"),
     "spec.from[0].default.connectionLimits.maxRequests", ZERO),
    # MeshRetry
    (policy("MeshRetry", "targetRef: {kind: Mesh}").replace("spec:", "spec: #!"), "spec.to",
     "needs at least one item"),
    (policy("MeshRetry", "to:", "- targetRef: {kind: Mesh}", "  default: {} #!"), R,
     "at least one of the 'tcp', 'http', 'grpc' must be specified"),
    (retry("tcp: {} #!"), f"{R}.tcp", EMPTY),
    (retry("tcp: {maxConnectAttempt: 0} #!"), f"{R}.tcp.maxConnectAttempt", "must be greater than 0"),
    (retry("http: {} #!"), f"{R}.http", EMPTY),
    (retry("grpc: {} #!"), f"{R}.grpc", EMPTY),
    (retry("http: {backOff: {}} #!"), f"{R}.http.backOff", EMPTY),
    (retry("grpc: {backOff: {}} #!"), f"{R}.grpc.backOff", EMPTY),
    (retry("http: {backOff: {baseInterval: 0s}} #!"), f"{R}.http.backOff.baseInterval", ZERO),
    (retry("http: {backOff: {maxInterval: -1s}} #!"), f"{R}.http.backOff.maxInterval", ZERO),
    (retry("http: {perTryTimeout: -1s} #!"), f"{R}.http.perTryTimeout", NEGATIVE),
    (retry("http: {numRetries: -1} #!"), f"{D}.http.numRetries", "in body should be greater than or equal to 0"),
    (retry("http:", "  retryOn:", "  - GatewayError", "  - 5XX #!"), f"{R}.http.retryOn[1]", "unknown item '5XX'"),
    (retry("http: {retryOn: ['999']} #!"), f"{R}.http.retryOn[0]", "unknown item '999'"),
    (retry("http: {retryOn: [Canceled]} #!"), f"{R}.http.retryOn[0]", "unknown item 'Canceled'"),
    (retry("grpc: {retryOn: [GatewayError]} #!"), f"{R}.grpc.retryOn[0]", "unknown item 'GatewayError'"),
    (retry("http: {rateLimitedBackOff: {}} #!"), f"{R}.http.rateLimitedBackOff.resetHeaders", DEFINED),
    (retry("http: {rateLimitedBackOff: {resetHeaders: [], maxInterval: 0s}} #!"),
     f"{R}.http.rateLimitedBackOff.maxInterval", "must be defined and greater than zero"),
    (retry("http: {hostSelection: [{predicate: x}]} #!"), f"{R}.http.hostSelection[0].predicate",
     "unknown predicate type 'x'"),
    (retry("http: {hostSelection: [{predicate: OmitHostsWithTags}]} #!"), f"{R}.http.hostSelection[0].tags", DEFINED),
    (retry("http: {hostSelection: [{predicate: OmitPreviousPriorities, updateFrequency: 0}]} #!"),
     f"{R}.http.hostSelection[0].updateFrequency", "must be defined and greater than zero"),
    (retry("http:", "  hostSelection:", "  - predicate: OmitPreviousPriorities",
           "  - predicate: OmitPreviousPriorities #!"), f"{R}.http.hostSelection[1].predicate",
     "OmitPreviousPriorities must only be specified once"),
    # MeshLoadBalancingStrategy
    (balancing("loadBalancer: {type: Fair} #!"), f"{D}.loadBalancer.type",
     "in body should be one of [RoundRobin LeastRequest RingHash Random Maglev]"),
    (balancing("loadBalancer: {} #!"), f"{D}.loadBalancer.type", "in body is required"),
    (balancing("loadBalancer: {type: RoundRobin, leastRequest: {choiceCount: 1}} #!"),
     f"{D}.loadBalancer.leastRequest.choiceCount", "in body should be greater than or equal to 2"),
    (balancing("loadBalancer: {type: RoundRobin, leastRequest: {activeRequestBias: -1}} #!"),
     f"{D}.loadBalancer.leastRequest.activeRequestBias", "must be greater or equal then: 0"),
    (balancing("loadBalancer: {type: RoundRobin, ringHash: {minRingSize: 0}} #!"),
     f"{D}.loadBalancer.ringHash.minRingSize", "in body should be greater than or equal to 1"),
    (balancing(f"loadBalancer: {{type: RoundRobin, ringHash: {{maxRingSize: {MAX_RING_SIZE + 1}}}}} #!"),
     f"{D}.loadBalancer.ringHash.maxRingSize", f"in body should be less than or equal to {MAX_RING_SIZE}"),
    (balancing(f"loadBalancer: {{type: RoundRobin, maglev: {{tableSize: {MAX_MAGLEV_TABLE_SIZE + 1}}}}} #!"),
     f"{D}.loadBalancer.maglev.tableSize", f"in body should be less than or equal to {MAX_MAGLEV_TABLE_SIZE}"),
    *((balancing(f"loadBalancer: {{type: Maglev, maglev: {{tableSize: {size}}}}} #!"),
       f"{D}.loadBalancer.maglev.tableSize", "must be a prime number") for size in (1, 4, 65536, 65533)),
    *((balancing(f"hashPolicies: [{{type: {kind}}}] #!"), f"{D}.hashPolicies[0].{field}", DEFINED)
      for kind, field in (("Header", "header"), ("Cookie", "cookie"), ("Connection", "connection"),
                          ("QueryParameter", "queryParameter"), ("FilterState", "filterState"))),
    (balancing("hashPolicies: [{type: Weather}] #!"), f"{D}.hashPolicies[0].type", "unrecognized type"),
    (balancing("hashPolicies: [{type: Cookie, cookie: {name: a, path: b}}] #!"), f"{D}.hashPolicies[0].cookie.path",
     "must be an absolute path"),
    (balancing("hashPolicies: [{type: Header, header: {name: ''}}] #!"), f"{D}.hashPolicies[0].header.name",
     "in body should be at least 1 chars long"),
    (balancing("loadBalancer: {type: RoundRobin, ringHash: {hashPolicies: [{type: Header}]}} #!"),
     f"{D}.loadBalancer.ringHash.hashPolicies[0].header", DEFINED),
    (balancing("localityAwareness: {localZone: {affinityTags: [{key: ''}]}} #!"),
     f"{D}.localityAwareness.localZone.affinityTags[0].key", EMPTY),
    (balancing("localityAwareness: {localZone: {affinityTags: [{key: a, weight: 0}]}} #!"),
     f"{D}.localityAwareness.localZone.affinityTags[0].weight", ZERO),
    (balancing("localityAwareness: {localZone: {affinityTags: [{key: a, weight: 1}, {key: b}]}} #!"),
     f"{D}.localityAwareness.localZone.affinityTags", "all or none affinity tags should have weight"),
    *((balancing(f"{name}: {value} #!", "hashPolicies: []", target="{kind: MeshHTTPRoute, name: a}"), f"{D}.{name}",
       "field is not allowed when targetRef.kind is MeshHTTPRoute, only hashPolicies is supported")
      for name, value in (("loadBalancer", "{type: RoundRobin}"), ("localityAwareness", "{disabled: true}"))),
]  # fmt: skip

SHADOW = "type: MeshTimeout\nname: p\nlabels: {kuma.io/effect: shadow}\n"

WARNINGS = [
    (top("{kind: MeshGateway, name: a}"), "spec.targetRef.kind",
     f"MeshGateway is not served by this version: the policy {NOTHING}"),
    (top("{kind: MeshHTTPRoute, name: a}"), "spec.targetRef.kind",
     f"MeshHTTPRoute is not served by this version: the policy {NOTHING}"),
    (aimed("{kind: MeshService, name: a}"), "spec.to[0].targetRef.kind",
     f"MeshService is not served by this version: the entry {NOTHING}"),
    (SHADOW + "spec: #!\n  to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]", "spec",
     "a shadow policy is not applied"),
    (policy("MeshTimeout", "rules: #!", "- default: {idleTimeout: 1s}"), "spec.rules", NOTHING),
    (policy("MeshTimeout", "from: #!", "- targetRef: {kind: Mesh}", "  default: {idleTimeout: 1s}"), "spec.from",
     NOTHING),
    (balancing("loadBalancer: {type: RingHash, ringHash: {hashFunction: MurmurHash2}} #!"),
     f"{D}.loadBalancer.ringHash.hashFunction", NOTHING),
    (balancing("hashPolicies: [{type: FilterState, filterState: {key: k}}] #!"), f"{D}.hashPolicies[0].type",
     f"FilterState {NOTHING}"),
    (retry("http: {hostSelection: [{predicate: OmitPreviousHosts}]} #!"), f"{D}.http.hostSelection", NOTHING),
    (retry("http: {retriableRequestHeaders: [{name: x-a}]} #!"), f"{D}.http.retriableRequestHeaders", NOTHING),
    (breaker("outlierDetection: {detectors: {totalFailures: {}}, interval: 1s} #!"), f"{D}.outlierDetection.interval",
     NOTHING),
    (breaker("outlierDetection: {detectors: {successRate: {}}} #!"), f"{D}.outlierDetection.detectors.successRate",
     NOTHING),
    (balancing("localityAwareness: {disabled: true} #!"), f"{D}.localityAwareness", NOTHING),
    (breaker("connectionLimits: {maxConnectionPools: 1} #!"), f"{D}.connectionLimits.maxConnectionPools", NOTHING),
]  # fmt: skip

VALID = [
    timeout("connectionTimeout: 5s", "idleTimeout: 0s"),
    timeout("idleTimeout: 1h", target="{kind: MeshExternalService, name: a}"),
    timeout("idleTimeout: 1h", target="{kind: MeshExternalService, labels: {kuma.io/display-name: a}}"),
    breaker("connectionLimits: {maxConnections: 1, maxPendingRequests: 4294967295}"),
    retry("tcp: {maxConnectAttempt: 1}"),
    retry("http: {numRetries: 1, perTryTimeout: 1s, retryOn: [5xx]}"),
    breaker("connectionLimits: {maxRetries: 1}", "outlierDetection: {detectors: {totalFailures: {}}}"),
    timeout("http: {maxStreamDuration: 1s, maxConnectionDuration: 1s}"),
    balancing("loadBalancer: {type: Maglev, maglev: {tableSize: 65537}}", "hashPolicies: [{type: SourceIP}]"),
    balancing("loadBalancer: {type: RoundRobin}"),
    balancing("{}"),
    policy("MeshTimeout", "targetRef: {kind: Dataplane, name: a, namespace: b}",
           "to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]"),
    policy("MeshTimeout", "targetRef: {kind: MeshSubset, tags: {kuma.io/service: '*'}, proxyTypes: [Sidecar]}",
           "to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]"),
]  # fmt: skip


def load(tmp_path: Path, text: str) -> list[Problem]:
    (tmp_path / "it.yaml").write_text(text)
    return load_resources([tmp_path]).all_problems


@pytest.mark.parametrize(("text", "field", "message"), ERRORS, ids=[f"{e[1]}-{n}" for n, e in enumerate(ERRORS)])
def test_one_error(tmp_path: Path, text: str, field: str, message: str) -> None:
    (line,) = (number for number, row in enumerate(text.split("\n"), 1) if "#!" in row)
    found = [problem for problem in load(tmp_path, text) if problem.is_error]
    assert [(p.line, p.field, p.message) for p in found] == [(line, field, message)]


@pytest.mark.parametrize(("text", "field", "message"), WARNINGS, ids=[f"{w[1]}-{n}" for n, w in enumerate(WARNINGS)])
def test_one_warning(tmp_path: Path, text: str, field: str, message: str) -> None:
    (line,) = (number for number, row in enumerate(text.split("\n"), 1) if "#!" in row)
    found = load(tmp_path, text)
    assert [(p.line, p.field, p.message, p.severity) for p in found] == [(line, field, message, Severity.WARNING)]


@pytest.mark.parametrize("text", VALID)
def test_valid(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == []
    (tmp_path / "kubernetes").mkdir()
    body = text.partition("spec:")[2]
    kind = text.split("\n")[0].removeprefix("type: ")
    head = f"apiVersion: kuma.io/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: kuma-system}}\nspec:"
    assert load(tmp_path / "kubernetes", head + body) == []


def test_an_inbound_policy_may_name_an_inbound(tmp_path: Path) -> None:
    text = policy(
        "MeshTimeout", "targetRef: {kind: Dataplane, sectionName: a}", "rules: [{default: {idleTimeout: 1s}}]"
    )
    assert [problem.field for problem in load(tmp_path, text)] == ["spec.rules"]


def test_every_violation_of_a_policy_is_reported(tmp_path: Path) -> None:
    text = policy(
        "MeshTimeout",
        "targetRef: {kind: Mesh, name: a}",
        "to:",
        "- targetRef: {kind: MeshExternalService}",
        "  default: {connectionTimeout: 5, idleTimeout: -1s, http: {requestTimeout: -2s}}",
        "- targetRef: {kind: Nonsense}",
    )
    assert {problem.field for problem in load(tmp_path, text) if problem.is_error} == {
        "spec.targetRef.name",
        "spec.to[0].targetRef.labels",
        "spec.to[0].default.connectionTimeout",
        "spec.to[0].default.idleTimeout",
        "spec.to[0].default.http.requestTimeout",
        "spec.to[1].targetRef.kind",
        "spec.to[1].default",
    }
