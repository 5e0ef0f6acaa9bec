"""nbval on the notebooks that `make book` has just run, without running them again.

The build runs every notebook and keeps what its cells gave in `book/_build/.jupyter_cache`. This
plugin of pytest puts such an executed copy in the place of nbval's kernel: asked to run a cell, it
answers with the outputs that the cell had in the build. All else is nbval's own: which cells are
compared, what is sanitized, and the verdict.

A copy is used only where a run would give the same: its code is that of the committed notebook, and
the package, the other files of `book/` and all installed versions are those of the build, which
left their digest in `book/_build/.built`. Otherwise nbval runs the notebook.

    PYTHONPATH=tests python -m pytest -p nbval_replay book/*.ipynb    # and nbval's options
    python tests/nbval_replay.py                                      # prints the digest
"""

import hashlib
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import pytest
from jupyter_cache import get_cache
from nbval.plugin import IPyNbFile

READ = ("tinyperceiver", "book")  # folders that notebooks read
NOT_READ = ("_build", "_vendor", "__pycache__")  # and hidden files


@cache
def digest_of(root: Path) -> str:
    """SHA-256, in hexadecimal digits, of all that the notebooks of `root/book` compute with.

    That are the files of the package and of the book, Python, and all that is installed. Notebooks
    are left out: each is compared with its executed copy.
    """
    versions = sorted({f"{package.name}=={package.version}" for package in distributions()})
    digest = hashlib.sha256("\n".join([sys.version, *versions]).encode())
    for path in sorted(path for folder in READ for path in (root / folder).rglob("*")):
        name = path.relative_to(root)
        is_read = not any(part in NOT_READ or part.startswith(".") for part in name.parts)
        if is_read and path.suffix != ".ipynb" and path.is_file():
            content = path.read_bytes()
            digest.update(f"{name.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def executed_cells(path: Path) -> list[nbformat.NotebookNode] | None:
    """The code cells of a notebook as the build ran them; None where a run could differ from it."""
    root = path.parent.parent
    built = path.parent / "_build" / ".built"
    if not built.is_file() or built.read_text(encoding="utf-8").strip() != digest_of(root):
        return None
    copies = get_cache(built.parent / ".jupyter_cache")
    try:
        record = copies.match_cache_notebook(nbformat.read(path, as_version=4))
    except KeyError:
        return None
    return copies.get_cache_bundle(record.pk).nb.cells


class Replay:
    """What nbval asks of a kernel, answered with the outputs of cells that ran before."""

    def __init__(self, cells: list[nbformat.NotebookNode]) -> None:
        self.cells = iter(cells)

    def execute_cell_input(self, source: str, allow_stdin: bool) -> str:
        # Cells that nbval skips are not asked for.
        cell = next(cell for cell in self.cells if cell.source == source)
        idle = nbformat.NotebookNode(output_type="status", execution_state="idle")
        self.id, self.answers = cell.id, iter([*cell.outputs, idle])
        return self.id

    def get_message(self, stream: str, timeout: float) -> dict:
        content, parent = next(self.answers), {"msg_id": self.id}
        return {"msg_type": content.output_type, "content": content, "parent_header": parent}

    def await_reply(self, message_id: str, timeout: float) -> None:
        """The cell has run."""

    def await_idle(self, message_id: str, timeout: float) -> None:
        """The cell has run."""

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None:
        """Nothing is running."""


class Notebook(IPyNbFile):
    """A notebook of which nbval tests each cell, as the build ran it or in a kernel."""

    def setup(self) -> None:
        if cells := executed_cells(self.path):
            self.kernel = Replay(cells)
            self.setup_sanitize_files()
        else:
            super().setup()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Notebook | None:
    return Notebook.from_parent(parent, path=file_path) if file_path.suffix == ".ipynb" else None


def pytest_report_header(config: pytest.Config) -> str:
    paths = [path.resolve() for path in map(Path, config.args) if path.suffix == ".ipynb"]
    run = [path.stem for path in paths if executed_cells(path) is None]
    return f"as the build ran them: {len(paths) - len(run)}; run now: {', '.join(run) or 'none'}"


if __name__ == "__main__":
    print(digest_of(Path(__file__).parent.parent))
