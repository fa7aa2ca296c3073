"""Trial: whether the examples in a function's docstring hold, found out in a process of its own.

Run by path, standard library only: `python -P -s -S trial.py` reads a JSON list of sources from standard input and
prints a JSON list of outcomes: `pass`, `fail`, or `stopped` where a limit ended it. Each source runs in a fork with
little time and memory, no files, and the harmless built-ins alone. That is a second wall: callers give it only code in
which `data_pipeline.sources.debugging_tasks` has found no name and no attribute that could reach further.
"""

import builtins
import doctest
import json
import os
import resource
import sys

HARMLESS = (
    *("abs", "all", "any", "bin", "bool", "bytes", "chr", "complex", "dict", "divmod", "enumerate", "filter", "float"),
    *("frozenset", "hex", "int", "isinstance", "iter", "len", "list", "map", "max", "min", "next", "oct", "ord", "pow"),
    *("range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "zip", "ArithmeticError"),
    *("AssertionError", "Exception", "IndexError", "KeyError", "LookupError", "OverflowError", "RuntimeError"),
    *("StopIteration", "TypeError", "ValueError", "ZeroDivisionError"),
)
MODULES = ("bisect", "collections", "functools", "heapq", "itertools", "math", "string")
_SECONDS = 2
_MEMORY = 512 * 2**20


def outcome(source: str) -> str:
    """Outcome of the examples of the one function that a source defines, in a fork."""
    child = os.fork()
    if not child:
        code = 2
        try:
            code = 0 if _examples_hold(source) else 1
        except BaseException:
            code = 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return {0: "pass", 1: "fail"}.get(os.waitstatus_to_exitcode(status), "stopped")


def _examples_hold(source: str) -> bool:
    modules = {name: __import__(name) for name in MODULES}

    def imported(name: str, *rest: object, **named: object) -> object:
        return modules[name]

    harmless = {name: getattr(builtins, name) for name in HARMLESS}
    scope: dict[str, object] = {"__builtins__": {**harmless, "__import__": imported}, "__name__": "trial"}
    # Nothing can be opened or written from here on.
    for kind, limit in (
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    exec(compile(source, "<trial>", "exec"), scope)
    function = next(value for value in scope.values() if getattr(value, "__doc__", None) and _is_function(value))
    test = doctest.DocTestParser().get_doctest(function.__doc__ or "", scope, "trial", None, None)
    result = doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None, clear_globs=False)
    return result.attempted > 0 and result.failed == 0


def _is_function(value: object) -> bool:
    return type(value) is type(_is_function)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    answers = [outcome(source) for source in given]
    json.dump(answers, sys.stdout)
