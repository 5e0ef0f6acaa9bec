"""What a command refuses, and what it suggests instead."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tinyperceiver.files.errors import TinyperceiverError

__all__ = ["CommandError", "did_you_mean", "refusing"]


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


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of an error message about a wrong name: those of `known` that are like it.

    Returns:
        "; did you mean 'a' or 'b'?", or "" if none is like it.
    """
    known = list(dict.fromkeys(known))
    near = [name for name in known if wrong and wrong.lower() in name.lower()]
    near += difflib.get_close_matches(wrong, known, cutoff=0.7)
    near = list(dict.fromkeys(near))[:3]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
