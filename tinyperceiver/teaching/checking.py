"""How exercises are declared and checked.

An exercise is declared once: by its solution, whose docstring is the task, by the cases
on which an answer is compared with it, and by wrong programs, each with the sentence to
say to a reader whose answer does what that program does.
"""

import ast
import copy
import functools
import inspect
import math
import numbers
import random
import re
import string
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Case",
    "Exercise",
    "Mistake",
    "Verdict",
    "complaint",
    "exercise",
    "refuse",
    "same",
]


class Mistake(Exception):
    """What is wrong with an answer, in a sentence or two for who wrote it."""


def refuse(faults: dict[str, bool]) -> None:
    """For judges: raise the first mistake that is one: sentence -> whether it is to be said."""
    for sentence, is_wrong in faults.items():
        if is_wrong:
            raise Mistake(sentence)


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer; a notebook shows the message."""

    passed: bool
    message: str

    def __repr__(self) -> str:
        return self.message


class Case:
    """Arguments of one call, and words for sentences about it: `{name}` stands for one.

    The words `about` and `wrong` replace those of the exercise.
    """

    def __init__(self, *arguments: Any, **words: str) -> None:
        self.arguments, self.words = arguments, words


# A wrong program, or what it changes in the text of the solution: what is there -> by what.
Program = Callable | dict[str, str]
# A sentence, or a function that makes it of (got, expected, *arguments).
Sentence = str | Callable[..., str]


class Exercise:
    """One exercise, which checks an answer when it is called with it.

    Args:
        solution: a right answer. Its docstring is the task, in Markdown.
        title: of the exercise.
        cases: arguments to compare on, the simplest first: a tuple or a `Case` for each,
            or a function that yields them. Random numbers drawn by that function are
            the same in each check, and leave the reader's generators as they were.
        praise: what a right answer shows. A judge may return another.
        read: makes of (result, *arguments) what is compared, where a result may come in more
            than one form, such as rows or a tensor; it may raise `Mistake`.
        returns: what the answer should return, in words, for one that returns
            something else.
        about: begins each sentence about a wrong result, such as `"{call} is {got}."`.
        wrong: what to say of a wrong result that is like no mistake.
        tolerance: how far off floats may be, relative to the largest of a result.
        accepts: says of (got, expected, *arguments) whether the result is right, where
            more than one is.

    In `about`, `wrong` and the sentences of mistakes `{call}`, `{got}`, `{expected}` and
    `{difference}` stand for the first case that went wrong, and the names of parameters
    and of the words of the case for these, all with Python's format specifications.
    """

    def __init__(
        self,
        solution: Callable,
        title: str,
        *,
        cases: Iterable | Callable[[], Iterable] = (),
        praise: str = "",
        read: Callable | None = None,
        returns: str = "",
        about: Sentence = "",
        wrong: Sentence = "{difference}",
        tolerance: float = 1e-5,
        accepts: Callable[..., bool] | None = None,
    ) -> None:
        self.solution, self.title, self.name = solution, title, solution.__name__
        self.cases, self.praise, self.read, self.returns = cases, praise, read, returns
        self.about, self.wrong, self.tolerance = about, wrong, tolerance
        self.accepts = accepts
        self.mistakes: dict[Sentence, Program] = {}
        self.caught: dict[str, Program] = {}
        self.diagnoses: list[Callable] = []
        self.judges: list[Callable] = []

    # Declarations

    def mistake(self, sentence: Sentence) -> Callable[[Callable], Callable]:
        """Declare the program below, and what to say of answers that do what it does.

        `exercise.mistakes |= {sentence: program}` does so for short ones. In place of the
        program may stand what the mistake changes in the text of the solution, a dict of
        what is there once and what stands there instead.
        """
        return lambda program: self.mistakes.setdefault(sentence, program)

    def catch(self, phrase: str) -> Callable[[Callable], Callable]:
        """Declare the wrong program below, for which the message contains `phrase`.

        It shows that a diagnosis, a judge or the words of a case find it;
        `exercise.caught |= {phrase: program}` does so for short ones.
        """
        return lambda program: self.caught.setdefault(phrase, program)

    def diagnose(self, diagnosis: Callable) -> Callable:
        """Declare what (got, expected, *arguments) shows: a sentence, or None.

        It is asked about a wrong result of the right kind that is like no mistake.
        """
        self.diagnoses.append(diagnosis)
        return diagnosis

    def judge(self, judge: Callable) -> Callable:
        """Declare a further check of answers that are right in all cases.

        It gets the answer, raises `Mistake`, and may return the praise.
        """
        self.judges.append(judge)
        return judge

    def expect(self, found: Any, example: Any) -> Any:
        """For judges: the result, if its kind, shape and type are those of the example."""
        if problem := complaint(found, example, self.name, self.returns):
            raise Mistake(problem)
        return found.to_dense() if isinstance(found, Tensor) else found

    # What a notebook shows

    @property
    def task(self) -> str:
        """What to do, in Markdown."""
        return inspect.getdoc(self.solution)

    @property
    def stub(self) -> str:
        """What a reader begins with."""
        return f"def {self.name}{inspect.signature(self.solution)}:\n    pass  # your code"

    @property
    def check(self) -> str:
        """The call; a chapter imports the module of its exercises as `check`."""
        return f"check.{self.name}({self.name})"

    @functools.cached_property
    def code(self) -> str:
        """The text of the solution, without its docstring."""
        source = inspect.getsource(self.solution)
        [function] = ast.parse(source).body
        task = function.body[0]
        lines = source.splitlines()
        head = "\n".join(lines[function.lineno - 1 : task.lineno - 1])
        body = "\n".join(lines[task.end_lineno :])
        return head + "\n" + body.lstrip("\n")

    def program(self, wrong: Program) -> Callable:
        """A wrong program, made of the solution if it is declared by what it changes.

        Raises:
            ValueError: a part to be changed is not in the solution exactly once.
        """
        if callable(wrong):
            return wrong
        code = self.code
        if bad := [part for part in wrong if code.count(part) != 1]:
            raise ValueError(f"{self.name}: {bad[0]!r} is not there exactly once:\n{code}")
        parts = re.compile("|".join(map(re.escape, wrong)))
        names = dict(self.solution.__globals__)
        exec(parts.sub(lambda found: wrong[found[0]], code), names)
        return names[self.name]

    # What is known of the cases

    @functools.cached_property
    def _cases(self) -> list[Case]:
        with _own_randomness():
            cases = self.cases() if callable(self.cases) else self.cases
            return [c if isinstance(c, Case) else Case(*c) for c in cases]

    @functools.cached_property
    def _expected(self) -> list:
        with _own_randomness():
            return [self._run(self.solution, c) for c in self._cases]

    @functools.cached_property
    def _wrong_results(self) -> list[tuple[Sentence, list]]:
        found = []
        for sentence, wrong in self.mistakes.items():
            program = self.program(wrong)
            with _own_randomness(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs are not the reader's
                found.append((sentence, [self._result(program, c) for c in self._cases]))
        return found

    def _run(self, program: Callable, case: Case) -> Any:
        found = program(*copy.deepcopy(case.arguments))
        return found if found is None or not self.read else self.read(found, *case.arguments)

    def _result(self, program: Callable, case: Case) -> Any:
        try:
            return self._run(program, case)
        except Exception as error:
            return _Raised(error)

    # The check

    def __call__(self, answer: Callable) -> Verdict:
        """Say what is wrong with an answer, or what it shows if nothing is."""
        if not callable(answer):
            kind = type(answer).__name__
            return Verdict(False, f"Not yet: give the function itself, not a {kind}.")
        raised = []  # what the answer raises, to tell it from faults of the judge

        def asked(*args, **kwargs):
            """The answer, on copies of its arguments."""
            try:
                found = answer(*copy.deepcopy(args), **copy.deepcopy(kwargs))
            except Exception as error:
                raised.append(error)
                raise
            if found is None:
                raise Mistake(complaint(None, 0, self.name))
            return found

        with _own_randomness():
            try:
                self._compare(answer)
                praise = [judge(asked) for judge in self.judges]
            except Mistake as mistake:
                return Verdict(False, f"Not yet: {mistake}")
            except Exception as error:
                if error not in raised:
                    raise
                return Verdict(False, f"Not yet: {self.name} {_Raised(error)}")
        return Verdict(True, f"Right. {next(filter(None, praise), self.praise)}")

    def _compare(self, answer: Callable) -> None:
        """Raise a mistake unless the answer is right in all cases."""
        got, failing, likely = [], [], []
        for i, (case, expected) in enumerate(zip(self._cases, self._expected, strict=True)):
            got.append(self._result(answer, case))
            if self._is_right(got[i], expected, case):
                continue
            if not failing:
                likely = [
                    (sentence, results)
                    for sentence, results in self._wrong_results
                    if same(got[i], results[i], self.tolerance)
                ]
            failing.append(i)
            # Longer cases only tell mistakes apart, and may take a wrong answer all memory.
            if not likely or isinstance(got[i], _Raised):
                break
        if failing:
            raise Mistake(self._sentence(got, failing, likely))

    def _is_right(self, got: Any, expected: Any, case: Case) -> bool:
        if self.accepts is None:
            return same(got, expected, self.tolerance)
        if isinstance(got, _Raised) or complaint(got, expected, self.name):
            return False
        return bool(self.accepts(copy.deepcopy(got), expected, *case.arguments))

    def _sentence(self, got: list, failing: list[int], likely: list) -> str:
        """What to say of wrong results, about the first of them."""
        i = failing[0]
        case, expected = self._cases[i], self._expected[i]

        def said(sentence: Sentence) -> str:
            parts = case.words.get("about", self.about), sentence
            parts = (self._written(part, case, got[i], expected) for part in parts)
            return " ".join(filter(None, parts))

        if sentence := self._likest(got, failing, likely):
            return said(sentence)
        if isinstance(got[i], _Raised):
            error = got[i].error
            return str(error) if isinstance(error, Mistake) else f"{self.name} {got[i]}"
        if kind := complaint(got[i], expected, self.name, self.returns):
            return kind
        for diagnosis in self.diagnoses:
            if found := diagnosis(copy.deepcopy(got[i]), expected, *case.arguments):
                return said(lambda *_, found=found: found)
        return said(case.words.get("wrong", self.wrong))

    def _likest(
        self, got: list, failing: list[int], likely: list[tuple[Sentence, list]]
    ) -> Sentence | None:
        """The sentence of the mistake that the results show.

        Args:
            likely: mistakes with their results, which agree in the first case that failed.
                Of the cases in which the answer or the mistake is wrong, the results must
                agree in half or more.
        """
        best, likest = 0.0, None
        for sentence, results in likely:
            shown = [
                i
                for i, result in enumerate(results[: len(got)])
                if i in failing or not self._is_right(result, self._expected[i], self._cases[i])
            ]
            agree = sum(same(got[i], results[i], self.tolerance) for i in shown)
            share = agree / len(shown)
            if share >= 0.5 and share > best:
                best, likest = share, sentence
        return likest

    def _written(self, sentence: Sentence, case: Case, got: Any, expected: Any) -> str:
        """A sentence with its placeholders filled in."""
        if callable(sentence):
            return sentence(got, expected, *case.arguments)
        parameters = list(inspect.signature(self.solution).parameters)
        named = dict(zip(parameters, case.arguments, strict=False))
        call = ", ".join(
            text if len(text := show(value)) <= 40 else name for name, value in named.items()
        )
        words = {"call": f"{self.name}({call})", "got": got, "expected": expected}
        if "{difference" in sentence:
            words["difference"] = _difference(got, expected, words["call"], self.tolerance)
        return _Words().vformat(sentence, (), named | words | case.words)


def exercise(title: str, **options: Any) -> Callable[[Callable], Exercise]:
    """Make an exercise of the solution below; see `Exercise` for the options."""
    return lambda solution: Exercise(solution, title, **options)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Seed the global generators, and leave them as they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class _Raised:
    """An exception in place of a result."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __str__(self) -> str:
        line = traceback.extract_tb(self.error.__traceback__)[-1].line
        where = f" at `{line}`" if line else ""
        return f"stops with {type(self.error).__name__}: {self.error}{where}"


