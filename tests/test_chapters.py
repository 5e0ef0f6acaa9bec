"""The code in the chapters is the package's: each definition once, letter for letter."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import fill_chapters  # noqa: E402
from fill_chapters import BOOK, FILE_COMMENT, TAG, definitions, fill, filled  # noqa: E402

# Modules of which every definition stands in a chapter.
BUILT = [
    "music.midi",
    "music.pedal",
    "music.vocabulary",
    "music.tokenizer",
    "music.ngrams",
    "model.rotary",
    "model.attention",
    "model.config",
    "model.perceiver_ar",
    "dataset.token_file",
    "dataset.windows",
    "generation.sampling",
    "generation.grammar",
    "engines.decoder",
    "engines.onnx_engine",
    "engines.torch_engine",
    "engines.choice",
    "generation.generate",
]
# Of the training loop, chapter 9 shows what computes, not how a run is kept on disk; of the
# exported graph, chapter 13 shows the graph, not how its file is checked and written.
SHOWN = {
    "engines.onnx_graph": "BITS HIDDEN BLOCK OPSET IR_VERSION SMALL Graph round_blocks",
    "generation.arguments": "Randomness check_sampling check_whole check_tokens "
    "check_list pad_left check_prompt",
    "training.config": "learning_rate_at",
    "training.step": "make_optimizers sum_of_losses nats_per_token Progress training_step",
    "training.train": "train",
}
CHAPTERS = sorted(BOOK.glob("[0-9]*.ipynb"))
BUILDING = [path for path in CHAPTERS if not path.stem.startswith("00")]


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def is_tagged(cell: dict) -> bool:
    return TAG in cell.metadata.get("tags", [])


def module_of(cell: dict) -> str:
    """The module that a tagged cell shows a part of, without the package's name."""
    name = FILE_COMMENT.match(cell.source.partition("\n")[0])[1]
    return name.removeprefix("tinyperceiver/").removesuffix(".py").replace("/", ".")


def source_of(module: str) -> str:
    path = ROOT / "tinyperceiver" / f"{module.replace('.', '/')}.py"
    return path.read_text(encoding="utf-8")


def python_of(source: str) -> ast.Module:
    """A cell's code without the lines that only IPython understands."""
    return ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source))


@pytest.mark.parametrize("path", BUILDING, ids=lambda path: path.stem)
def test_cells_hold_the_packages_text(path):
    tagged = [cell for cell in code_cells(path) if is_tagged(cell)]
    # The tenth measures what the others built.
    assert tagged or path.stem.startswith("10"), "a chapter ends in the package's code"
    for cell in tagged:
        assert cell.source == filled(cell.source), "run scripts/fill_chapters.py"


@pytest.mark.parametrize("path", BUILDING, ids=lambda path: path.stem)
def test_only_tagged_cells_name_a_file_of_the_package(path):
    for cell in code_cells(path):
        if not is_tagged(cell):
            assert not FILE_COMMENT.match(cell.source.partition("\n")[0]), cell.source[:80]


def where_defined() -> dict[tuple[str, str], list[str]]:
    """(module, name) -> the chapters whose tagged cells define it."""
    places = {}
    for path in BUILDING:
        for cell in filter(is_tagged, code_cells(path)):
            for name in definitions(cell.source):
                places.setdefault((module_of(cell), name), []).append(path.stem)
    return places


