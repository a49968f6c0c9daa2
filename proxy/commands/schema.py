"""``koguma schema``: JSON Schema of a resource kind, for editors."""

from __future__ import annotations

import json
import sys

from config.resources.registry import KINDS
from config.schema import schema_for
from proxy.exits import EXIT_OK, EXIT_USAGE


def schema(kind: str | None) -> int:
    if kind is None:
        print("\n".join(sorted(KINDS)))
        return EXIT_OK
    if kind not in KINDS:
        print(f'koguma: no kind "{kind}"; there are {", ".join(sorted(KINDS))}', file=sys.stderr)
        return EXIT_USAGE
    json.dump(schema_for(kind), sys.stdout, indent=2)
    print()
    return EXIT_OK
