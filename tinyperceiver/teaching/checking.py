"""How exercises are checked: a checker tries a reader's function and says what is wrong."""

import copy
import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Mistake", "Verdict", "checker"]


class Mistake(Exception):
    """What is wrong with an answer, in a sentence or two for who wrote it."""


@dataclass(frozen=True)
class Verdict:
    """What a checker says of an answer; a notebook shows the message."""

    passed: bool
    message: str

    def __repr__(self) -> str:
        return self.message


def checker(check: Callable[[Callable], str]) -> Callable[[Callable], Verdict]:
    """Make a checker of a function that tries an answer.

    Args:
        check: called with the reader's function. It raises `Mistake` for what is wrong,
            and returns what its answer shows if nothing is. The function it gets works
            on copies of its arguments, and is itself a `Mistake` as long as it returns
            nothing.
    """

    @functools.wraps(check)
    def verdict(answer: Callable) -> Verdict:
        if not callable(answer):
            kind = type(answer).__name__
            return Verdict(False, f"Not yet: give the function itself, not a {kind}.")
        name = getattr(answer, "__name__", "your function")
        own_code = []  # frames of the answer, when it raises

        def asked(*args, **kwargs):
            try:
                result = answer(*copy.deepcopy(args), **copy.deepcopy(kwargs))
            except Exception as error:
                own_code.append(error)
                raise
            if result is None:
                raise Mistake(
                    f"{name} returns nothing. Put your code in place of `pass`, and "
                    "`return` what it finds."
                )
            return result

        try:
            praise = check(asked)
        except Mistake as mistake:
            return Verdict(False, f"Not yet: {mistake}")
        except Exception as error:
            if error not in own_code:
                raise
            line = traceback.extract_tb(error.__traceback__)[-1].line
            where = f" at `{line}`" if line else ""
            kind = type(error).__name__
            return Verdict(False, f"Not yet: {name} stops with {kind}: {error}{where}")
        return Verdict(True, f"Right. {praise}")

    return verdict
