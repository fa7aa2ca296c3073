"""Source text that stands in for numpy where the tests of a benchmark compare by it."""

NUMPY = """
def _stand_in():
    import math, sys, types

    def close(a, b, rtol, atol):
        if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
            if not isinstance(b, (list, tuple)):
                b = [b] * len(a)
            if not isinstance(a, (list, tuple)):
                a = [a] * len(b)
            if len(a) != len(b):
                raise ValueError("operands of different shapes")
            return all([close(x, y, rtol, atol) for x, y in zip(a, b)])
        if a == b:
            return True
        if not all(isinstance(x, (int, float, complex)) for x in (a, b)):
            raise TypeError("not a number")
        return bool(abs(b) != math.inf and abs(a - b) <= atol + rtol * abs(b))

    def allclose(a, b, rtol=1e-5, atol=1e-8):
        return close(a, b, rtol, atol)

    def assert_allclose(actual, desired, rtol=1e-7, atol=0):
        assert close(actual, desired, rtol, atol), "not equal to tolerance"

    numpy = types.ModuleType("numpy")
    numpy.allclose = allclose
    numpy.testing = types.ModuleType("numpy.testing")
    numpy.testing.assert_allclose = assert_allclose
    numpy.ndarray = type("ndarray", (), {})
    numpy.float32 = numpy.float64 = float
    numpy.inf, numpy.nan = math.inf, math.nan
    sys.modules["numpy"], sys.modules["numpy.testing"] = numpy, numpy.testing


_stand_in()
"""
"""What the tests of HumanEval+ and MBPP+ use of numpy, which no sandbox offers: comparison within a tolerance. It comes
after the candidate, which still finds no numpy."""
