"""The committed notebooks: run from top to bottom, light, and readable without the pictures.

What they print is compared by nbval, outside these tests: `make test-notebooks` runs them for that,
`make test` takes what the build printed (`nbval_replay.py`). That both would notice a wrong number,
and would not stumble over embedded sound, is tested here.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import PATIENCE
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbval_replay import digest_of

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
LARGEST = 1_500_000  # bytes, outputs included
INSTALL_TAG = "colab-install"

MEDIA = re.compile(r"data:[\w/.+-]+;base64,[A-Za-z0-9+/=\s]+")
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|tmp|mnt|opt|var)/|\b[A-Z]:\\\w")
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(")
HTML_IMAGE = re.compile(r"<img\b[^>]*>")
DRAWING = re.compile(r"<svg\b.*?</svg>", re.DOTALL)


def texts_of(output: dict) -> list[str]:
    """What an output shows as text: a stream, or its plain and HTML forms."""
    data = output.get("data", {})
    shown = [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    return ["".join(text) for text in shown]


def faults_of_pictures(cell: dict) -> list[str]:
    """Pictures of a cell that say nothing to those who cannot see them."""
    texts = [text for output in cell.get("outputs", []) for text in texts_of(output)]
    if cell["cell_type"] == "markdown":
        texts = [cell["source"]]
        if any(not alt.strip() for alt in MARKDOWN_IMAGE.findall(cell["source"])):
            return ["an image without a text: ![what it shows](…)"]
    faults = []
    for text in texts:
        if any(not re.search(r"\balt=[\"'][^\"']", tag) for tag in HTML_IMAGE.findall(text)):
            faults.append("an <img> without alt")
        if any("aria-label=" not in svg and "<title>" not in svg for svg in DRAWING.findall(text)):
            faults.append("an <svg> without <title> or aria-label")
    kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
    image = cell["metadata"].get("mystnb", {}).get("image", {})
    if any(kind.startswith("image/") for kind in kinds) and not image.get("alt"):
        faults.append('a figure without a text: cell metadata {"mystnb": {"image": {"alt": …}}}')
    return faults


def accidental_lists(text: str) -> list[str]:
    """Lines that a Markdown reader takes for a list, though they go on with a sentence."""
    lines = text.split("\n")
    starts = re.compile(r"(\d+[.)]|[-+*]) ")
    return [
        line[:40]
        for before, line in itertools.pairwise(lines)
        if starts.match(line) and before.strip() and not before.startswith((" ", "```"))
        if not starts.match(before)
    ]


def faults_of(notebook: dict) -> list[str]:
    """All that a committed notebook must not have, each named with its cell."""
    faults = []
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        faults.append("the kernel is not python3")
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    first = code[0] if code else {"metadata": {}, "source": "", "outputs": []}
    if INSTALL_TAG not in first["metadata"].get("tags", []):
        faults.append(f"the first code cell, which installs on Colab, lacks the tag {INSTALL_TAG}")
    elif "google.colab" not in first["source"] or first["outputs"]:
        faults.append("the first code cell must do nothing, and print nothing, outside Colab")
    ran = [cell["execution_count"] for cell in code if cell["source"].strip()]
    if ran != list(range(1, len(ran) + 1)):
        faults.append(f"not run once from top to bottom: execution counts {ran}")
    for number, cell in enumerate(notebook["cells"]):
        found = faults_of_pictures(cell)
        if cell["cell_type"] == "markdown":
            lists = accidental_lists(cell["source"])
            found += [f"a sentence that becomes a list: {line}" for line in lists]
        outputs = cell.get("outputs", [])
        found += ["an error" for output in outputs if output["output_type"] == "error"]
        for text in [cell["source"], *(text for output in outputs for text in texts_of(output))]:
            paths = MACHINE_PATH.findall(MEDIA.sub("", text))
            found += [f"a path of one machine: {path}…" for path in paths]
        faults += [f"cell {number}: {fault}" for fault in found]
    return faults


def test_the_book_has_all_its_notebooks_and_no_others():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = re.findall(r"'(?:root|file)': '([^']+)'", str(toc))
    assert {path.stem for path in NOTEBOOKS} <= set(listed), "not in _toc.yml"
    assert NOTEBOOKS, f"no notebook in {BOOK}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_fit_to_commit(path):
    assert path.stat().st_size <= LARGEST
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert faults_of(notebook) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_says_how_long_it_takes(path):
    head = nbformat.read(path, as_version=4).cells[0].source
    words = r"(about [\d,]+ words to read; )?"
    assert re.search(
        rf"\*\*Time\*\*: {words}all cells run in \d+ seconds on two\s+CPU\s+cores", head
    )


def sound_notebook() -> nbformat.NotebookNode:
    """A notebook without a fault, for planting one."""
    v4 = nbformat.v4
    install = v4.new_code_cell('import sys\n\nif "google.colab" in sys.modules:\n    pass')
    install.metadata["tags"] = [INSTALL_TAG]
    code = v4.new_code_cell("print(1 + 1)", outputs=[v4.new_output("stream", text="2\n")])
    install["execution_count"], code["execution_count"] = 1, 2
    notebook = v4.new_notebook(cells=[install, v4.new_markdown_cell("Text."), code])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook


def picture(kind: str, content: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", data={kind: content})


def output(cell: dict, new: dict) -> None:
    cell["outputs"] = [new]


PLANTED = {
    "kernel is not python3": lambda nb: nb.metadata["kernelspec"].update(name="venv"),
    "lacks the tag": lambda nb: nb.cells[0].metadata.pop("tags"),
    "must do nothing": lambda nb: nb.cells[0].update(source="import torch"),
    "not run once": lambda nb: nb.cells[2].update(execution_count=None),
    "an error": lambda nb: output(nb.cells[2], nbformat.v4.new_output("error", ename="E")),
    "path of one machine: /home/": lambda nb: nb.cells[2].update(source='open("/home/a/b.mid")'),
    r"path of one machine: C:\a": lambda nb: nb.cells[1].update(source=r"see C:\a.mid"),
    "becomes a list: 1. Then": lambda nb: nb.cells[1].update(source="at position\n1. Then cut."),
    "image without a text": lambda nb: nb.cells[1].update(source="![](roll.png)"),
    "figure without a text": lambda nb: output(nb.cells[2], picture("image/png", "aGk=")),
    "<img> without alt": lambda nb: output(nb.cells[2], picture("text/html", "<img src='x'>")),
    "<svg> without": lambda nb: output(nb.cells[2], picture("text/html", "<svg><g/></svg>")),
}


def test_a_sound_notebook_has_no_faults():
    notebook = sound_notebook()
    notebook.cells[1].source = "![a roll](roll.png) and https://example.org/home/x"
    output(
        notebook.cells[2], picture("text/html", "<img alt='a' src='data:image/png;base64,/tmp/'>")
    )
    assert faults_of(notebook) == []


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_named(fault):
    notebook = sound_notebook()
    PLANTED[fault](notebook)
    found = faults_of(notebook)
    assert len(found) == 1 and fault in found[0], found


def nbval_on(notebook: nbformat.NotebookNode, root: Path, *plugin: str) -> str:
    """What nbval says of `root/book/planted.ipynb`, asked as `make test-notebooks` asks, or with
    the plugin as `make test` does.
    """
    path = root / "book" / "planted.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    options = ["--nbval-current-env", "--nbval-cell-timeout", str(PATIENCE)]
    options += ["--nbval-kernel-startup-timeout", str(PATIENCE)]
    options += ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval_sanitize.cfg")]
    options += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(root)]
    options += plugin or ["--nbval"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        cwd=root,
        timeout=2 * PATIENCE,
    )
    return done.stdout + done.stderr


def test_nbval_compares_numbers_but_not_media(tmp_path):
    notebook = sound_notebook()
    plain = "<IPython.core.display.HTML object>"
    html = '<audio aria-label="{}" src="data:audio/mpeg;base64,{}"></audio>'
    for title, committed in (("same", "same"), ("new", "old")):
        source = f"from IPython.display import HTML\n\nHTML('{html.format(title, 'QUJD')}')"
        cell = nbformat.v4.new_code_cell(source, execution_count=len(notebook.cells))
        shown = {"text/html": html.format(committed, "REVG"), "text/plain": plain}
        output(cell, nbformat.v4.new_output("execute_result", data=shown))
        notebook.cells.append(cell)
    right = nbval_on(notebook, tmp_path)
    assert "1 failed, 3 passed" in right, right
    assert "Cell 3" in right.split("short test summary")[-1], right
    notebook.cells = notebook.cells[:3]
    notebook.cells[2].outputs[0].text = "3\n"
    wrong = nbval_on(notebook, tmp_path)
    assert "1 failed, 1 passed" in wrong, wrong


# The same without running what the build has run


def build(notebook: nbformat.NotebookNode, root: Path) -> None:
    """Leave what `make book` leaves of a notebook that gave the outputs in it."""
    folder = root / "book" / "_build"
    folder.mkdir(parents=True)
    copy = CacheBundleIn(notebook, "planted.ipynb")
    get_cache(folder / ".jupyter_cache").cache_notebook_bundle(copy, check_validity=False)
    (folder / ".built").write_text(digest_of.__wrapped__(root) + "\n")


def cells_with_numbers(notebook: nbformat.NotebookNode, is_exempt: bool) -> list[dict]:
    """The streams of cells that nbval compares, or that it does not."""
    return [
        output
        for cell in notebook.cells
        if ("nbval-ignore-output" in cell.metadata.get("tags", [])) == is_exempt
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and re.search(r"\d", output.text)
    ]


@pytest.mark.parametrize(("is_exempt", "failed"), [(False, 1), (True, 0)])
def test_a_stale_number_fails_without_a_run_unless_it_is_exempt(is_exempt, failed, tmp_path):
    notebook = nbformat.read(BOOK / "05_attention.ipynb", as_version=4)
    build(notebook, tmp_path)
    stale = cells_with_numbers(notebook, is_exempt)[-1]
    stale.text = re.sub(r"\d", lambda digit: str(9 - int(digit[0])), stale.text, count=1)
    said = nbval_on(notebook, tmp_path, "-p", "nbval_replay")
    assert "as the build ran them: 1" in said, said
    count = sum(cell.cell_type == "code" for cell in notebook.cells)
    verdict = f"{failed} failed, {count - failed} passed" if failed else f"{count} passed"
    assert verdict in said, said


def change_package(root: Path, notebook: nbformat.NotebookNode) -> None:
    (root / "tinyperceiver" / "rotary.py").write_text("TURNS = 2\n")


def change_code(root: Path, notebook: nbformat.NotebookNode) -> None:
    notebook.cells[2].source = "print(1 + 1)  # changed"


def change_nothing(root: Path, notebook: nbformat.NotebookNode) -> None:
    notebook.cells[1].source = "Other text."


@pytest.mark.parametrize("change", [change_nothing, change_package, change_code])
def test_what_changed_since_the_build_is_run(change, tmp_path):
    """Which outputs were compared shows in a copy that a run would not give."""
    (tmp_path / "tinyperceiver").mkdir()
    (tmp_path / "tinyperceiver" / "rotary.py").write_text("TURNS = 1\n")
    notebook = sound_notebook()
    notebook.cells[2].outputs[0].text = "3\n"
    build(notebook, tmp_path)
    change(tmp_path, notebook)
    said = nbval_on(notebook, tmp_path, "-p", "nbval_replay")
    expected = "2 passed" if change is change_nothing else "1 failed, 1 passed"
    assert expected in said, said


def test_the_digest_is_of_all_that_notebooks_read(tmp_path, monkeypatch):
    digest = digest_of.__wrapped__
    files = ["tinyperceiver/rotary.py", "tinyperceiver/assets/a.mid", "book/runs/tiny/log.jsonl"]
    unread = ["book/a.ipynb", "book/_build/b.py", "book/.c", "tinyperceiver/__pycache__/d.pyc"]
    seen = [digest(tmp_path)]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        for content in ("a", "b"):
            (tmp_path / name).write_text(content)
            seen.append(digest(tmp_path))
    monkeypatch.setattr("nbval_replay.distributions", lambda: [])
    seen.append(digest(tmp_path))
    assert len(set(seen)) == len(seen) == 8
    for name in unread:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    assert digest(tmp_path) == seen[-1]


def test_the_chapters_begin_alike():
    first = [
        next(cell for cell in json.loads(path.read_text("utf-8"))["cells"] if "outputs" in cell)
        for path in NOTEBOOKS
    ]
    assert len({"".join(cell["source"]) for cell in first}) == 1
    imports = "".join(first[0]["source"]).split("import ")
    assert imports[-1].startswith("tinyperceiver "), "it must be imported before PyTorch"


def test_committed_notebooks_end_as_git_wants_them():
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert text.endswith("}\n") and "\r" not in text, path.name
        assert json.loads(text)["nbformat"] == 4, path.name
