"""Damage to bytes, drawn from a seed: what disks, transfers and hands do to files."""

import random
import struct
from collections.abc import Callable

Mutate = Callable[[random.Random, bytearray], bytearray]


def mutated(data: bytes, seed: int | str) -> bytes:
    """The bytes with one kind of damage; the same for the same seed, and always other bytes than `data`."""
    generator = random.Random(seed)
    while True:
        found = bytes(generator.choice(KINDS if data else KINDS_OF_NOTHING)(generator, bytearray(data)))
        if found != data:
            return found


def _flip_a_bit(generator: random.Random, data: bytearray) -> bytearray:
    data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return data


def _flip_bits(generator: random.Random, data: bytearray) -> bytearray:
    for _ in range(generator.randint(2, 20)):
        _flip_a_bit(generator, data)
    return data


def _truncate(generator: random.Random, data: bytearray) -> bytearray:
    return data[: generator.choice([0, 1, len(data) - 1, generator.randrange(len(data))])]


def _block(generator: random.Random, data: bytearray) -> slice:
    start = generator.randrange(len(data))
    return slice(start, min(len(data), start + generator.choice([1, 8, 64, 512, 4096])))


def _zero_a_block(generator: random.Random, data: bytearray) -> bytearray:
    block = _block(generator, data)
    data[block] = bytes(len(data[block]))
    return data


def _repeat_a_block(generator: random.Random, data: bytearray) -> bytearray:
    block = _block(generator, data)
    return data[: block.stop] + data[block] + data[block.stop :]


def _leave_out_a_block(generator: random.Random, data: bytearray) -> bytearray:
    del data[_block(generator, data)]
    return data


def _splice(generator: random.Random, data: bytearray) -> bytearray:
    data[_block(generator, data)] = data[_block(generator, data)]
    return data


def _insert_noise(generator: random.Random, data: bytearray) -> bytearray:
    place = generator.randrange(len(data) + 1)
    return data[:place] + generator.randbytes(generator.randint(1, 64)) + data[place:]


def _set_a_length(generator: random.Random, data: bytearray) -> bytearray:
    """Write an extreme number where a format may have a length, at the start and at the end above all."""
    number = generator.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1])
    size = generator.choice([4, 8])
    place = generator.choice([0, len(data) - 8, generator.randrange(len(data))])
    written = struct.pack("<Q", number)[:size]
    data[max(0, place) : max(0, place) + size] = written
    return data


def _enlarge_a_number(generator: random.Random, data: bytearray) -> bytearray:
    """Make a number of a text larger."""
    digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        place = generator.choice(digits)
        data[place:place] = b"9" * generator.choice([1, 3, 20, 5000])
    return data


def _nest(generator: random.Random, data: bytearray) -> bytearray:
    """Put a text into brackets, some or very many."""
    depth = generator.choice([1, 100_000])
    opening, closing = generator.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return bytearray(opening * depth + data + closing * depth)


KINDS: list[Mutate] = [
    _flip_a_bit, _flip_a_bit, _flip_bits, _truncate, _zero_a_block, _repeat_a_block, _leave_out_a_block, _splice,
    _insert_noise, _set_a_length, _enlarge_a_number, _nest,
]  # fmt: skip
KINDS_OF_NOTHING: list[Mutate] = [_insert_noise, _nest]
