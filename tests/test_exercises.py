"""Each exercise: its solution passes, every mistake is named, and no wrong answer passes."""

import ast
import random
import re
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from fill_chapters import BOOK, exercises_of  # noqa: E402

from tinyperceiver.teaching.checking import (  # noqa: E402
    Case,
    Exercise,
    Mistake,
    Verdict,
    complaint,
    exercise,
    same,
)

CHAPTERS = {path.stem: exercises_of(path.stem) for path in sorted(BOOK.glob("[0-9]*.ipynb"))}
EXERCISES = [
    pytest.param(task, id=f"{chapter}-{task.name}")
    for chapter, tasks in CHAPTERS.items()
    for task in tasks
]


@pytest.mark.parametrize("task", EXERCISES)
def test_the_solution_passes(task):
    verdict = task(task.solution)
    assert verdict.passed, verdict.message
    assert verdict.message.startswith("Right. ") and len(verdict.message) > 20


@pytest.mark.parametrize("task", EXERCISES)
def test_the_stub_fails_and_says_what_is_missing(task):
    names = {}
    exec(task.stub, names)
    verdict = task(names[task.name])
    assert not verdict.passed and "returns nothing" in verdict.message, verdict.message


@pytest.mark.parametrize("task", EXERCISES)
def test_every_mistake_is_named(task):
    """With its own sentence, up to what placeholders of a sentence stand for."""
    assert len(task.mistakes) + len(task.caught) >= 2
    messages = {}
    for words, wrong in (task.mistakes | task.caught).items():
        verdict = task(task.program(wrong))
        assert not verdict.passed, f"{words!r} passes"
        messages[verdict.message] = words
        if isinstance(words, str):
            parts = re.split(r"\{[^}]*\}", words) if words in task.mistakes else [words]
            assert all(part in verdict.message for part in parts), f"{words!r}: {verdict}"
    assert len(messages) == len(task.mistakes) + len(task.caught), "two get the same message"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_three_to_five(chapter):
    names = [task.name for task in CHAPTERS[chapter]]
    assert len(set(names)) == len(names) and (not names or 3 <= len(names) <= 5)


# Wrong answers at random

ANSWERS = 100  # of an exercise


OTHERS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.And: ast.Or, ast.Or: ast.And,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.USub: ast.UAdd, ast.Not: ast.UAdd,
}  # fmt: skip


class Swap(ast.NodeTransformer):
    """Change one operator, comparison, constant or index of a program, the `place`-th."""

    def __init__(self, place: int) -> None:
        self.place, self.seen = place, 0

    def visit(self, node: ast.AST) -> ast.AST:
        node = self.generic_visit(node)
        is_number = isinstance(node, ast.Constant) and isinstance(node.value, (int, float))
        if is_number or type(node) in OTHERS or isinstance(node, ast.Tuple):
            self.seen += 1
            if self.seen == self.place:
                if is_number:
                    return ast.Constant(node.value + 1)
                if isinstance(node, ast.Tuple):
                    return ast.Tuple(node.elts[::-1], node.ctx)
                return OTHERS[type(node)]()
        return node


def mutants(task: Exercise) -> list[str]:
    """The solution with one thing changed, in every way that `Swap` knows."""
    found = []
    while True:
        swap = Swap(len(found) + 1)
        tree = ast.fix_missing_locations(swap.visit(ast.parse(task.code)))
        if swap.seen < swap.place:
            return found
        found.append(ast.unparse(tree))


def with_nan(result):
    if isinstance(result, (list, tuple)):
        return type(result)(map(with_nan, result))
    if isinstance(result, (torch.Tensor, np.ndarray)):
        return result * float("nan")
    return float("nan")


CONSTANTS = [
    None, 0, 1, -1, 0.5, True, False, float("nan"), float("inf"), 1j, "", "text", b"", b"MThd", [],
    [0], [None], (), (0, 1), (None, None), ("a", "b"), {}, {"a": 1}, {0}, object(), int, len,
    torch.zeros(3), torch.tensor(1.0), torch.zeros(2, 3, dtype=torch.bool), np.zeros((2, 2)),
    np.float32(2), [torch.zeros(2)], [np.zeros(2)], torch.zeros(0),
]  # fmt: skip
CHANGES = [
    lambda r: -r, lambda r: r + 1, lambda r: r * 2, lambda r: r[::-1], lambda r: r[:-1],
    lambda r: r[1:], lambda r: [r], lambda r: (r, r), lambda r: list(r), lambda r: tuple(r),
    lambda r: iter(r), lambda r: str(r), lambda r: r.T, lambda r: r.flatten(), lambda r: r[None],
    lambda r: r.flip(0), lambda r: r.numpy(), lambda r: torch.tensor(r), lambda r: np.array(r),
    lambda r: r.tolist(), lambda r: r.double(), lambda r: r.long(), lambda r: r.bool(),
    lambda r: int(r), lambda r: float(r), lambda r: sorted(r), lambda r: r.requires_grad_(),
    lambda r: [None for _ in r], lambda r: [0 for _ in r], lambda r: dict.fromkeys(r), with_nan,
    lambda r: r.numpy().astype("U8"), lambda r: r.to_sparse(), lambda r: r.roll(1, -1),
]  # fmt: skip


