"""The reference: every public name is in it, once, with a docstring that explains its arguments."""

import importlib
import re
import sys
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
