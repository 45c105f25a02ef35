"""A map from characters to strings as a normaliser of `tokenizers`, in SentencePiece's format.

`normalizers.Precompiled` is the one normaliser of the library that replaces thousands of characters
in one pass and keeps the offsets. Its format is a double-array trie of the UTF-8 bytes of the keys
(Darts-clone; Aoe 1989, "An Efficient Digital Search Algorithm by Using a Double-Array Structure")
and the replacements, each ended by a zero byte.
"""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import normalizers

LEAF, IS_VALUE = 1 << 8, 1 << 31
"""Bits of a unit of the trie: a key ends at this node; the unit holds a value, not a node."""
BLOCK = 256


def character_map(replacements: Mapping[str, str]) -> normalizers.Normalizer:
    """A normaliser that replaces single characters by strings that are not empty.

    A character with a combining mark of two bytes is replaced together with its mark: this is how
    `Precompiled` treats clusters of less than six bytes.

    Raises:
        ValueError: a key is not one character, is NUL, or its replacement is empty (`Precompiled`
            gives wrong offsets if it removes the first character of a text).
    """
    for key, text in replacements.items():
        if len(key) != 1 or key == "\0" or not text or "\0" in text:
            raise ValueError(f"{key!r} → {text!r} is not a replacement of a character")
    texts, places, position = [], {}, 0
    for key, text in sorted(replacements.items()):
        texts.append(text.encode() + b"\0")
        places[key.encode()] = position
        position += len(texts[-1])
    trie = _double_array(places).astype("<u4").tobytes()
    return normalizers.Precompiled(struct.pack("<I", len(trie)) + trie + b"".join(texts))


def _double_array(values: Mapping[bytes, int]) -> np.ndarray:
    """uint32 [N] units: a node at `place` with base b has its children at b ^ byte.

    A unit holds its last byte, whether a key ends there, and place ^ b from bit 10 on.
    """
    root: dict[int, Any] = {}
    for key, value in values.items():
        node = root
        for byte in key:
            node = node.setdefault(byte, {})
        node[0] = value  # no key holds a zero byte
    units: dict[int, int] = {}
    bases: set[int] = set()
    taken = {0}
    waiting = [(0, 0, root)]
    next_base = dict.fromkeys((True, False), 1)
    while waiting:
        place, label, node = waiting.pop()
        # Searching on from the last base keeps the time linear; the gaps are filled by nodes that
        # only end a key, which have their own position in the search.
        ends = node.keys() == {0}
        base = next_base[ends]
        while base in bases or any(base ^ byte in taken for byte in node):
            base += 1
        next_base[ends] = base + 1
        bases.add(base)
        taken.update(base ^ byte for byte in node)
        units[place] = (base ^ place) << 10 | label | (LEAF if 0 in node else 0)
        for byte, child in node.items():
            if byte:
                waiting.append((base ^ byte, byte, child))
            else:
                units[base] = child | IS_VALUE
    # A search looks at base ^ byte for any byte, so whole blocks must exist.
    size = (max(*units, *bases) // BLOCK + 1) * BLOCK
    return np.array([units.get(place, 0) for place in range(size)], np.uint32)
