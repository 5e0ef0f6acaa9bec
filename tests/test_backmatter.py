"""The back matter: quoted messages exist, plans fit the chapters, the made pages are up to date."""

import ast
import itertools
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import fill_chapters  # noqa: E402
from fill_chapters import BOOK, PAGES, TAG, definitions, described, minutes_of  # noqa: E402

CHAPTERS = {int(path.stem[:2]): path for path in sorted(BOOK.glob("[0-9]*.ipynb"))}
PLANNED = range(14)  # 0 to 13
GAP = "\0"  # what stands for a value in a message


def text_of(page: str) -> str:
    return (BOOK / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_made_pages_are_up_to_date(page):
    if "reference" in page or page == "code_index.md":
        pytest.importorskip("transformers", reason="needs the extra `transformers`")
    made = PAGES[page]() == (BOOK / page).read_text(encoding="utf-8")
    assert made, "run scripts/fill_chapters.py --pages"


# Messages


def messages_in(source: str) -> list[str]:
    """The texts of a module, docstrings aside, with a gap in place of each value."""
    found = []
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            values = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
            found.append("".join(values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value if node not in docstrings else "")
    return found


@cache
def messages() -> tuple[str, ...]:
    """What the package can say, and what `make` can."""
    package = sorted((ROOT / "tinyperceiver").rglob("*.py"))
    found = [text for path in package for text in messages_in(path.read_text(encoding="utf-8"))]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found.append(re.sub(r'\s*\\\n\s*|\s+"|"\s+|"', " ", makefile))
    return tuple(re.sub(r"\s+", " ", text) for text in found)


def quoted(page: str) -> list[str]:
    """The messages of the package that a page quotes; {name} stands for a value."""
    return [" ".join(text.split()) for text in re.findall(r"\{samp\}`([^`]+)`", page)]


def is_said(message: str) -> bool:
    said = re.sub(r"\{\w+\}", GAP, message)
    return len(said.replace(GAP, "")) >= 10 and any(said in text for text in messages())


def test_every_quoted_message_is_still_said():
    found = quoted(text_of("troubleshooting"))
    assert len(found) > 60
    assert [message for message in found if not is_said(message)] == []


@pytest.mark.parametrize(
    "message, expected",
    [
        ("prefix_len must be in 0..{last} for {number} tokens, not {value}", True),
        ("prefix_len must not be in 0..{last}", False),
        ("prefix_len must be in 0..9 for", False),  # a value where the package has a gap
        ("Longest prefix m, in tokens", False),  # stands in a docstring
        ("not {x}", False),  # too short to be told apart
        ("cannot make virtual environments. On Debian and Ubuntu:", True),
    ],
)
def test_a_message_is_told_from_others(message, expected):
    assert is_said(message) == expected


# The guide


def headings() -> set[str]:
    """Titles of all sections of all chapters."""
    cells = (
        cell.source
        for path in CHAPTERS.values()
        for cell in fill_chapters.nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    )
    return {title for source in cells for title in re.findall(r"^## (.+)$", source, re.MULTILINE)}


def section(page: str, title: str) -> str:
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)[1]


def rows_of(text: str) -> list[list[str]]:
    """The cells of the rows of a table in Markdown, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("number", PLANNED)
def test_each_chapter_has_an_entry_in_the_guide(number):
    entries = re.split(r"^\(guide-(\d\d)\)=$", text_of("teaching"), flags=re.MULTILINE)
    entry = dict(zip(entries[1::2], entries[2::2], strict=True)).get(f"{number:02}", "")
    for part in ("**Minutes**", "**Goals.**", "**Discuss.**", "**Misconceptions.**", "**Assess.**"):
        assert entry.count(part) == 1, part
    assert 3 <= len(re.findall(r"^- \*.+?[?.]\* ", entry, re.MULTILINE)) <= 5, "questions"
    if number in CHAPTERS:
        reading, cells = map(float, re.search(r"reading (\d+), cells ([\d.]+);", entry).groups())
        words, _, seconds = minutes_of(CHAPTERS[number])
        assert abs(reading - words / 200) <= 0.5 and abs(cells - seconds / 60) < 0.051
        assert CHAPTERS[number].name in entry.partition("\n\n")[0], "no link"


def test_plans_name_sections_and_exercises_that_there_are():
    page = text_of("teaching")
    plans = section(page, "Ten weeks") + section(page, "One day")
    rows = [cell for row in rows_of(plans) for cell in row]
    assessed = " ".join(re.findall(r"\*\*Assess\.\*\*.*?\n\n", page, re.DOTALL))
    named = {title for cell in rows for title in re.findall(r"\*([^*]+)\*", cell)}
    assert len(named) > 30 and named - headings() == set()
    for path in CHAPTERS.values():
        if count := len(fill_chapters.exercises_of(path.stem)):
            used = re.findall(rf"\b{int(path.stem[:2])}\.(\d)\b", plans + assessed)
            assert all(1 <= int(i) <= count for i in used), path.stem


def test_the_ten_weeks_meet_every_chapter():
    rows = rows_of(section(text_of("teaching"), "Ten weeks"))
    assert [int(row[0]) for row in rows] == list(range(1, 11))
    lectures = " ".join(cell for row in rows for cell in row[1:4])
    met = {int(n) for n in re.findall(r"\b(\d+)(?=[: ]|$)", lectures)}
    assert set(PLANNED) <= met


def test_the_day_has_no_holes():
    rows = rows_of(section(text_of("teaching"), "One day"))
    clock = [60 * int(row[0][:2]) + int(row[0][3:]) for row in rows]
    assert [b - a for a, b in itertools.pairwise(clock)] == [int(row[1]) for row in rows[:-1]]


# The index


def test_the_index_is_complete():
    # A name that the reference holds is a link to it.
    page = re.sub(r"\{py:obj\}`(\w+) <[\w.]+>`", r"`\1`", text_of("code_index"))
    shown, rest = page.split("## Shown in no chapter")
    by_name = shown.split("## By name")[1]
    for number, path in CHAPTERS.items():
        for cell in fill_chapters.nbformat.read(path, as_version=4).cells:
            if TAG in cell.metadata.get("tags", []):
                for name in definitions(cell.source):
                    row = rf"^\| `{name}` \| `[\w/]+\.py` \| \[{number}\]\({path.name}\) \|$"
                    assert re.search(row, by_name, re.MULTILINE), name
    package = ROOT / "tinyperceiver"
    for path in package.rglob("[!_]*.py"):
        summary, public = described(path)
        file = path.relative_to(package).as_posix()
        assert summary, f"{file} has no docstring"
        for name in public if not file.startswith("teaching/") else ():
            in_chapter = f"| `{name}` | `{file}` |" in shown
            lines = [line for line in rest.splitlines() if f"/{file}`" in line]
            assert in_chapter != any(f"`{name}`" in line for line in lines), (file, name)


def test_code_is_found_under_its_section(tmp_path, monkeypatch):
    v4 = fill_chapters.nbformat.v4
    cells = [
        v4.new_markdown_cell("# 1. One\n\nText."),
        v4.new_markdown_cell("## First\n\nText.\n\n## Second\n\nMore."),
        v4.new_code_cell("# tinyperceiver/rotary.py\nA = 1", metadata={"tags": [TAG]}),
        v4.new_code_cell("B = 1"),
    ]
    fill_chapters.nbformat.write(v4.new_notebook(cells=cells), tmp_path / "01_one.ipynb")
    monkeypatch.setattr(fill_chapters, "BOOK", tmp_path)
    assert fill_chapters.shown_code() == [("A", "tinyperceiver/rotary.py", "01_one", "Second")]


# The glossary


def terms() -> dict[str, str]:
    """Term -> what the glossary says of it."""
    blocks = re.findall(r"```\{glossary\}\n:sorted:\n\n(.*?)```", text_of("glossary"), re.DOTALL)
    pairs = re.findall(r"^(\S.*)\n((?:  .+\n)+)", "\n".join(blocks), re.MULTILINE)
    assert len(pairs) == len({term.lower() for term, _ in pairs}), "a term twice"
    return {term: " ".join(text.split()) for term, text in pairs}


def test_each_term_leads_to_a_chapter_that_uses_it():
    found = terms()
    assert len(found) > 80
    for term, text in found.items():
        link = re.search(r"\[(?:Chapter (\d+)|A first listen)\]\((\w+)\.ipynb\)\.$", text)
        if not link:
            number = int(re.search(r"Chapter (\d+)\.$", text)[1])
            assert number in set(PLANNED) - set(CHAPTERS), f"{term}: no link"
            continue
        assert int(link[2][:2]) == int(link[1] or 0), term
        path = BOOK / f"{link[2]}.ipynb"
        cells = fill_chapters.nbformat.read(path, as_version=4).cells
        words = " ".join(" ".join(cell.source.split()) for cell in cells).lower()
        stem = term.lower().removesuffix("s").replace(" of the piano", "")
        spellings = {stem.replace("-", other) for other in "- _"}
        assert any(one in words for one in spellings), f"{term} is not in {path.stem}"
