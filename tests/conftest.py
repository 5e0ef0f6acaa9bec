"""What tests share: golden answers, larger data that some can use, a browser, colours."""

import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

# Where it is set, pyfluidsynth prints where its library lies, into what tests compare.
os.environ.pop("CI", None)
# Compiling a tiny model: a pool of processes would take longer to start than the work.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# The models here are tiny: on a busy machine, threads would wait for one another for minutes.
torch.set_num_threads(1)

# Seconds that a test waits for a browser, a kernel, a server or another process before it fails.
# What works takes a few; a machine that is busy with ten other things takes a minute.
PATIENCE = 300

# Answers of the library that trained the released model; chapter 7 shows those of REFERENCE.
GOLDEN = Path(__file__).parent / "golden"
REFERENCE = Path(__file__).parent.parent / "tinyperceiver" / "assets" / "reference"

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs the hub and a large download, unless -m speaks of it."""
    if "hub" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("hub")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


class Terminal(io.StringIO):
    """A terminal, for the place of standard error, which is a file in the tests."""

    def isatty(self) -> bool:
        return True


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


@pytest.fixture(scope="session")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium here: on Debian, apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=FLAGS, timeout=1000 * PATIENCE
        )
        yield browser
        browser.close()


def new_context(browser, **options):
    """A browser's context, in which whatever waits does so patiently; options of Playwright."""
    context = browser.new_context(**options)
    context.set_default_timeout(1000 * PATIENCE)  # milliseconds
    return context


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Ask again and again; AssertionError that says `what` was waited for in vain."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"waited {PATIENCE} seconds in vain for {what}"
        time.sleep(0.02)


def linear(color: str) -> np.ndarray:
    """Linear RGB of an sRGB colour, (3,), each 0 to 1."""
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2.2 defines it, 0 to 1."""
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])
