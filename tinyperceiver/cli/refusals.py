"""What a command refuses."""

from collections.abc import Iterator
from contextlib import contextmanager

from tinyperceiver.files.errors import TinyperceiverError

__all__ = ["CommandError", "refusing"]


class CommandError(TinyperceiverError):
    """What was asked of a command cannot be done; says why, and what to do."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turn the refusal of a function that only checks arguments into a `CommandError`.

    In any other function a `ValueError` may be a mistake in the program, which must keep
    its traceback.
    """
    try:
        yield
    except ValueError as error:
        raise CommandError(str(error)) from error
