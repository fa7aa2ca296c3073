"""Values as JSON and back: numbers, text, containers, dates, and what the standard library holds.

Runs inside the sandbox; standard library only. What arrives becomes a value that this side builds itself.
"""

import builtins
import cmath
import collections
import datetime
import decimal
import fractions
import functools
import importlib
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

_MAX_ITEMS = 100_000
"""How much of an iterator is read, which may have no end."""
_DATED = (datetime.datetime, datetime.date, datetime.time)
Coded = Any
"""What JSON can hold."""


class Codec:
    """`refer` gives tag and data of what is no plain value, `resolve` the object that these stand for."""

    def __init__(self, refer: Callable[[object], Coded], resolve: Callable[[str, Any], Any]) -> None:
        self._refer, self._resolve = refer, resolve

    def encode(self, value: Any, consume: bool = True) -> Coded:
        """A value as JSON. `consume`: an iterator is read; otherwise it is an object like others."""
        if value is None or value is True or value is False or type(value) is str:
            return value
        if isinstance(value, tuple) and isinstance(fields := getattr(type(value), "_fields", None), tuple):
            return ["record", [type(value).__name__, [str(field) for field in fields], _items(self, value)]]
        for kind, tag, write in _WRITERS:
            if isinstance(value, kind):
                return [tag, write(self, value)]
        name = getattr(value, "__name__", None)
        if isinstance(value, types.ModuleType) and name in sys.stdlib_module_names:
            return ["module", name]
        if isinstance(value, type) and vars(builtins).get(str(name)) is value:
            return ["type", name]
        if isinstance(value, types.BuiltinFunctionType) and value.__module__ in ("math", "cmath"):
            return [value.__module__, name]
        if isinstance(value, Iterator) and consume:
            return ["iterator", [self.encode(item) for item in itertools.islice(value, _MAX_ITEMS)]]
        return self._refer(value)

    def decode(self, coded: Coded) -> Any:
        """The value that JSON stands for."""
        if coded is None or isinstance(coded, bool | str):
            return coded
        tag, data = coded
        read = _READERS.get(tag)
        return self._resolve(tag, data) if read is None else read(self, data)


def _items(codec: Codec, value: Any) -> Coded:
    return [codec.encode(item) for item in list(value)]


def _pairs(codec: Codec, value: dict[Any, Any]) -> Coded:
    return [[codec.encode(key), codec.encode(item)] for key, item in list(dict.items(value))]


def _plain(codec: Codec, coded: list[Coded]) -> list[Any]:
    return [codec.decode(item) for item in coded]


def _mapping(codec: Codec, coded: list[Coded]) -> list[tuple[Any, Any]]:
    return [(codec.decode(key), codec.decode(item)) for key, item in coded]


def _module_function(module: types.ModuleType, name: str) -> Any:
    value = getattr(module, name, None)
    if not isinstance(value, types.BuiltinFunctionType):
        raise EOFError(f"{module.__name__} has no function {name}")
    return value


def _type(name: str) -> type:
    value = getattr(builtins, name, None)
    if not isinstance(value, type):
        raise EOFError(f"there is no builtin type {name}")
    return value


def _module(name: str) -> types.ModuleType:
    if name not in sys.stdlib_module_names:
        raise EOFError(f"{name} is not in the standard library")
    return importlib.import_module(name)


def _dated(kind: type[Any]) -> Callable[[Codec, Any], Any]:
    return lambda codec, data: kind.fromisoformat(data)


def _record(codec: Codec, data: Any) -> tuple[Any, ...]:
    name, fields, items = data
    return _record_type(str(name), tuple(map(str, fields)))(*_plain(codec, items))


@functools.cache
def _record_type(name: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    return collections.namedtuple(name, fields)


def _defaults(codec: Codec, value: collections.defaultdict[Any, Any]) -> Coded:
    return [codec.encode(value.default_factory), _pairs(codec, value)]


# The more special type first: a counter is a dictionary too. A subclass is carried as what it is a subclass of.
_WRITERS: tuple[tuple[type, str, Callable[[Codec, Any], Coded]], ...] = (
    (int, "int", lambda codec, value: hex(int.__index__(value))),
    (float, "float", lambda codec, value: float.hex(value)),
    (complex, "complex", lambda codec, value: [float.hex(value.real), float.hex(value.imag)]),
    (str, "str", lambda codec, value: str.__str__(value)),
    (bytes, "bytes", lambda codec, value: bytes(value).hex()),
    (bytearray, "bytearray", lambda codec, value: bytes(value).hex()),
    (list, "list", _items),
    (tuple, "tuple", _items),
    (frozenset, "frozenset", _items),
    (set, "set", _items),
    (collections.deque, "deque", _items),
    (range, "range", lambda codec, value: [hex(value.start), hex(value.stop), hex(value.step)]),
    (collections.Counter, "Counter", _pairs),
    (collections.defaultdict, "defaultdict", _defaults),
    (collections.OrderedDict, "OrderedDict", _pairs),
    (dict, "dict", _pairs),
    (decimal.Decimal, "Decimal", lambda codec, value: str(value)),
    (fractions.Fraction, "Fraction", lambda codec, value: str(value)),
    *((kind, kind.__name__, lambda codec, value: value.isoformat()) for kind in _DATED),
    (datetime.timedelta, "timedelta", lambda codec, value: [value.days, value.seconds, value.microseconds]),
)
_READERS: dict[str, Callable[[Codec, Any], Any]] = {
    "int": lambda codec, data: int(data, 16),
    "float": lambda codec, data: float.fromhex(data),
    "complex": lambda codec, data: complex(*map(float.fromhex, data)),
    "str": lambda codec, data: str(data),
    "bytes": lambda codec, data: bytes.fromhex(data),
    "bytearray": lambda codec, data: bytearray.fromhex(data),
    "list": _plain,
    "tuple": lambda codec, data: tuple(_plain(codec, data)),
    "frozenset": lambda codec, data: frozenset(_plain(codec, data)),
    "set": lambda codec, data: set(_plain(codec, data)),
    "deque": lambda codec, data: collections.deque(_plain(codec, data)),
    "range": lambda codec, data: range(*(int(number, 16) for number in data)),
    "Counter": lambda codec, data: collections.Counter(dict(_mapping(codec, data))),
    "defaultdict": lambda codec, data: collections.defaultdict(codec.decode(data[0]), _mapping(codec, data[1])),
    "record": _record,
    "OrderedDict": lambda codec, data: collections.OrderedDict(_mapping(codec, data)),
    "dict": lambda codec, data: dict(_mapping(codec, data)),
    "Decimal": lambda codec, data: decimal.Decimal(data),
    "Fraction": lambda codec, data: fractions.Fraction(data),
    **{kind.__name__: _dated(kind) for kind in _DATED},
    "timedelta": lambda codec, data: datetime.timedelta(*data),
    "iterator": lambda codec, data: iter(_plain(codec, data)),
    "module": lambda codec, data: _module(data),
    "type": lambda codec, data: _type(data),
    "math": lambda codec, data: _module_function(math, data),
    "cmath": lambda codec, data: _module_function(cmath, data),
}
