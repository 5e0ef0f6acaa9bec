"""Copy the package's code and the exercises into the chapters, and run those that changed.

The package is where code and exercises are edited; chapters carry copies.

- A code cell tagged `package` starts with a comment that names a file of the package. Below it
  stands, for each name that the cell defines, what that file says of it. A new cell needs no more
  than the comment and empty definitions: `def rotation_at(): ...`
- The exercises of `tinyperceiver/teaching/checks/NAME.py` follow the cell of the chapter `NN_NAME`
  that starts with `## Exercises`: for each a task, a cell to answer in, and a solution, folded on
  the page. The chapter imports that module as `check`.
- `book/solutions.md` collects the solutions, `book/code_index.md` says where code is shown,
  `book/reference.md` and the pages in `book/reference` describe the package;
  `book/teaching.md` gets each chapter's title and minutes, `book/glossary.md` links to chapters.
- `tinyperceiver/assets/recorded.sha256` has the hashes of the files in `book/runs`.

Run it from anywhere: `.venv/bin/python scripts/fill_chapters.py [--check | --no-run] [NAME ...]`,
or with `--pages` for the pages alone.
"""

import argparse
import ast
import importlib
import re
import sys
from functools import partial
from pathlib import Path

import nbformat
import reference_pages

from tinyperceiver.files.whole import sha256_of
from tinyperceiver.teaching import checking

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
TAG = "package"
FILE_COMMENT = re.compile(r"# (tinyperceiver/[\w/]+\.py)$")


# Code of the package


