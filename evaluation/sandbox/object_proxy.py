"""A candidate used from another process: the tests see its functions, and of all else plain values only.

Runs inside the sandbox; standard library only. The link carries JSON. Whatever arrives from the candidate becomes a
value that this side builds itself: no object of the candidate's, no patched module, no frame is within its reach, so an
answer cannot compare equal unless it is equal. Objects that are not plain values stay where they are and are used
through handles. The candidate's side does all that it is asked; the tests' side calls only functions that it passed.
"""

import builtins
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from evaluation.sandbox.frames import frame, read_frame, write_all
from evaluation.sandbox.value_codec import Codec, Coded

_MAX_FRAME = 2**26
_MAX_DEPTH = 100
"""How deeply objects within objects are compared."""
_BUILT_IN = frozenset(dir(builtins))


class Raised(Exception):
    """The other side raised what is not one of Python's own exceptions."""


class Handle:
    """An object of the other side.

    Two are equal where they are of one class and hold equal values: what their class says of equality never counts, so
    that no candidate decides it. Nor are there comparisons and arithmetic, by which it could.
    """

    __hash__ = None  # type: ignore[assignment]

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
        self._peer.ask("set", self._number, name, self._peer.codec.encode(value))

    def __eq__(self, other: object) -> bool:
        """Whether the other one is the same object, or one of the same class with equal values."""
        return isinstance(other, Handle) and _alike(self, other, _MAX_DEPTH)

    def __instancecheck__(self, value: object) -> bool:
        """Whether an object of the other side is one of this class there."""
        return isinstance(value, Handle) and self._peer.ask("is", self._number, value._number) is True

    def __len__(self) -> int:
        """Ask it there."""
        return int(self._peer.ask("get", self._number, "__len__")())

    def __iter__(self) -> Iterator[Any]:
        """Iterate there, to the end."""
        return iter(self._peer.ask("get", self._number, "__iter__")())

    def __getitem__(self, key: Any) -> Any:
        """Look it up there."""
        return self._peer.ask("get", self._number, "__getitem__")(key)

    def __str__(self) -> str:
        """Ask it there."""
        return str(self._peer.ask("get", self._number, "__str__")())

    def __repr__(self) -> str:
        """Ask it there."""
        return str(self._peer.ask("get", self._number, "__repr__")())


def _alike(one: Any, other: Any, depth: int) -> bool:
    """Whether two values are equal, objects by class and state; a structure that goes deeper than `depth` is not."""
    if not (isinstance(one, Handle) and isinstance(other, Handle)):
        return type(one) is type(other) and bool(one == other)
    if one._number == other._number:
        return True
    (kind, state), (other_kind, other_state) = (item._peer.ask("state", item._number) for item in (one, other))
    if depth == 0 or kind != other_kind or not isinstance(state, dict) or state.keys() != other_state.keys():
        return False
    return all(_alike(state[name], other_state[name], depth - 1) for name in state)


class Peer:
    """One end of the link. `serves_all`: does the other end's every wish, as the candidate's side does."""

    def __init__(self, link: int, serves_all: bool, namespace: dict[str, object] | None = None) -> None:
        self._link, self._serves_all, self._namespace = link, serves_all, namespace or {}
        self._objects: list[object] = []
        self._numbers: dict[int, int] = {}
        self.codec = Codec(self._refer, self._resolve)

    def ask(self, *request: Coded) -> Any:
        """Send a request, do what the other end asks meanwhile, and return its answer. Raises what it raised."""
        return self.codec.decode(self._exchange(request)[0])

    def call(self, number: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function of the other end; lists, dictionaries and sets that it changed are changed here too."""
        sent = [self.codec.encode(argument) for argument in arguments]
        result, after = self._exchange(
            ["call", number, sent, {name: self.codec.encode(x) for name, x in named.items()}]
        )
        for argument, coded in zip(arguments, after, strict=True):
            if coded is not None:
                _become(argument, self.codec.decode(coded))
        return self.codec.decode(result)

    def serve(self) -> None:
        """Do what the other end asks, until it is gone."""
        try:
            while True:
                self._do(self._receive())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return

    def _refer(self, value: object) -> Coded:
        if isinstance(value, Handle):
            return ["yours", value._number]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return ["mine", self._numbers[id(value)]]

    def _resolve(self, tag: str, number: int) -> object:
        if tag not in ("mine", "yours"):
            raise EOFError(f"there are no values of kind {tag}")
        return Handle(self, number) if tag == "mine" else self._objects[number]

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
            names = [(name, value) for name, value in list(self._namespace.items()) if not name.startswith("__")]
            return ["value", ["list", [["tuple", [n, self.codec.encode(value, consume=False)]] for n, value in names]]]
        number, name, *value = (*details, None)
        if wish == "state":
            return ["value", self.codec.encode(_state(self._objects[number], self._refer), consume=False)]
        if wish == "is":
            return ["value", isinstance(self._objects[name], self._objects[number])]
        if wish == "get":
            return ["value", self.codec.encode(getattr(self._objects[number], name))]
        setattr(self._objects[number], name, self.codec.decode(value[0]))
        return ["value", None]

    def _called(self, number: int, arguments: list[Coded], named: dict[str, Coded]) -> Coded:
        function: Any = self._objects[number]
        values = [self.codec.decode(argument) for argument in arguments]
        by_name = {name: self.codec.decode(value) for name, value in named.items()}
        result = self.codec.encode(function(*values, **by_name))
        after = [
            now if type(value) in (list, dict, set) and (now := self.codec.encode(value)) != before else None
            for value, before in zip(values, arguments, strict=True)
        ]
        return ["value", result, after]

    def _send(self, message: Coded) -> None:
        write_all(partial(os.write, self._link), frame(json.dumps(message).encode()))

    def _receive(self) -> Coded:
        return json.loads(read_frame(partial(os.read, self._link), _MAX_FRAME)[1])


def borrowed(link: int) -> dict[str, object]:
    """The candidate's names for the tests, once it is defined; none that would hide a builtin of the tests' own."""
    names: list[tuple[str, object]] = Peer(link, serves_all=False).ask("names")
    return {name: value for name, value in names if name not in _BUILT_IN and not name.startswith("__")}


def answer(link: int, namespace: dict[str, object]) -> None:
    """Let the tests use the candidate's names, until they are through."""
    Peer(link, serves_all=True, namespace=namespace).serve()


def _state(value: object, refer: Callable[[object], Coded]) -> object:
    """Class of an object, as a number, and its attributes; none where it keeps none, or is equal to itself alone."""
    slots = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}
    in_slots = {name: getattr(value, name) for name in sorted(slots) if hasattr(value, name)}
    attributes = getattr(value, "__dict__", None)
    known = type(value).__eq__ is not object.__eq__ and (attributes is not None or slots)
    return refer(type(value))[1], {**in_slots, **(attributes or {})} if known else None


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
