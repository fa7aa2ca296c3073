"""Calls that cross from a stage to its workers: pickled, with the code they need, and errors told in one line."""

import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

from specs.common.errors import ShortageError, UserError, shortage
from specs.pipeline import code

_ENDED = re.compile(r"closed the connection unexpectedly|worker died|WorkerCrashedError|Broken pipe", re.I)


def worker(daft: Any) -> type:
    """The class of a map's workers, before Daft decorates it."""

    class Worker:
        """One process of a map; the function arrives once, with the code that it is part of."""

        def __init__(self, own: bytes, function: bytes) -> None:
            self._own, self._function = own, pickle.loads(function)

        @daft.method(return_dtype=daft.DataType.binary())  # type: ignore[untyped-decorator]
        def __call__(self, task: bytes) -> bytes:
            return guarded(self._own, self._function, pickle.loads(task))

    return Worker


def pickled(value: object) -> bytes:
    """A value as bytes; lambdas too, which the standard pickle refuses."""
    from daft.pickle import dumps

    return bytes(dumps(value))


def guarded(own: bytes, function: Callable[[Any], Any], given: Any) -> bytes:
    """The result, or the error that is told in one line. `own`: the code of the stage, which this process must have."""
    try:
        code.require(pickle.loads(own))
        return pickled((None, function(given)))
    except Exception as error:
        return failure(error)


def failure(error: Exception) -> bytes:
    """An error that is told in one line, for `unpickled`. Raises every other one again."""
    if isinstance(error, UserError):
        return pickled((UserError, str(error)))
    if (told := shortage(error)) is None:
        raise error
    return pickled((ShortageError, str(told)))


def unpickled(result: bytes) -> Any:
    """What `guarded` or `failure` made. Raises the UserError or ShortageError that the call ended with."""
    kind, value = pickle.loads(result)
    if kind is not None:
        raise kind(value)
    return value


def rows_of(frame: Any) -> Iterator[dict[str, Any]]:
    """Rows of a frame as they are ready. Raises ShortageError where the engine itself, or a worker, lacks room."""
    try:
        yield from frame.iter_rows()
    except Exception as error:
        if (told := shortage(error)) is not None:
            raise told from error
        if _ENDED.search(str(error)):
            raise ShortageError(
                "a worker was ended from outside, as the system does where memory is used up; what is finished is "
                "kept: run again with fewer workers (--workers, TWICE_WORKERS)"
            ) from error
        raise