def wrong_answers(task: Exercise) -> dict[str, object]:
    """Answers to an exercise, most of them wrong, by what they are."""

    def changed(change):
        return lambda *args: change(task.solution(*args))

    answers = {f"returns {value!r}": lambda *args, value=value: value for value in CONSTANTS}
    answers |= {f"change {i}": changed(change) for i, change in enumerate(CHANGES)}
    for i in range(3):
        answers[f"argument {i}"] = lambda *args, i=i: args[i]
    for code in mutants(task):
        names = dict(task.solution.__globals__)
        exec(compile(code, "answer", "exec"), names)
        answers[code] = names[task.name]
    return answers


@contextmanager
def one_second():
    """Stop an answer that never ends, after a second of this process."""

    def stop(*_):
        raise TimeoutError("it never ends")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def check_answer(task: Exercise, name: str, answer: object) -> None:
    """Assert that an answer passes only if it is right, and is called no mistake that it is not."""
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    try:
        with one_second(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict = task(answer)
    except TimeoutError:  # in a judge's own code: a slow exercise
        return
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1]), name
    assert np.random.get_state()[1].tolist() == states[2], name
    assert verdict.message.startswith("Right. " if verdict.passed else "Not yet: "), name
    if "it never ends" in verdict.message or task.accepts is not None:
        return
    named = [
        task.program(wrong)
        for sentence, wrong in task.mistakes.items()
        if isinstance(sentence, str)
        and all(part in verdict.message for part in re.split(r"\{[^}]*\}", sentence))
    ]
    for case, expected in zip(task._cases, task._expected, strict=True):
        with one_second(), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            found, *like = (task._result(program, case) for program in (answer, *named))
        if not same(found, expected, task.tolerance):
            assert not verdict.passed, f"{name} passes"
            assert not named or any(same(found, wrong, task.tolerance) for wrong in like), (
                f"{name} is no such mistake: {verdict}"
            )
            return


@pytest.mark.parametrize("task", EXERCISES)
def test_wrong_answers_at_random_are_judged_rightly(task):
    answers = wrong_answers(task)
    task(object)  # computes what stays known of the cases, which no clock may stop
    for name in random.Random(task.name).sample(sorted(answers), min(ANSWERS, len(answers))):
        check_answer(task, name, answers[name])


# How a check works


@exercise("Twice", cases=[([1],), ([2, 3],)], praise="Twice 1 is 2.", returns="a list of numbers")
def double(values):
    """Write `double(values)`."""
    # Each of them.
    return [2 * value for value in values]


double.mistakes |= {
    "{call} gives back what it got.": {"2 * value for": "value for"},
    "the sum of {values}": lambda values: [sum(values)],
}


def test_a_check_says_what_it_found():
    right = double(lambda values: [value + value for value in values])
    assert right == Verdict(True, "Right. Twice 1 is 2.") and repr(right) == right.message
    same = double(lambda values: values)
    assert same == Verdict(False, "Not yet: double([1]) gives back what it got.")
    other = double(lambda values: [2] if values == [1] else [0])
    assert other.message == "Not yet: double([2, 3]) should be [4, 6], and is [0]."


def test_a_mistake_is_named_by_what_most_results_show():
    def only_once(values):  # like neither on the whole, on the first like one
        return [1] if values == [1] else [7]

    assert "gives back" in double(only_once).message
    assert "should be" in double(lambda values: [9]).message


def test_what_is_like_no_mistake_is_not_tried_on_longer_cases():
    seen = []

    def always_nine(values):
        seen.append(values)
        return [9]

    assert not double(always_nine).passed and seen == [[1]]
    assert not double(lambda values: seen.append(values) or values).passed
    assert seen == [[1], [1], [2, 3]]


def test_a_check_survives_what_readers_write():
    def stub(values): ...

    def stops(values):
        return values[5]

    def changes_its_argument(values):
        for i in range(len(values)):
            values[i] *= 2
        return values

    assert "double returns nothing" in double(stub).message
    assert "stops with IndexError" in double(stops).message
    assert "not a list" in double([2]).message
    assert double(changes_its_argument).passed, "each call has its own arguments"
    assert "it should return a list of numbers" in double(lambda values: 3).message


def test_what_a_notebook_shows():
    assert double.task == "Write `double(values)`."
    assert double.stub == "def double(values):\n    pass  # your code"
    assert double.code == (
        "def double(values):\n    # Each of them.\n    return [2 * value for value in values]"
    )


