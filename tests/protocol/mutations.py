"""Random damage to valid requests: their bytes, JSON and protobuf messages. The same seed does the same damage."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

INTEGERS = (0, 1, -1, 2, 64, 65, 127, 128, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64)
TEXTS = (
    "", "x", "tagger", "lookup", "numbers", "texts", "INT64", "FP32", "BYTES", "BF16", "int64", "input_ids", "INPUT0",
    "1", "2", "-1", "999999999999999999999", "../../etc/passwd", "a/b", "%s%n", "\0", "ü\u2028\U0001f600", "y" * 5000,
    "shared_memory_region", "triton_x", "priority", "timeout", "classification", "binary_data_size", "fuzz",
)  # fmt: skip
FLOATS = (0.0, -0.0, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"))
# JSON text as no serializer would write it; stands in the tree as this marker and is put in afterwards.
LITERALS = (
    "NaN", "-Infinity", "1e400", "-1e-400", "1" + "0" * 400, "01", "+1", "1.", ".5", "'single'", '"\\ud800"', '"\\x"',
    '"\x01"', "nul", "[1,]", "{,}", "[" * 2000, "[" * 40 + "]" * 40, '{"a":' * 300 + "1" + "}" * 300, "//x", "\ufeff1",
)  # fmt: skip
_MARK = "\x7fliteral:"


class Mutator:
    """All randomness comes from one generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def often(self, share: float) -> bool:
        return self.random.random() < share

    # Bytes

    def wounded(self, data: bytes) -> bytes:
        """One to four small wounds."""
        damaged = bytearray(data)
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            at = self.random.randrange(len(damaged) + 1)
            length = self.random.choice((1, 1, 2, 4, 8, 32))
            match self.random.randrange(7):
                case 0 if damaged:
                    damaged[at % len(damaged)] ^= 1 << self.random.randrange(8)
                case 1 if damaged:
                    damaged[at % len(damaged)] = self.random.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 2:
                    del damaged[at : at + length]
                case 3:
                    damaged[at:at] = self.random.randbytes(length)
                case 4:
                    damaged[at:at] = damaged[at : at + length]
                case 5:
                    damaged[at : at + 4] = struct.pack("<I", self.random.choice(INTEGERS) & 0xFFFFFFFF)
                case _:
                    del damaged[at:]
        return bytes(damaged)

    # JSON

    def changed_json(self, value: Any) -> bytes:
        """The text of a JSON value that was changed in a few places."""
        tree = copy.deepcopy(value)
        for _ in range(self.random.choice((1, 1, 2, 3))):
            tree = self._changed(tree)
        text = json.dumps(tree)
        while (at := text.find(json.dumps(_MARK)[:-1])) >= 0:
            end = text.index('"', at + 1) + 1
            text = text[:at] + LITERALS[int(text[at:end].rpartition(":")[2][:-1])] + text[end:]
        return text.encode(errors="surrogatepass")

    def _changed(self, tree: Any) -> Any:
        places = list(_places(tree))
        if not places or self.often(0.02):
            return self._value(tree)
        container, key = self.random.choice(places)
        match self.random.randrange(6):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[self.random.choice(TEXTS)] = container.pop(key)
            case 1:
                container[key:key] = [copy.deepcopy(container[key])] * self.random.choice((1, 2, 50))
            case 2:
                container[key] = self.random.choice(([container[key]], {"x": container[key]}, [[container[key]]]))
            case 3 if isinstance(container, dict):
                container[self.random.choice(TEXTS)] = self._value(None)
            case _:
                container[key] = self._value(container[key])
        return tree

    def _value(self, old: Any) -> Any:
        match self.random.randrange(9):
            case 0 | 1:
                return self.random.choice(INTEGERS)
            case 2 | 3:
                return self.random.choice(TEXTS)
            case 4:
                return self.random.choice(FLOATS)
            case 5:
                return self.random.choice((None, True, False, [], {}, [[]], [None], "", 10**400))
            case 6:
                return f"{_MARK}{self.random.randrange(len(LITERALS))}"
            case 7 if isinstance(old, int):
                return old + self.random.choice((-1, 1, 2**32))
            case _:
                return str(old) if not isinstance(old, str) else [old]

    # Protobuf

    def changed_message(self, message: Any) -> bytes:
        """A serialized message that was changed in a few fields."""
        changed = type(message)()
        changed.CopyFrom(message)
        for _ in range(self.random.choice((1, 1, 2, 3))):
            self._change_field(changed)
        return bytes(changed.SerializeToString())

    def _change_field(self, message: Any) -> None:
        owner, field = self.random.choice(list(_fields(message)))
        if _is_map(field):
            self._change_map(getattr(owner, field.name), field)
        elif field.is_repeated:
            self._change_list(getattr(owner, field.name), field)
        elif field.message_type is not None:
            owner.ClearField(field.name) if self.often(0.5) else getattr(owner, field.name).SetInParent()
        elif self.often(0.1):
            owner.ClearField(field.name)
        else:
            setattr(owner, field.name, self._scalar(field))

    def _change_map(self, entries: Any, field: FieldDescriptor) -> None:
        key = self.random.choice([*entries, *TEXTS])
        if key in entries and self.often(0.3):
            del entries[key]
        elif _value_of(field).message_type is None:
            entries[key] = self._scalar(_value_of(field))
        else:
            self._change_field(entries[key])

    def _change_list(self, elements: Any, field: FieldDescriptor) -> None:
        action = self.random.randrange(4)
        if elements and action == 0:
            del elements[self.random.randrange(len(elements))]
        elif field.message_type is not None:
            extra = elements.add()
            if len(elements) > 1:
                extra.CopyFrom(self.random.choice(elements[:-1]))
        elif elements and action == 1:
            elements[self.random.randrange(len(elements))] = self._scalar(field)
        else:
            elements.extend([self._scalar(field)] * self.random.choice((1, 1, 2, 100)))

    def _scalar(self, field: FieldDescriptor) -> Any:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self.random.randbytes(self.random.choice((0, 1, 3, 8, 24)))
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                return self.random.choice(TEXTS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.often(0.5)
            case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
                return self.random.choice(FLOATS)
        bits = 32 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
        value = self.random.choice(INTEGERS) & (1 << bits) - 1
        if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64) and value >> bits - 1:
            value -= 1 << bits
        return value


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in a JSON tree, as its container and its key there."""
    items = enumerate(tree) if isinstance(tree, list) else tree.items() if isinstance(tree, dict) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _value_of(field: FieldDescriptor) -> FieldDescriptor:
    """The field of a map's values."""
    assert field.message_type is not None
    return field.message_type.fields_by_name["value"]


def _fields(message: Any) -> Iterator[tuple[Any, FieldDescriptor]]:
    """Every field of a message and of the messages it holds, as its owner and itself."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            inner = value.values() if _value_of(field).message_type is not None else ()
        else:
            inner = value if field.is_repeated else (value,)
        for one in inner:
            yield from _fields(one)
