"""The reference: every public name is in it, once, with a docstring that explains its arguments."""

import importlib
import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import test_repository
import yaml

import tinyperceiver

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
sys.path.insert(0, str(ROOT / "scripts"))

import reference_pages  # noqa: E402

PATHS = sorted(BOOK.glob("reference/*.md"))
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in PATHS}
DIRECTIVE = re.compile(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", re.MULTILINE)
DESCRIBED = [
    name if "." in name else f"tinyperceiver.{name}"
    for page in PAGES.values()
    for name in DIRECTIVE.findall(page)
]


def test_every_public_name_is_described_once():
    public = [name for name in DESCRIBED if name.count(".") == 1]
    assert sorted(public) == sorted(f"tinyperceiver.{name}" for name in tinyperceiver.__all__)
    assert len(DESCRIBED) == len(set(DESCRIBED)) > 150


def test_what_is_described_can_be_imported():
    pytest.importorskip("transformers", reason="needs the extra `transformers`")
    for name in DESCRIBED:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name


def test_each_folder_has_its_page():
    beside = {
        module.split(".")[0] for modules, _ in reference_pages.BESIDE.values() for module in modules
    }
    # `huggingface` is another name of the bridge; the command line has its own --help.
    floors = set(test_repository.FLOORS) - {"huggingface", "cli"}
    assert set(PAGES) == floors - beside | set(reference_pages.BESIDE)
    order = [floor for floor in test_repository.FLOORS if floor in PAGES]
    assert [page for page in reference_pages.FOLDERS if page in order] == order
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    sections = next(row["sections"] for row in chapters if row["file"] == "reference")
    listed = [section["file"] for section in sections]
    assert listed == [f"reference/{folder}" for folder in reference_pages.FOLDERS]


@pytest.mark.parametrize("folder", [f for f in PAGES if f not in reference_pages.BESIDE])
def test_a_folder_says_in_which_order_to_read_its_files(folder):
    text = importlib.import_module(f"tinyperceiver.{folder}").__doc__
    for path in (ROOT / "tinyperceiver" / folder).glob("[!_]*.py"):
        assert f"`{path.stem}`" in text, path.name


def test_an_entry_says_where_its_code_is_and_what_its_fields_mean():
    shown = [("Piece", "tinyperceiver/music/pieces.py", "07_decoder", "A layer")]
    entry = reference_pages.entry("Piece", "music.pieces", "tinyperceiver.music.pieces", shown)
    assert entry.startswith(".. autoclass:: tinyperceiver.music.pieces.Piece\n")
    assert ":doc:`chapter 7 </07_decoder>`, *A layer*" in entry
    entry = reference_pages.entry("PerceiverConfig", "model.config", "tinyperceiver", [])
    assert "   :members: max_prefix_len, padding, num_rotary_layers\n" in entry
    assert "   :param num_channels: D" in entry
    entry = reference_pages.entry("PRESETS", "model.config", "tinyperceiver", [])
    assert entry.startswith(".. py:data:: PRESETS\n   :module: tinyperceiver\n\n   Name -> shape.")


def explained(docstring: str) -> set[str]:
    """The parameters that a docstring explains, under Args or in backticks."""
    found = set(re.findall(r"`(\w+)`", docstring))
    section = re.search(r"^Args:\n((?:(?: {4}.*)?\n)*)", docstring + "\n", re.MULTILINE)
    for line in re.findall(r"^ {4}(\w[^:\n]*):", section[1] if section else "", re.MULTILINE):
        found |= {name.strip() for name in line.split(",")}
    return found


def says_what_is_returned(docstring: str) -> bool:
    return bool(re.search(r"^Returns:|^Yields:|->|\A(Return|Yield)", docstring, re.MULTILINE))


def functions() -> dict[str, object]:
    """The public functions, and the methods of public classes."""
    found = {}
    for name in tinyperceiver.__all__:
        value = getattr(tinyperceiver, name)
        if inspect.isclass(value):
            members = {
                m: inspect.getattr_static(value, m) for m in reference_pages.members_of(value)
            }
            found |= {
                f"{name}.{member}": getattr(method, "__func__", method)
                for member, method in members.items()
                if not isinstance(method, property)
            }
        elif reference_pages.is_described(value):
            found[name] = value
    return found


@pytest.mark.parametrize("name", functions())
def test_a_docstring_explains_parameters_and_result(name):
    function = functions()[name]
    signature, docstring = inspect.signature(function), inspect.getdoc(function)
    assert set(signature.parameters) - {"self", "cls"} - explained(docstring) == set()
    if signature.return_annotation not in (None, "None"):
        assert says_what_is_returned(docstring)


@pytest.mark.parametrize("kind", ["PerceiverConfig", "Stage", "TrainingConfig"])
def test_every_field_of_a_configuration_is_explained(kind):
    kind = getattr(tinyperceiver, kind)
    assert set(reference_pages.fields_of(kind)) == {field.name for field in fields(kind)}


def test_what_a_docstring_leaves_out_is_noticed():
    arguments = "Args:\n    b, c: numbers\n        d: in words.\n    e: one.\n"
    docstring = f"Add `a`.\n\n{arguments}\nRaises:\n    f: no."
    assert explained(docstring) == {"a", "b", "c", "e"}
    assert not says_what_is_returned(docstring)
    assert says_what_is_returned("Turn x: (B, n) -> (n, B).")
