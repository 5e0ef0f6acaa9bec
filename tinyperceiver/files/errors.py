"""The base class of all errors that a user can put right."""

__all__ = ["TinyperceiverError"]


class TinyperceiverError(Exception):
    """Something that a user can put right: the message says what is wrong, and what to do.

    Each kind of error is also one of Python's own, such as `ValueError`. The command line
    shows these errors as one line. Any other exception is a mistake in the program, and
    keeps its traceback.
    """