def names_of(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = getattr(statement, "targets", None) or [statement.target]
        targets = [part for target in targets for part in ast.walk(target)]
        # Not `Model` of `Model.generate = generate`: that name is only looked up.
        return [
            part.id
            for part in targets
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        ]
    return []


def definitions(source: str) -> dict[str, str]:
    """Name -> text of what `source` defines, with the comment above it, in its order.

    Names that one statement defines share its text. Imports, `__all__` and loggers are left out:
    a notebook has its own imports.
    """
    lines = source.splitlines()
    found = {}
    for statement in ast.parse(source).body:
        names = [name for name in names_of(statement) if name not in ("__all__", "log")]
        first = min(
            [statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]
        )
        while first > 1 and lines[first - 2].startswith("#"):
            first -= 1
        text = "\n".join(lines[first - 1 : statement.end_lineno])
        found |= dict.fromkeys(names, text)
    return found


def filled(cell_source: str) -> str:
    """A cell's text as the package has it.

    Raises:
        ValueError: the cell does not name a file of the package, or defines what that file lacks.
    """
    first, _, rest = cell_source.partition("\n")
    if not (comment := FILE_COMMENT.match(first)):
        raise ValueError(f"a cell tagged {TAG!r} starts with {first!r}, not '# tinyperceiver/….py'")
    path = ROOT / comment[1]
    available = definitions(path.read_text(encoding="utf-8"))
    wanted = list(definitions(rest))
    if missing := [name for name in wanted if name not in available]:
        raise ValueError(f"{comment[1]} does not define {', '.join(missing)}")
    if not wanted:
        raise ValueError(f"a cell of {comment[1]} defines nothing")
    text, previous = first, None
    for part in dict.fromkeys(available[name] for name in wanted):
        is_short = not re.search(r"^(class|def|@)", part, re.MULTILINE)
        is_close = previous is None or (is_short and previous)  # previous: was short
        text += ("\n" if is_close else "\n\n\n") + part
        previous = is_short
    return text


# Exercises


def exercises_of(chapter: str) -> list[checking.Exercise]:
    """The exercises of a chapter, in order; none if it has no module of them."""
    name = chapter.partition("_")[2]
    if not (ROOT / "tinyperceiver" / "teaching" / "checks" / f"{name}.py").exists():
        return []
    module = importlib.import_module(f"tinyperceiver.teaching.checks.{name}")
    return [part for part in vars(module).values() if isinstance(part, checking.Exercise)]


def exercise_cells(chapter: str) -> list[nbformat.NotebookNode]:
    """The cells of a chapter's exercises; none if it has none."""
    cells, number = [], int(chapter.split("_")[0])
    for i, exercise in enumerate(exercises_of(chapter), 1):
        label = f"{number}.{i}"
        answer = f"{exercise.stub}\n\n\n{exercise.check}"
        solution = f"{exercise.code}\n\n\n{exercise.check}"
        folded = {
            "tags": ["hide-cell"],
            "jupyter": {"source_hidden": True},
            "mystnb": {"code_prompt_show": f"Solution of exercise {label}"},
        }
        cells += [
            nbformat.v4.new_markdown_cell(f"### {label} {exercise.title}\n\n{exercise.task}"),
            nbformat.v4.new_code_cell(answer),
            nbformat.v4.new_code_cell(
                f"# Solution of exercise {label}\n{solution}", metadata=folded
            ),
        ]
        for cell, part in zip(cells[-3:], ("task", "answer", "solution"), strict=True):
            cell["id"] = f"{exercise.name.replace('_', '-')}-{part}"[:64]
            cell["metadata"]["exercise"] = part
    return cells


def solutions_page() -> str:
    """The text of `book/solutions.md`."""
    text = (
        "# Solutions\n\nOne way to solve each exercise; others pass the checks too. "
        "The checks and the tasks are in the chapters.\n"
    )
    for path in sorted(BOOK.glob("[0-9]*.ipynb")):
        if not (exercises := exercises_of(path.stem)):
            continue
        number = int(path.stem.split("_")[0])
        text += f"\n## [{chapter_title(path)}]({path.name})\n"
        for i, exercise in enumerate(exercises, 1):
            text += f"\n### {number}.{i} {exercise.title}\n\n"
            text += f"```python\n{exercise.code}\n```\n"
    return text


def chapter_title(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return re.search(r"^# (.+)$", cells[0].source, re.MULTILINE)[1]


# The index of code


def shown_code() -> list[tuple[str, str, str, str]]:
    """(name, file, chapter, section) of all that tagged cells define, in the order of the book."""
    shown = []
    for path in sorted(BOOK.glob("[0-9]*.ipynb")):
        section = ""
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                section = [section, *re.findall(r"^## (.+)$", cell.source, re.MULTILINE)][-1]
            elif TAG in cell.metadata.get("tags", []):
                file = FILE_COMMENT.match(cell.source.partition("\n")[0])[1]
                names = definitions(cell.source)
                shown += [(name, file, path.stem, section) for name in names]
    return shown


def described(path: Path) -> tuple[str, list[str]]:
    """The first line of a module's docstring, and its public names."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    public = []
    for statement in module.body:
        if "__all__" in [getattr(t, "id", "") for t in getattr(statement, "targets", [])]:
            public = ast.literal_eval(statement.value)
    return (ast.get_docstring(module) or "").partition("\n")[0], sorted(public)


def code_index_page() -> str:
    """The text of `book/code_index.md`."""
    shown = shown_code()
    title_of = {stem: chapter_title(BOOK / f"{stem}.ipynb") for _, _, stem, _ in shown}
    text = (
        "# Code by chapter\n\nWhere the book shows the package's code. This page is made from the "
        "chapters by `make chapters`.\n\n## As you read\n"
    )
    for stem, title in title_of.items():
        text += f"\n### [{title}]({stem}.ipynb)\n\n"
        places = dict.fromkeys((place, file) for _, file, where, place in shown if where == stem)
        for place, file in places:
            names = [row[0] for row in shown if row[1:] == (file, stem, place)]
            links = [reference_pages.linked(name, file) for name in names]
            text += f"- *{place}*, `{file}`: {', '.join(links)}\n"
    text += "\n## By name\n\n| name | file | chapter |\n| --- | --- | --- |\n"
    for name, file, stem, _ in sorted(shown, key=lambda row: (row[0].strip("_").lower(), row)):
        number = int(stem.split("_")[0])
        place = file.removeprefix("tinyperceiver/")
        link = reference_pages.linked(name, file)
        text += f"| {link} | `{place}` | [{number}]({stem}.ipynb) |\n"
    text += "\n## Shown in no chapter\n\nPublic names that chapters use or leave to you.\n\n"
    known = {(name, file) for name, file, _, _ in shown}
    package, teaching = ROOT / "tinyperceiver", ROOT / "tinyperceiver" / "teaching"
    for path in sorted(set(package.rglob("[!_]*.py")) - set(teaching.rglob("*.py"))):
        file = path.relative_to(ROOT).as_posix()
        summary, public = described(path)
        left = [name for name in public if (name, file) not in known]
        names = [reference_pages.linked(name, file) for name in left]
        if names:
            text += f"- `{file}`. {summary} {', '.join(names)}\n"
    text += "\nFigures and checkers, which no other part of the package uses:\n\n"
    for path in sorted(teaching.rglob("[!_]*.py")):
        text += f"- `{path.relative_to(ROOT).as_posix()}`. {described(path)[0]}\n"
    return text


# The teaching guide

WORDS_A_MINUTE = 200
GUIDE_ENTRY = re.compile(
    r"^\(guide-(\d\d)\)=\n### .*\n\n\*\*Minutes\*\*: [^;]*; exercises about (\d+)", re.MULTILINE
)
GUIDE_TABLE = re.compile(r"(?<=% minutes, made by make chapters\n).*?(?=% end\n)", re.DOTALL)


def minutes_of(path: Path) -> tuple[int, int, int]:
    """Words of a chapter's text, lines of its code, seconds that its header gives for running.

    Exercises and their solutions are not counted.
    """
    cells = [c for c in nbformat.read(path, as_version=4).cells if "exercise" not in c.metadata]
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    lines = sum(len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code")
    return words, lines, int(re.search(r"all cells run in (\d+) seconds", cells[0].source)[1])


def teaching_page() -> str:
    """The text of `book/teaching.md`, with the titles and minutes that the chapters have now."""
    rows = ["| chapter | words | reading, min | lines of code | cells, s | exercises, min |\n"]
    rows.append(re.sub(r"[^|\n]+", " --- ", rows[0]))

    def entry(found: re.Match) -> str:
        number, estimate = found.groups()
        paths = list(BOOK.glob(f"{number}_*.ipynb"))
        if not paths:  # not written yet
            return found[0]
        words, lines, seconds = minutes_of(paths[0])
        reading, title = round(words / WORDS_A_MINUTE), chapter_title(paths[0])
        link = f"[{int(number)}]({paths[0].name})"
        rows.append(f"| {link} | {words:,} | {reading} | {lines} | {seconds} | {estimate} |\n")
        return (
            f"(guide-{number})=\n### [{title}]({paths[0].name})\n\n"
            f"**Minutes**: reading {reading}, cells {seconds / 60:.1f}; exercises about {estimate}"
        )

    text = GUIDE_ENTRY.sub(entry, (BOOK / "teaching.md").read_text(encoding="utf-8"))
    return GUIDE_TABLE.sub(lambda _: "".join(["\n", *rows, "\n"]), text)


def glossary_page() -> str:
    """The text of `book/glossary.md`, with links to the chapters that there are."""

    def link(found: re.Match) -> str:
        paths = list(BOOK.glob(f"{int(found[1]):02}_*.ipynb"))
        return f"[Chapter {found[1]}]({paths[0].name})." if paths else found[0]

    text = (BOOK / "glossary.md").read_text(encoding="utf-8")
    return re.sub(r"(?<=\. )Chapter (\d+)\.$", link, text, flags=re.MULTILINE)


def reference_page(folder: str) -> str:
    """The text of `book/reference/FOLDER.md`."""
    return reference_pages.folder_page(folder, shown_code())


def hashes_of_records() -> str:
    """What `sha256sum` writes of all recorded files: chapters that fetch one check it."""
    files = sorted(path for path in (BOOK / "runs").rglob("*") if path.is_file())
    lines = (f"{sha256_of(path)}  {path.relative_to(BOOK).as_posix()}\n" for path in files)
    return "".join(lines)


PAGES = {
    "../tinyperceiver/assets/recorded.sha256": hashes_of_records,
    "solutions.md": solutions_page,
    "code_index.md": code_index_page,
    "teaching.md": teaching_page,
    "glossary.md": glossary_page,
    "reference.md": lambda: reference_pages.index_page(shown_code()),
} | {
    f"reference/{folder}.md": partial(reference_page, folder) for folder in reference_pages.FOLDERS
}


# Chapters


def fill(notebook: nbformat.NotebookNode, chapter: str) -> bool:
    """Bring a notebook up to date with the package and its exercises; say whether it changed."""
    before = [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]
    printed = {(cell.id, cell.source): cell for cell in notebook.cells if cell.cell_type == "code"}
    cells = [cell for cell in notebook.cells if "exercise" not in cell.metadata]
    for cell in cells:
        if cell.cell_type == "code" and TAG in cell.metadata.get("tags", []):
            cell.source = filled(cell.source)
    exercises = exercise_cells(chapter)
    if exercises:
        heads = [i for i, cell in enumerate(cells) if cell.source.startswith("## Exercises")]
        if len(heads) != 1:
            raise ValueError(f"{chapter} has {len(heads)} cells that start with '## Exercises'")
        for cell in exercises:
            if old := printed.get((cell["id"], cell.source)):  # keep what it printed
                cell.outputs, cell.execution_count = old.outputs, old.execution_count
        cells[heads[0] + 1 : heads[0] + 1] = exercises
    notebook.cells = cells
    after = [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]
    return before != after


def run(notebook: nbformat.NotebookNode) -> None:
    """Run a notebook from top to bottom, in the book's folder, and keep what it prints."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(BOOK)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            is_progress = output.output_type == "stream" and output.name == "stderr"
            if is_progress:
                print(f"a cell writes to stderr: {output.text[:500]}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("chapters", nargs="*", metavar="NAME", help="such as 04_rotary; else all")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if needed")
    parser.add_argument("--no-run", action="store_true", help="copy only")
    parser.add_argument("--run", action="store_true", help="run also those that did not change")
    parser.add_argument("--pages", action="store_true", help="leave the chapters as they are")
    options = parser.parse_args()
    stale = []
    for path in sorted(BOOK.glob("[0-9]*.ipynb")):
        if options.pages or (options.chapters and path.stem not in options.chapters):
            continue
        notebook = nbformat.read(path, as_version=4)
        changed = fill(notebook, path.stem)
        if changed:
            stale.append(path.name)
        if options.check:
            continue
        if (changed or options.run) and not options.no_run:
            print(f"running {path.name}", flush=True)
            run(notebook)
        if changed or options.run:
            nbformat.write(notebook, path)
    for name, text_of in PAGES.items():
        page, text = BOOK / name, text_of()
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not options.check:
                page.write_text(text, encoding="utf-8")
    print(f"{'stale' if options.check else 'filled'}: {', '.join(stale) or 'none'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
