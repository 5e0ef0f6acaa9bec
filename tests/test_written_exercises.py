"""Exercises in book/exercises: the solution passes, the stub does not, mistakes are named."""

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from fill_chapters import BOOK, WrittenExercise, read_exercises  # noqa: E402

from tinyperceiver.teaching.checking import Verdict  # noqa: E402

FILES = sorted((BOOK / "exercises").glob("[0-9]*.py"))
EXERCISES = [
    pytest.param(head, exercise, id=f"{path.stem}-{exercise.name}")
    for path in FILES
    for head, exercises in [read_exercises(path)]
    for exercise in exercises
]


def verdict_of(head: str, code: str, exercise: WrittenExercise) -> Verdict:
    """What the exercise's check says of `code`, which it is run after."""
    namespace = {}
    exec(compile(head, "imports", "exec"), namespace)
    exec(compile(code, exercise.name, "exec"), namespace)
    verdict = eval(compile(exercise.check, "check", "eval"), namespace)
    assert isinstance(verdict, Verdict), f"{exercise.check} gives no verdict"
    return verdict


@pytest.mark.parametrize("head, exercise", EXERCISES)
def test_the_solution_passes(head, exercise):
    verdict = verdict_of(head, exercise.solution, exercise)
    assert verdict.passed, verdict.message
    assert verdict.message.startswith("Right. ") and len(verdict.message) > 20


@pytest.mark.parametrize("head, exercise", EXERCISES)
def test_the_stub_fails_and_says_what_is_missing(head, exercise):
    verdict = verdict_of(head, exercise.stub, exercise)
    assert not verdict.passed
    assert "returns nothing" in verdict.message, verdict.message


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # some divide by zero
@pytest.mark.parametrize("head, exercise", EXERCISES)
def test_typical_mistakes_are_named(head, exercise):
    assert len(exercise.mistakes) >= 2
    messages = set()
    for phrase, code in exercise.mistakes:
        verdict = verdict_of(head, code, exercise)
        assert not verdict.passed, f"{phrase!r} passes"
        assert phrase in verdict.message, f"{phrase!r} is not in: {verdict.message}"
        messages.add(verdict.message)
    assert len(messages) == len(exercise.mistakes), "mistakes that get the same message"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_chapter_has_three_to_five(path):
    _, exercises = read_exercises(path)
    assert 3 <= len(exercises) <= 5
    assert len({exercise.name for exercise in exercises}) == len(exercises)


@pytest.mark.parametrize(
    "text, fault",
    [
        ("# %% nonsense\n", "starts no part"),
        ("# %% a: A\n# Do.\n# %% stub\nx\n# %% check\nc\n", "lacks a task"),
        (
            "# %% a: A\n# Do.\n# %% stub\nx\n# %% check\nc\n# %% solution\ny\n# %% mistake: m\nz\n",
            "fewer than two",
        ),
    ],
)
def test_a_broken_file_of_exercises_is_refused(tmp_path, text, fault):
    path = tmp_path / "04_rotary.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=fault):
        read_exercises(path)