def public_names(source: str) -> list[str]:
    """What a module lists in `__all__`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("a module without __all__")


def test_every_definition_stands_in_exactly_one_chapter():
    places = where_defined()
    wanted = {(module, name) for module in BUILT for name in definitions(source_of(module))}
    shown = {(module, name) for module, names in SHOWN.items() for name in names.split()}
    assert {place for place in wanted | shown if place not in places} == set(), "in no chapter"
    assert {place: where for place, where in places.items() if len(where) > 1} == {}
    public = {(module, name) for module in BUILT for name in public_names(source_of(module))}
    assert public <= wanted, "public, and not found as a definition"


def imports_of(source: str) -> list[tuple[str, str | None]]:
    """(module, name) of what a cell imports from the package; name None for a module."""
    found = []
    for node in ast.walk(python_of(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module, alias.name) for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] == "tinyperceiver"]


# What chapters may use as it is: sound, pictures, pieces, faster ways to the same numbers.
TOOLS = {"sound", "model.blockwise_attention", "model.user_methods", "music.pieces", "teaching"}
# Chapter 11 checks the decoder against the model before it relies on it; chapter 13 builds it.
AHEAD = {("11_sampling", "engines.torch_engine"), ("11_sampling", "engines.choice")}
TOOL_NAMES = {"PIECES", "TinyperceiverError", "load_piece", "mp3_bytes", "piano_roll", "play"}
TOOL_NAMES |= {"render", "wav_bytes"}


def early_imports(cells: list, chapter: str, places: dict) -> list[str]:
    """What the cells of a chapter import before a chapter has built it."""
    early = []
    for cell in cells:
        for module, name in imports_of(cell.source):
            parts = module.split(".")[1:]
            is_tool = ".".join(parts) in TOOLS or (parts and parts[0] in TOOLS)
            if is_tool or (not parts and name in TOOL_NAMES):
                continue
            if (chapter, ".".join(parts)) in AHEAD:
                continue
            # From Part III on, what no chapter builds may be used; the text says what it does.
            nowhere = "00" if chapter >= "08" else "99"
            where = places.get((".".join(parts), name), [nowhere])[0]
            if where >= chapter:
                early.append(f"{module}.{name}")
    return early


@pytest.mark.parametrize("path", BUILDING, ids=lambda path: path.stem)
def test_nothing_is_imported_before_it_is_built(path):
    _, *cells = code_cells(path)  # the first is the same everywhere, and uses nothing
    assert early_imports(cells, path.stem, where_defined()) == []


def test_early_imports_are_noticed():
    places = {("model.rotary", "rotation_at"): ["04_rotary"]}
    for source, found in {
        "from tinyperceiver.model.rotary import rotation_at": [],
        "from tinyperceiver.model.perceiver_ar import PerceiverAR": [
            "tinyperceiver.model.perceiver_ar.PerceiverAR"
        ],
        "from tinyperceiver import generate, play": ["tinyperceiver.generate"],
        "import tinyperceiver.model": ["tinyperceiver.model.None"],
        "from tinyperceiver.teaching.style import show": [],
        "%pip install x\nimport torch": [],
    }.items():
        cell = nbformat.v4.new_code_cell(source)
        assert early_imports([cell], "05_attention", places) == found, source
    ahead = [
        nbformat.v4.new_code_cell("from tinyperceiver.engines.torch_engine import TorchDecoder")
    ]
    places[("engines.torch_engine", "TorchDecoder")] = ["13_speed"]
    assert early_imports(ahead, "11_sampling", places) == []
    assert early_imports(ahead, "12_released", places) == [
        "tinyperceiver.engines.torch_engine.TorchDecoder"
    ]
    same = [nbformat.v4.new_code_cell("from tinyperceiver.model.rotary import rotation_at")]
    assert early_imports(same, "04_rotary", places) == ["tinyperceiver.model.rotary.rotation_at"]


@pytest.mark.parametrize("path", BUILDING, ids=lambda path: path.stem)
def test_sketches_do_not_take_the_packages_names(path):
    names = {name for module in BUILT for name in definitions(source_of(module))}
    for cell in code_cells(path):
        if not is_tagged(cell) and "exercise" not in cell.metadata:
            taken = names & {
                node.name
                for node in python_of(cell.source).body
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            }
            assert taken == set(), "two things of one name"


@pytest.mark.parametrize("path", BUILDING, ids=lambda path: path.stem)
def test_chapters_are_filled(path):
    notebook = nbformat.read(path, as_version=4)
    assert not fill(notebook, path.stem), "run scripts/fill_chapters.py"


def test_the_page_of_solutions_is_up_to_date():
    page = (BOOK / "solutions.md").read_text(encoding="utf-8")
    assert page == fill_chapters.solutions_page(), "run scripts/fill_chapters.py"


def test_one_character_makes_a_difference(tmp_path, monkeypatch):
    """On either side: each character of a cell, and each of the package's text, is compared."""
    folder = tmp_path / "tinyperceiver" / "model"
    folder.mkdir(parents=True)
    text = source_of("model.rotary")
    (folder / "rotary.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(fill_chapters, "ROOT", tmp_path)
    cell = filled("# tinyperceiver/model/rotary.py\ndef apply_rotation(): ...")
    assert cell == filled(cell)
    body = definitions(text)["apply_rotation"]
    assert body in cell
    for i, old in enumerate(body):
        new = "y" if old == "x" else "x"
        changed = body[:i] + new + body[i + 1 :]
        if old != "\n" and i > len("def apply_rotation"):
            try:
                ast.parse(changed)
            except SyntaxError:
                continue
            (folder / "rotary.py").write_text(text.replace(body, changed), encoding="utf-8")
            assert filled(cell) != cell, f"character {i} of the package"
            (folder / "rotary.py").write_text(text, encoding="utf-8")
            typo = cell.replace(body, changed)
            assert filled(typo) != typo, f"character {i} of the cell"


def test_definitions_are_found_with_their_comments_and_decorators():
    source = (
        '"""Doc."""\n\nimport os\n\n__all__ = ["A"]\n\n# About a.\nA, B = 1, 2  # why\n\n\n'
        "@decorated\nclass C:\n    x = 1\n\n\ndef f():\n    return A\n"
    )
    found = definitions(source)
    assert list(found) == ["A", "B", "C", "f"]
    assert found["A"] == found["B"] == "# About a.\nA, B = 1, 2  # why"
    assert found["C"] == "@decorated\nclass C:\n    x = 1"


@pytest.mark.parametrize(
    "source, fault",
    [
        ("def f(): ...", "starts with"),
        ("# tinyperceiver/model/rotary.py", "defines nothing"),
        ("# tinyperceiver/model/rotary.py\ndef nonsense(): ...", "does not define nonsense"),
    ],
)
def test_a_cell_that_cannot_be_filled_is_refused(source, fault):
    with pytest.raises(ValueError, match=fault):
        filled(source)
