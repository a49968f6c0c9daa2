"""XXH64, the hash by which Envoy places endpoints and requests: the same here, so that both send a request to the same
endpoint. Not for secrets, and not against an adversary.

https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, section "XXH64 Algorithm".
"""

from __future__ import annotations

from struct import iter_unpack

_P1 = 0x9E3779B185EBCA87
_P2 = 0xC2B2AE3D27D4EB4F
_P3 = 0x165667B19E3779F9
_P4 = 0x85EBCA77C2B2AE63
_P5 = 0x27D4EB2F165667C5
_MASK = 0xFFFFFFFFFFFFFFFF


def xxh64(data: bytes, seed: int = 0) -> int:
    """64 bits, from ``data`` and a ``seed`` of 64 bits."""
    size = len(data)
    at = size - size % 32
    if at:
        a, b, c, d = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
        for w, x, y, z in iter_unpack("<QQQQ", data[:at]):
            a, b, c, d = _round(a, w), _round(b, x), _round(c, y), _round(d, z)
        result = _turn(a, 1) + _turn(b, 7) + _turn(c, 12) + _turn(d, 18)
        for lane in (a, b, c, d):
            result = (result ^ _round(0, lane)) * _P1 + _P4 & _MASK
    else:
        result = seed + _P5
    result += size
    end = at + (size - at) // 8 * 8
    for (word,) in iter_unpack("<Q", data[at:end]):
        result = _turn(result ^ _round(0, word), 27) * _P1 + _P4
    if size - end >= 4:
        word = int.from_bytes(data[end : end + 4], "little")
        result = _turn((result & _MASK) ^ (word * _P1 & _MASK), 23) * _P2 + _P3
        end += 4
    for byte in data[end:]:
        result = _turn((result & _MASK) ^ (byte * _P5 & _MASK), 11) * _P1
    result &= _MASK
    result = (result ^ result >> 33) * _P2 & _MASK
    result = (result ^ result >> 29) * _P3 & _MASK
    return result ^ result >> 32


def _round(lane: int, word: int) -> int:
    return _turn(lane + word * _P2, 31) * _P1 & _MASK


def _turn(value: int, by: int) -> int:
    value &= _MASK
    return (value << by | value >> 64 - by) & _MASK
