"""The chapters' own checks hold the idea: the package's code is changed, and a check must fail."""

import re
from pathlib import Path

import nbformat
import pytest
from conftest import PATIENCE
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

BOOK = Path(__file__).parent.parent / "book"

# What a reader might get wrong -> the chapter, and pairs of its code and what it becomes.
MUTATIONS = {
    "the pedal holds what it should not": (
        "01_events",
        [('np.searchsorted(time, end, side="right")', 'np.searchsorted(time, end, side="left")')],
    ),
    "the pedal is ignored": (
        "02_vocabulary",
        [("hold_by_peer_pedal(instrument, room)", "notes_of(instrument)")],
    ),
    "counted across the ends of pieces": (
        "03_counting",
        [
            (
                "n, vocab_size) for piece in pieces]",
                "n, vocab_size) for piece in [np.concatenate(pieces)]]",
            )
        ],
    ),
    "channels paired by halves": (
        "04_rotary",
        [
            ("x[..., 0::2], x[..., 1::2]", "x.chunk(2, dim=-1)"),
            (
                "torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)",
                "torch.cat((even * cos - odd * sin, even * sin + odd * cos), dim=-1)[..., None]",
            ),
        ],
    ),
    "the mask one to the left": ("05_attention", [("return key <= query", "return key < query")]),
    "the mask one to the right": (
        "05_attention",
        [("return key <= query", "return key <= query + 1")],
    ),
    "the prefix behind the latents": (
        "06_hybrid",
        [("(self.prefix_norm(prefix), x), dim=1", "(x, self.prefix_norm(prefix)), dim=1")],
    ),
    "the output untied": (
        "07_decoder",
        [
            (
                "        self.apply(self._init_weights)",
                "        self.untied = nn.Linear(D, config.vocab_size, bias=False)\n"
                "        self.apply(self._init_weights)",
            ),
            ("self.norm(x) @ self.embedding.weight.T", "self.untied(self.norm(x))"),
        ],
    ),
}


def mutated(path: Path, changes: list[tuple[str, str]]) -> nbformat.NotebookNode:
    """A chapter in which the package's code has been changed, each place exactly once."""
    notebook = nbformat.read(path, as_version=4)
    package = [c for c in notebook.cells if "package" in c.metadata.get("tags", [])]
    for old, new in changes:
        found = [cell for cell in package if old in cell.source]
        assert len(found) == 1 and found[0].source.count(old) == 1, f"{old!r} is not there once"
        found[0].source = found[0].source.replace(old, new)
    return notebook


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_check_of_the_chapter_notices(mutation):
    chapter, changes = MUTATIONS[mutation]
    notebook = mutated(BOOK / f"{chapter}.ipynb", changes)
    client = NotebookClient(
        notebook,
        timeout=2 * PATIENCE,
        startup_timeout=PATIENCE,
        kernel_name="python3",
        resources={"metadata": {"path": str(BOOK)}},
    )
    with pytest.raises(CellExecutionError) as error:
        client.execute()
    assert error.value.ename == "AssertionError", str(error.value)[-2000:]
    failed = next(
        cell
        for cell in notebook.cells
        if any(output.output_type == "error" for output in cell.get("outputs", []))
    )
    assert re.search(r"^\s*assert ", failed.source, re.MULTILINE), failed.source
