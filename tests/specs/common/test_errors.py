import errno
import os

import pytest

from specs.common.errors import ShortageError, UserError, shortage


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"),
            "the disk is full: /data/x; what is finished is kept",
        ),
        (OSError(errno.EDQUOT, "quota"), "the disk quota is used up"),
        (OSError(errno.EFBIG, "big"), "a file may grow no further"),
        (OSError(errno.EROFS, "ro"), "the file system is read-only"),
        (OSError(errno.EMFILE, "many"), "too many files are open"),
        (MemoryError(), "memory is used up"),
        # As tensorstore and the engine repeat it.
        (ValueError('RESOURCE_EXHAUSTED: Error writing "c/0": No space left on device'), "the disk is full"),
        (OSError("6400 requested and 384 written"), "the disk is full"),
        (RuntimeError("UDF unexpectedly failed with traceback: ... MemoryError"), "memory is used up"),
    ],
)
def test_a_machine_that_lacks_room_is_told_in_one_line(error: Exception, words: str) -> None:
    for outer in (error, raised(ValueError("outer"), error)):
        told = shortage(outer)
        assert isinstance(told, ShortageError) and words in str(told) and "\n" not in str(told)


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.ENOENT, "absent"), UserError("bad"), KeyError("memory"), RuntimeError("")]
)
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    assert shortage(error) is None