def test_a_change_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="'3' is not there exactly once"):
        double.program({"3": "4"})


def test_a_case_has_words_of_its_own():
    @exercise("Half", cases=[Case(4, about="Of {name}: {got}.", wrong="No.", name="four")])
    def half(x): ...

    half.solution = lambda x: x / 2
    assert half(lambda x: 1.0).message == "Not yet: Of four: 1. No."


def test_a_diagnosis_and_a_judge_have_their_say():
    @exercise("Nothing", cases=[(1,), (-1,)], praise="Yes.")
    def negative(x):
        """Say."""
        return -x

    @negative.diagnose
    def _(got, expected, x):
        return f"{x} stays" if got == x else None

    @negative.judge
    def _(answer):
        if answer(0) == 7:
            raise Mistake("0 is special")

    assert negative(lambda x: x).message == "Not yet: 1 stays"
    assert negative(lambda x: -x or 7).message == "Not yet: 0 is special"
    assert negative(negative.solution).message == "Right. Yes."


def test_a_long_result_is_shown_by_where_it_differs():
    @exercise("Long", cases=[(100,)], praise="Yes.")
    def numbers(n):
        """Say."""
        return [float(i) for i in range(n)]

    @exercise("Wide", cases=[(5,)], praise="Yes.")
    def square(n):
        """Say."""
        return torch.arange(n * n).view(n, n)

    off = numbers(lambda n: [*range(n - 1), 7.5])
    assert off.message == "Not yet: numbers(100)[99] should be 99, and is 7.5."
    assert "has 99 items, where 100 are right" in numbers(lambda n: list(range(n - 1))).message
    off = square(lambda n: torch.arange(n * n).view(n, n).clamp(max=20))
    assert "differs by up to 4: at [4, 4] it has 20, where 24 is right" in off.message


def test_a_result_may_come_in_more_than_one_form():
    def rows(found, n):
        if len(found) != n:
            raise Mistake(f"{n} rows, please")
        return [list(row) for row in found]

    @exercise("Rows", cases=[(2,)], read=rows, praise="Yes.")
    def table(n):
        """Say."""
        return [[0]] * n

    assert table(lambda n: ((0,), (0,))).passed
    assert table(lambda n: [[0]]).message == "Not yet: 2 rows, please"
    assert "stops with TypeError" in table(lambda n: 5).message
    assert "should be [[0], [0]], and is [[0], [1]]" in table(lambda n: [[0], [1]]).message


def test_more_than_one_result_can_be_right():
    @exercise(
        "Any", cases=[(4,), (9,)], accepts=lambda got, expected, x: got**2 == x, praise="Yes."
    )
    def root(x):
        """Say."""
        return round(x**0.5)

    assert root(lambda x: -round(x**0.5)).passed
    assert root(lambda x: x).message == "Not yet: root(4) should be 2, and is 4."
    assert "returns a str" in root(str).message


def test_a_fault_of_a_judge_is_not_the_readers():
    @exercise("Broken")
    def broken(): ...

    @broken.judge
    def _(answer):
        answer()
        raise KeyError("judge")

    with pytest.raises(KeyError, match="judge"):
        broken(lambda: 1)


@pytest.mark.parametrize(
    "found, expected, words",
    [
        ("2", 1, "returns a str; it should return an integer"),
        (1.0, 1, "returns a float; it should return an integer"),
        (True, 1, "returns a bool"),
        ((1, 2, 3), (1, 2), "returns a tuple of 3; it should return a tuple of 2"),
        ((1, "a"), (1, 2), "a tuple whose item 1 is a str"),
        ({"a": None}, {"a": 1.0}, "a dict whose item 'a' is nothing"),
        (torch.zeros(2), torch.zeros(3), "a tensor of shape (2,)"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "type torch.float32"),
        (np.zeros(2), torch.zeros(2), "returns an array"),
        ((n for n in [1]), [1], "returns a generator; it should return a list"),
    ],
)
def test_a_result_of_another_kind_is_named(found, expected, words):
    assert words in complaint(found, expected, "f")


@pytest.mark.parametrize(
    "found, expected",
    [
        (1, 1.0),
        (np.float32(0.5), 0.5),
        (torch.tensor(2), 2),
        ([1, 2.0], (1, 2.0)),
        (torch.tensor([1.0, float("-inf")]), torch.tensor([1.0, float("-inf")]).double()),
        ({"a": np.arange(3)}, {"a": np.arange(3)}),
        (1e6 + 1e-3, 1e6),
    ],
)
def test_results_that_are_the_same(found, expected):
    assert complaint(found, expected, "f") == "" and same(found, expected)


@pytest.mark.parametrize(
    "found, expected",
    [
        (1.001, 1.0),
        (float("nan"), 1.0),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        (134_840_833, 134_840_832),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("-inf")])),
    ],
)
def test_results_that_differ(found, expected):
    assert not same(found, expected)
