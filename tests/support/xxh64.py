"""XXH64 in plain Python, written from its specification, to check hashes against."""

from __future__ import annotations

_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MASK = (1 << 64) - 1


def xxh64(data: bytes, seed: int) -> int:
    """Return the unsigned 64-bit hash of some bytes."""
    place, length = 0, len(data)
    if length >= 32:
        lanes = [(seed + _P1 + _P2) & _MASK, (seed + _P2) & _MASK, seed & _MASK, (seed - _P1) & _MASK]
        while place + 32 <= length:
            for lane in range(4):
                lanes[lane] = _round(lanes[lane], _word(data, place + 8 * lane, 8))
            place += 32
        value = sum(_rotate(lane, turn) for lane, turn in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        value = (seed + _P5) & _MASK
    value = (value + length) & _MASK
    while place + 8 <= length:
        value = (_rotate(value ^ _round(0, _word(data, place, 8)), 27) * _P1 + _P4) & _MASK
        place += 8
    if place + 4 <= length:
        value = (_rotate(value ^ (_word(data, place, 4) * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        place += 4
    while place < length:
        value = (_rotate(value ^ (data[place] * _P5 & _MASK), 11) * _P1) & _MASK
        place += 1
    for shift, prime in ((33, _P2), (29, _P3), (32, 1)):
        value = ((value ^ (value >> shift)) * prime) & _MASK
    return value


def _round(lane: int, word: int) -> int:
    return (_rotate((lane + word * _P2) & _MASK, 31) * _P1) & _MASK


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _word(data: bytes, place: int, size: int) -> int:
    return int.from_bytes(data[place : place + size], "little")
