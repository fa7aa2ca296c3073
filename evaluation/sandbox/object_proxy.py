"""A candidate used from another process: the tests see its functions, and of all else plain values only.

Runs inside the sandbox; standard library only. The link carries JSON. Whatever arrives from the candidate becomes a
value that this side builds itself: no object of the candidate's, no patched module, no frame is within its reach, so an
answer cannot compare equal unless it is equal. Objects that are not plain values stay where they are and are used
through handles. The candidate's side does all that it is asked; the tests' side calls only functions that it passed.
"""

import builtins
import cmath
import collections
import datetime
import decimal
import fractions
import importlib
import itertools
import json
import math
import os
import struct
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

_MAX_FRAME = 2**26
_MAX_ITEMS = 100_000
"""How much of an iterator is read, which may have no end."""
_BUILT_IN = frozenset(dir(builtins))
_DATED = (datetime.datetime, datetime.date, datetime.time)
Coded = Any
"""What JSON can hold."""


class Raised(Exception):
    """The other side raised what is not one of Python's own exceptions."""


class Handle:
    """An object of the other side. It is equal to itself only."""

    def __init__(self, peer: "Peer", number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it there."""
        return self._peer.call(self._number, arguments, named)

    def __getattr__(self, name: str) -> Any:
        """Read an attribute there."""
        return self._peer.ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute there."""
        self._peer.ask("set", self._number, name, self._peer.coded(value))


class Peer:
    """One end of the link. `serves_all`: does the other end's every wish, as the candidate's side does."""

    def __init__(self, link: int, serves_all: bool, namespace: dict[str, object] | None = None) -> None:
        self._link, self._serves_all, self._namespace = link, serves_all, namespace or {}
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}

    def ask(self, *request: Coded) -> Any:
        """Send a request, do what the other end asks meanwhile, and return its answer. Raises what it raised."""
        return self._value(self._exchange(request)[0])

    def call(self, number: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the other end; lists, dictionaries and sets that it changed are changed here too."""
        sent = [self.coded(argument) for argument in arguments]
        result, after = self._exchange(["call", number, sent, {name: self.coded(x) for name, x in named.items()}])
        for argument, coded in zip(arguments, after, strict=True):
            if coded is not None:
                _become(argument, self._value(coded))
        return self._value(result)

    def serve(self) -> None:
        """Do what the other end asks, until it is gone."""
        try:
            while True:
                self._do(self._receive())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    def coded(self, value: Any, consume: bool = True) -> Coded:
        """A value as JSON. `consume`: an iterator is read; otherwise it is an object like others."""
        if value is None or value is True or value is False or type(value) is str:
            return value
        for kind, tag, write in _WRITERS:
            if isinstance(value, kind):
                return [tag, write(self, value)]
        if isinstance(value, Handle):
            return ["yours", value._number]
        name = getattr(value, "__name__", None)
        if isinstance(value, types.ModuleType) and name in sys.stdlib_module_names:
            return ["module", name]
        if isinstance(value, type) and vars(builtins).get(str(name)) is value:
            return ["type", name]
        if isinstance(value, types.BuiltinFunctionType) and value.__module__ in ("math", "cmath"):
            return [value.__module__, name]
        if isinstance(value, Iterator) and consume:
            return ["iterator", [self.coded(item) for item in itertools.islice(value, _MAX_ITEMS)]]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return ["mine", self._numbers[id(value)]]

    def _value(self, coded: Coded) -> Any:
        if coded is None or isinstance(coded, bool | str):
            return coded
        tag, data = coded
        return _READERS[tag](self, data)

    def _exchange(self, request: Coded) -> Any:
        self._send(request)
        while True:
            message = self._receive()
            if message[0] == "value":
                return message[1:]
            if message[0] == "error":
                kind = getattr(builtins, message[1], None)
                if isinstance(kind, type) and issubclass(kind, Exception):
                    raise _exception(kind, message[2])
                raise Raised(f"{message[1]}: {message[2]}")
            self._do(message)

    def _do(self, request: Coded) -> None:
        try:
            answer = self._answer(*request)
        except BaseException as error:
            answer = ["error", type(error).__name__, _text(error)]
        self._send(answer)

    def _answer(self, wish: str, *details: Any) -> Coded:
        if wish == "call":
            return self._called(*details)
        if not self._serves_all:
            raise PermissionError("the tests' side only calls functions that it passed")
        if wish == "names":
            # A copy: a program that runs threads may change it meanwhile.
            named = [(name, self.coded(value, consume=False)) for name, value in list(self._namespace.items())]
            return ["value", ["list", [["tuple", [name, coded]] for name, coded in named if not name.startswith("__")]]]
        number, name, *value = details
        if wish == "get":
            return ["value", self.coded(getattr(self._objects[number], name))]
        setattr(self._objects[number], name, self._value(value[0]))
        return ["value", None]

    def _called(self, number: int, arguments: list[Coded], named: dict[str, Coded]) -> Coded:
        function: Any = self._objects[number]
        values = [self._value(argument) for argument in arguments]
        result = self.coded(function(*values, **{name: self._value(value) for name, value in named.items()}))
        after = [
            now if type(value) in (list, dict, set) and (now := self.coded(value)) != before else None
            for value, before in zip(values, arguments, strict=True)
        ]
        return ["value", result, after]

    def _send(self, message: Coded) -> None:
        data = json.dumps(message).encode()
        frame = struct.pack(">I", len(data)) + data
        while frame:
            frame = frame[os.write(self._link, frame) :]

    def _receive(self) -> Coded:
        (size,) = struct.unpack(">I", self._exactly(4))
        if size > _MAX_FRAME:
            raise EOFError
        return json.loads(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self._link, min(size, 65_536))
            if not part:
                raise EOFError("the candidate's process ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def borrowed(link: int) -> dict[str, object]:
    """The candidate's names for the tests, once it is defined; none that would hide a builtin of the tests' own."""
    names: list[tuple[str, object]] = Peer(link, serves_all=False).ask("names")
    return {name: value for name, value in names if name not in _BUILT_IN and not name.startswith("__")}


def answer(link: int, namespace: dict[str, object]) -> None:
    """Let the tests use the candidate's names, until they are through."""
    Peer(link, serves_all=True, namespace=namespace).serve()


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:
        return "an exception that cannot be shown"


def _exception(kind: type[Exception], text: str) -> Exception:
    try:
        return kind(text)
    except TypeError:  # UnicodeDecodeError, say, wants more
        return Raised(f"{kind.__name__}: {text}")


def _become(container: Any, value: Any) -> None:
    if isinstance(container, list):
        container[:] = value
    else:
        container.clear()
        container.update(value)


def _items(peer: Peer, value: Any) -> Coded:
    return [peer.coded(item) for item in list(value)]


def _pairs(peer: Peer, value: dict[Any, Any]) -> Coded:
    return [[peer.coded(key), peer.coded(item)] for key, item in list(dict.items(value))]


def _plain(peer: Peer, coded: list[Coded]) -> list[Any]:
    return [peer._value(item) for item in coded]


def _mapping(peer: Peer, coded: list[Coded]) -> list[tuple[Any, Any]]:
    return [(peer._value(key), peer._value(item)) for key, item in coded]


def _module_function(module: types.ModuleType, name: str) -> Any:
    found = getattr(module, name, None)
    if not isinstance(found, types.BuiltinFunctionType):
        raise EOFError(f"{module.__name__} has no function {name}")
    return found


def _type(name: str) -> type:
    found = getattr(builtins, name, None)
    if not isinstance(found, type):
        raise EOFError(f"there is no builtin type {name}")
    return found


def _module(name: str) -> types.ModuleType:
    if name not in sys.stdlib_module_names:
        raise EOFError(f"{name} is not in the standard library")
    return importlib.import_module(name)


def _dated(kind: type[Any]) -> Callable[[Peer, Any], Any]:
    return lambda peer, data: kind.fromisoformat(data)


# The more special type first: a counter is a dictionary too. A subclass is carried as what it is a subclass of.
_WRITERS: tuple[tuple[type, str, Callable[[Peer, Any], Coded]], ...] = (
    (int, "int", lambda peer, value: hex(int.__index__(value))),
    (float, "float", lambda peer, value: float.hex(value)),
    (complex, "complex", lambda peer, value: [float.hex(value.real), float.hex(value.imag)]),
    (str, "str", lambda peer, value: str.__str__(value)),
    (bytes, "bytes", lambda peer, value: bytes(value).hex()),
    (bytearray, "bytearray", lambda peer, value: bytes(value).hex()),
    (list, "list", _items),
    (tuple, "tuple", _items),
    (frozenset, "frozenset", _items),
    (set, "set", _items),
    (collections.deque, "deque", _items),
    (range, "range", lambda peer, value: [hex(value.start), hex(value.stop), hex(value.step)]),
    (collections.Counter, "Counter", _pairs),
    (collections.OrderedDict, "OrderedDict", _pairs),
    (dict, "dict", _pairs),
    (decimal.Decimal, "Decimal", lambda peer, value: str(value)),
    (fractions.Fraction, "Fraction", lambda peer, value: str(value)),
    *((kind, kind.__name__, lambda peer, value: value.isoformat()) for kind in _DATED),
    (datetime.timedelta, "timedelta", lambda peer, value: [value.days, value.seconds, value.microseconds]),
)
_READERS: dict[str, Callable[[Peer, Any], Any]] = {
    "int": lambda peer, data: int(data, 16),
    "float": lambda peer, data: float.fromhex(data),
    "complex": lambda peer, data: complex(*map(float.fromhex, data)),
    "str": lambda peer, data: str(data),
    "bytes": lambda peer, data: bytes.fromhex(data),
    "bytearray": lambda peer, data: bytearray.fromhex(data),
    "list": _plain,
    "tuple": lambda peer, data: tuple(_plain(peer, data)),
    "frozenset": lambda peer, data: frozenset(_plain(peer, data)),
    "set": lambda peer, data: set(_plain(peer, data)),
    "deque": lambda peer, data: collections.deque(_plain(peer, data)),
    "range": lambda peer, data: range(*(int(number, 16) for number in data)),
    "Counter": lambda peer, data: collections.Counter(dict(_mapping(peer, data))),
    "OrderedDict": lambda peer, data: collections.OrderedDict(_mapping(peer, data)),
    "dict": lambda peer, data: dict(_mapping(peer, data)),
    "Decimal": lambda peer, data: decimal.Decimal(data),
    "Fraction": lambda peer, data: fractions.Fraction(data),
    **{kind.__name__: _dated(kind) for kind in _DATED},
    "timedelta": lambda peer, data: datetime.timedelta(*data),
    "iterator": lambda peer, data: iter(_plain(peer, data)),
    "module": lambda peer, data: _module(data),
    "type": lambda peer, data: _type(data),
    "math": lambda peer, data: _module_function(math, data),
    "cmath": lambda peer, data: _module_function(cmath, data),
    "mine": Handle,
    "yours": lambda peer, data: peer._objects[data],
}
