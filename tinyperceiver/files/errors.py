"""The base class of all errors that a user can put right, and suggestions for wrong names."""

import difflib
from collections.abc import Iterable

__all__ = ["TinyperceiverError", "did_you_mean"]


class TinyperceiverError(Exception):
    """Something that a user can put right: the message says what is wrong, and what to do.

    Each kind of error is also one of Python's own, such as `ValueError`. The command line
    shows these errors as one line. Any other exception is a mistake in the program, and
    keeps its traceback.
    """


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return the end of an error message about a wrong name: those of `known` that are like it.

    Returns:
        "; did you mean 'a' or 'b'?", or "" if none is like it.
    """
    known = list(dict.fromkeys(known))
    near = [name for name in known if wrong and wrong.lower() in name.lower()]
    near += difflib.get_close_matches(wrong, known, cutoff=0.7)
    near = list(dict.fromkeys(near))[:3]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
