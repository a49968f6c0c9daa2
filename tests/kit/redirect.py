"""Redirects the TCP connections of one user to a port of this machine, as Kuma's rules for transparent proxying do. To
be run in a network namespace of its own:

    python -m tests.kit.redirect PORT
"""

from __future__ import annotations

import struct
import sys
from typing import Any

from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

USER = 65534
"""Whose connections are redirected; everybody else's, the proxy's among them, are not."""
IPV4, IPV6 = 2, 10
TCP = b"\x06"


def redirect(port: int, family: int) -> None:
    register = Regs.NFT_REG_1

    def value(data: bytes) -> dict[str, Any]:
        return {"attrs": [("NFTA_DATA_VALUE", data)]}

    def is_equal(key: Meta, data: bytes) -> list[dict[str, Any]]:
        return [
            genex("meta", {"key": key, "dreg": register}),
            genex("cmp", {"sreg": register, "op": Cmp.NFT_CMP_EQ, "data": value(data)}),
        ]

    rule = [
        *is_equal(Meta.NFT_META_L4PROTO, TCP),
        *is_equal(Meta.NFT_META_SKUID, struct.pack("=I", USER)),
        genex("immediate", {"dreg": register, "data": value(struct.pack("!H", port))}),
        genex("redir", {"reg_proto_min": register}),
    ]
    with NFTables(nfgen_family=family) as nft:
        nft.table("add", name="koguma-test")
        nft.chain("add", table="koguma-test", name="out", hook="output", type="nat", policy=1)
        nft.rule("add", table="koguma-test", chain="out", expressions=(rule,))


if __name__ == "__main__":
    for family in (IPV4, IPV6):
        redirect(int(sys.argv[1]), family)
