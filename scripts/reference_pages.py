"""Make the pages of the book's reference: one for each folder of the package, and their table.

The pages hold directives of Sphinx autodoc, which fills in signatures and docstrings when the book
is built. What autodoc cannot see is written here: the order, the chapters, and the comments that
explain the fields of dataclasses and the public constants.
"""

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import tinyperceiver

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tinyperceiver"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
# Pages in the order of CONTRIBUTING's floors; the two ways to the model's card share a page.
FOLDERS = [
    "files",
    "music",
    "sound",
    "model",
    "engines",
    "generation",
    "checkpoints",
    "dataset",
    "training",
    "pipelines",
    "studio",
]
BESIDE = {
    "pipelines": (
        ["music_pipeline", "transformers_bridge.model", "transformers_bridge.audio_pipeline"],
        "Pipelines that take music and return music.\n\n`music_pipeline` is the pipeline of the "
        "released model's card; `transformers_bridge` offers it to the Transformers library.",
    )
}
# (name, file, chapter, section) of what a chapter shows, from `fill_chapters.shown_code`.
Shown = Iterable[tuple[str, str, str, str]]


def modules_of(folder: str) -> list[str]:
    """The modules of a page, in the order in which the folder's docstring names them."""
    if folder in BESIDE:
        return BESIDE[folder][0]
    text = about(folder)
    stems = [path.stem for path in (PACKAGE / folder).glob("[!_]*.py")]
    named = {stem: text.find(f"`{stem}`") for stem in stems}
    return [f"{folder}.{stem}" for stem in sorted(stems, key=lambda s: (named[s] < 0, named[s], s))]


def about(folder: str) -> str:
    """What a folder says of itself."""
    if folder in BESIDE:
        return BESIDE[folder][1]
    return importlib.import_module(f"tinyperceiver.{folder}").__doc__.strip()


def names_of(module: str) -> list[str]:
    """The names in a module's `__all__`, in the order in which the file defines them."""
    loaded = importlib.import_module(f"tinyperceiver.{module}")
    source = inspect.getsource(loaded)
    place = {}
    for name in loaded.__all__:
        definition = re.search(rf"^(?:def |class |(?:\w+, )*){name}\b", source, re.MULTILINE)
        place[name] = definition.start()
    return sorted(place, key=place.get)


def is_described(value: object) -> bool:
    """Whether autodoc can describe it: constants and aliases of types have no docstring."""
    return inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))


def link_to(name: str, module: str) -> str:
    """The name under which the reference holds what a module defines; "" if it does not."""
    if name in tinyperceiver.__all__:
        return f"tinyperceiver.{name}"
    loaded = importlib.import_module(f"tinyperceiver.{module}")
    if name in loaded.__all__ and is_described(getattr(loaded, name)):
        return f"tinyperceiver.{module}.{name}"
    return ""


def linked(name: str, file: str) -> str:
    """A name of a file, as Markdown that leads to the reference if that holds it."""
    module = file.removeprefix("tinyperceiver/").removesuffix(".py").replace("/", ".")
    target = link_to(name, module) if module.split(".")[0] in LINKED else ""
    return f"{{py:obj}}`{name} <{target}>`" if target else f"`{name}`"


LINKED = {module.split(".")[0] for folder in FOLDERS for module in modules_of(folder)}


# One entry


def members_of(kind: type) -> list[str]:
    """Methods and properties of a class that the package defines and describes."""
    found = []
    for parent in reversed(kind.__mro__):
        if parent.__module__.startswith("tinyperceiver."):
            for name, value in vars(parent).items():
                value = getattr(value, "__func__", value)
                is_method = inspect.isfunction(value) or isinstance(value, property)
                is_public = not name.startswith("_") or name == "__call__"
                if is_method and is_public and value.__doc__ and name not in found:
                    found.append(name)
    return found


def fields_of(kind: type) -> dict[str, str]:
    """Fields of a class -> the comment on the line of each."""
    source, found = inspect.getsource(kind), {}
    for statement in ast.parse(source).body[0].body:
        if isinstance(statement, ast.AnnAssign):
            line = source.splitlines()[statement.end_lineno - 1]
            if comment := re.search(r"  # (.*)$", line):
                found[statement.target.id] = comment[1]
    return found


def comment_on(name: str, module: str) -> str:
    """The comment above a constant."""
    source = inspect.getsource(importlib.import_module(f"tinyperceiver.{module}"))
    lines = re.search(rf"((?:^# .*\n)*)^{name}\b", source, re.MULTILINE)[1].splitlines()
    return " ".join(line.removeprefix("# ") for line in lines)