# Results: numbers, strings, bytes, tensors, arrays, and lists, tuples and dicts of them


def _number_kind(value: Any) -> str:
    """`b`ool, `i`nt, `f`loat, `c`omplex, of numbers, tensors and arrays; else ``."""
    if isinstance(value, Tensor):
        if value.dtype == torch.bool:
            return "b"
        is_float = value.dtype.is_floating_point
        return "c" if value.dtype.is_complex else "f" if is_float else "i"
    if isinstance(value, (np.ndarray, np.generic, numbers.Number)):
        return np.asarray(value).dtype.kind.replace("u", "i")
    return ""


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _kind(value: Any) -> str:
    """What a value is, for a sentence: "returns …"."""
    if value is None:
        return "nothing"
    if isinstance(value, (Tensor, np.ndarray)):
        name = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{name} of shape {_shape(value)} and type {value.dtype}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _wanted(value: Any) -> str:
    """What a value is, for a sentence: "it should return …"."""
    if isinstance(value, (Tensor, np.ndarray, tuple)):
        return _kind(value)
    if isinstance(value, (list, dict, bytes)):
        return {list: "a list", dict: "a dict", bytes: "bytes"}[type(value)]
    kinds = {"b": "True or False", "i": "an integer", "f": "a number"}
    return kinds.get(_number_kind(value)) or _kind(value)


