"""The one error type for bad input: a single clear line, exit code 2."""


class UserError(Exception):
    """Bad input. The message is one line that names the place and the remedy; commands print it and exit 2."""