def entry(name: str, module: str, prefix: str, shown: Shown) -> str:
    """The directive for one name, below `prefix`, in reStructuredText."""
    value = getattr(importlib.import_module(f"tinyperceiver.{module}"), name)
    file = f"tinyperceiver/{module.replace('.', '/')}.py"
    source = f"`{file} <{ADDRESS}/blob/main/{file}>`__"
    body = [f"Code: {source}"]
    for other, where, chapter, section in shown:
        if (other, where) == (name, file):
            number = int(chapter.split("_")[0])
            body = [f"Code: {source}, built in :doc:`chapter {number} </{chapter}>`, *{section}*"]
    options = []
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, Exception) else "autoclass"
        if members := members_of(value):
            options = [f":members: {', '.join(members)}"]
        fields = [f":param {field}: {text}" for field, text in fields_of(value).items()]
        body = [*fields, *([""] if fields else []), *body]
    elif is_described(value):
        kind = "autofunction"
    else:
        kind, options = "py:data", [f":module: {prefix}"]
        body = [comment_on(name, module), "", *body]
    path = name if kind == "py:data" else f"{prefix}.{name}"
    lines = [f".. {kind}:: {path}", *(f"   {option}" for option in options), ""]
    return "\n".join([*lines, *(f"   {line}".rstrip() for line in body)]) + "\n"


# Pages


def folder_page(folder: str, shown: Shown) -> str:
    """The text of `book/reference/FOLDER.md`."""
    text = f"# {folder}\n\n{about(folder)}\n"
    public = [
        (name, module)
        for module in modules_of(folder)
        for name in names_of(module)
        if name in tinyperceiver.__all__
    ]
    if public:
        text += "\n## Public names\n\nImport these from `tinyperceiver`.\n"
        text += "".join(_directive(*one, "tinyperceiver", shown) for one in public)
    for module in modules_of(folder):
        rest = [name for name in names_of(module) if name not in tinyperceiver.__all__]
        loaded = importlib.import_module(f"tinyperceiver.{module}")
        described = [name for name in rest if is_described(getattr(loaded, name))]
        if not described:
            continue
        summary = loaded.__doc__.partition("\n")[0]
        text += f"\n## {module.split('.')[-1]}.py\n\n{summary} Import these from "
        text += f"`tinyperceiver.{module}`.\n"
        prefix = f"tinyperceiver.{module}"
        text += "".join(_directive(name, module, prefix, shown) for name in described)
    return text


def _directive(name: str, module: str, prefix: str, shown: Shown) -> str:
    return f"\n```{{eval-rst}}\n{entry(name, module, prefix, shown)}```\n"


def index_page(shown: Shown) -> str:
    """The text of `book/reference.md`."""
    shown = list(shown)
    text = (
        "# Reference\n\nThe package's functions and classes, with their arguments, what they "
        "return and the errors they raise. The text comes from the docstrings in the code. The "
        "[guide](guide.md) shows how to use the package, one task after the other.\n\n"
        "There is a page for each folder of the package. A folder uses only the folders above it "
        "in this list, so the list goes from files to whole programs. The names in the tables are "
        "public: you can import them from `tinyperceiver`, and they stay when the inside changes. "
        "A page also describes the parts inside, below the public names. "
        "[Code by chapter](code_index.md) shows the same code in the order of the book.\n"
    )
    for folder in FOLDERS:
        title = about(folder).partition("\n")[0]
        text += f"\n## [{folder}](reference/{folder}.md)\n\n{title}\n"
        rows = ""
        for module in modules_of(folder):
            for name in names_of(module):
                if name in tinyperceiver.__all__:
                    file = f"tinyperceiver/{module.replace('.', '/')}.py"
                    places = [row[2] for row in shown if row[:2] == (name, file)]
                    links = [f"[{int(stem.split('_')[0])}]({stem}.ipynb)" for stem in places]
                    link = f"{{py:obj}}`{name} <tinyperceiver.{name}>`"
                    rows += f"| {link} | {_summary(name, module)} | {', '.join(links)} |\n"
        if rows:
            text += f"\n| name | what it does | chapter |\n| --- | --- | --- |\n{rows}"
    return text


def _summary(name: str, module: str) -> str:
    value = getattr(tinyperceiver, name)
    if not is_described(value):
        return comment_on(name, module)
    return inspect.getdoc(value).partition("\n\n")[0].replace("\n", " ")