def _misfit(found: Any, expected: Any, *, in_list: bool = False) -> str:
    """How `found` is of another kind than `expected`, after "returns"; else ``.

    The length of an array in a list is free, as that of the list is.
    """
    kind = _number_kind(expected)
    if kind:
        is_array = isinstance(expected, (Tensor, np.ndarray)) and bool(expected.ndim)
        if is_array:
            fits = isinstance(found, Tensor) == isinstance(expected, Tensor)
            fits = fits and isinstance(found, (Tensor, np.ndarray))
        else:
            fits = True
        # An integer will do for a float.
        fits = fits and _number_kind(found) in ("if" if kind == "f" else kind)
        shapes = _shape(found), _shape(expected)
        if in_list and shapes[0] and shapes[1]:
            shapes = shapes[0][1:], shapes[1][1:]
        fits = fits and _number_kind(found) and shapes[0] == shapes[1]
        return "" if fits else _kind(found)
    if isinstance(expected, (list, tuple)):
        is_tuple = isinstance(expected, tuple)
        if not isinstance(found, (list, tuple) if is_tuple else list):
            return _kind(found)
        if is_tuple and len(found) != len(expected):
            return _kind(found)
        pairs = enumerate(zip(found, expected, strict=False))
    elif isinstance(expected, dict):
        if not isinstance(found, dict):
            return _kind(found)
        pairs = ((repr(k), (found[k], v)) for k, v in expected.items() if k in found)
    else:
        return "" if isinstance(found, type(expected)) else _kind(found)
    for place, (item, wanted) in pairs:
        if misfit := _misfit(item, wanted, in_list=isinstance(expected, list)):
            return f"a {type(found).__name__} whose item {place} is {misfit}"
    return ""


