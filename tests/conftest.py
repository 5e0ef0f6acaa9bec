"""Where the golden answers lie, and the larger data that some tests can use."""

import os
from pathlib import Path

import pytest
import torch

# Where it is set, pyfluidsynth prints where its library lies, into what tests compare.
os.environ.pop("CI", None)

# The models here are tiny: on a busy machine, threads would wait for one another for minutes.
torch.set_num_threads(1)

# Answers of the library that trained the released model; chapter 7 shows those of REFERENCE.
GOLDEN = Path(__file__).parent / "golden"
REFERENCE = Path(__file__).parent.parent / "tinyperceiver" / "assets" / "reference"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of larger data, if this machine has one."""
    name = os.environ.get("TINYPERCEIVER_DATA")
    if not name:
        pytest.skip("needs the folder of larger data: set TINYPERCEIVER_DATA to its path")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"TINYPERCEIVER_DATA names {name!r}, which is not a folder")
    return folder