def complaint(found: Any, expected: Any, name: str, returns: str = "") -> str:
    """What is wrong with the kind, shape or type of a result; `` if nothing is.

    Args:
        expected: a right result. Where it has floats integers will do, and where it is a
            tuple a list will. How long a list and the arrays in it are, and which keys a
            dict has, is free.
        name: of the function that returned `found`.
        returns: in words, what it should return.
    """
    if found is None and expected is not None:
        return (
            f"{name} returns nothing. Put your code in place of `pass`, and `return` what it finds."
        )
    misfit = _misfit(found, expected)
    if not misfit:
        return ""
    wanted = returns or _wanted(expected)
    shapes = _shape(found), _shape(expected)
    if returns and all(shapes) and shapes[0] != shapes[1]:
        wanted += f", here of shape {shapes[1]}"
    return f"{name} returns {misfit}; it should return {wanted}."


def _floats(value: Any) -> Iterator[np.ndarray]:
    """All floats in a result."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _floats(item)
    elif _number_kind(value) == "f":
        yield _array(value).ravel()


def _array(value: Any) -> np.ndarray:
    """Numbers as an array, (...), floats in double precision."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().to_dense()
        value = value.double() if value.dtype.is_floating_point else value
        value = value.numpy()
    value = np.asarray(value)
    return value.astype(float) if value.dtype.kind == "f" else value


def same(found: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    """Whether two results are equal, floats within a tolerance.

    Args:
        tolerance: how far off floats may be, relative to the largest of `expected`.
    """
    if isinstance(found, _Raised) or isinstance(expected, _Raised):
        return (
            isinstance(found, _Raised)
            and isinstance(expected, _Raised)
            and type(found.error) is type(expected.error)
        )
    every = np.concatenate([np.zeros(0), *_floats(expected)])
    largest = np.abs(every[np.isfinite(every)]).max(initial=0.0)
    return _equal(found, expected, tolerance * (largest or 1.0))


def _equal(found: Any, expected: Any, off: float) -> bool:
    if _misfit(found, expected) or _shape(found) != _shape(expected):
        return False
    if kind := _number_kind(expected):
        found, expected = _array(found), _array(expected)
        if kind != "f":
            return np.array_equal(found, expected)
        return bool(np.isclose(found, expected, rtol=0, atol=off, equal_nan=True).all())
    if isinstance(expected, (list, tuple)):
        pairs = zip(found, expected, strict=False)
        return len(found) == len(expected) and all(_equal(*pair, off) for pair in pairs)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            _equal(found[key], value, off) for key, value in expected.items()
        )
    return bool(found == expected)


# Words


def show(value: Any) -> str:
    """A value in a few words: short ones whole, long ones by their shape."""
    if isinstance(value, (Tensor, np.ndarray)):
        values = _array(value)
        return show(values.tolist()) if values.size <= 12 else _kind(value)
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, dict):
        text = ", ".join(f"{key!r}: {show(item)}" for key, item in value.items())
        return f"{{{text}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(show, value))}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    return str(value) if isinstance(value, np.generic) else repr(value)


class _Words(string.Formatter):
    """`str.format` that shows values without a specification as `show` does."""

    def format_field(self, value: Any, spec: str) -> str:
        return format(value, spec) if spec or isinstance(value, str) else _short(value)


def _short(value: Any) -> str:
    return text if len(text := show(value)) <= 200 else f"{text[:200]} …"


def _difference(found: Any, expected: Any, call: str, tolerance: float) -> str:
    """How a result differs from the right one of its kind, in a sentence."""
    if _shape(expected) and _shape(found) == _shape(expected):
        got, right = _array(found), _array(expected)
        is_nan = np.isnan(got) & ~np.isnan(right) if got.dtype.kind == "f" else got != got
        if is_nan.any():
            place = np.argwhere(is_nan)[0].tolist()
            return f"{call} has NaN at {place}, where {show(right[tuple(place)])} is right."
        if right.size > 12:
            with np.errstate(invalid="ignore"):  # infinity minus infinity
                off = np.abs(np.where(got == right, 0.0, got.astype(float) - right))
            place = np.unravel_index(off.argmax(), off.shape)
            where = [int(axis) for axis in place]
            return (
                f"{call} differs by up to {off.max():.2g}: at {where} it has "
                f"{show(got[place])}, where {show(right[place])} is right."
            )
    elif isinstance(expected, float) and math.isnan(float(found)):
        return f"{call} is NaN, where {show(expected)} is right."
    elif isinstance(expected, (list, tuple)) and len(show(expected)) > 200:
        if len(found) != len(expected):
            return f"{call} has {len(found)} items, where {len(expected)} are right."
        pairs = zip(found, expected, strict=True)
        differ = (i for i, pair in enumerate(pairs) if not same(*pair, tolerance))
        place = next(differ, 0)
        return _difference(found[place], expected[place], f"{call}[{place}]", tolerance)
    return f"{call} should be {_short(expected)}, and is {_short(found)}."
