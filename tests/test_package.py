"""The package as a whole: light to import, its names where they should be."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE

import tinyperceiver

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tinyperceiver"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("[!_]*.py")
    if "teaching" not in path.parts
)
HEAVY = {
    "IPython",
    "fluidsynth",
    "huggingface_hub",
    "matplotlib",
    "mido",
    "onnx",
    "onnxruntime",
    "pretty_midi",
    "soundfile",
    "tinysoundfont",
    "torch._dynamo",
    "typer",
}


def tree_of(module: str) -> ast.Module:
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(tree: ast.AST) -> set[str]:
    """Names of the modules imported anywhere in it, relative ones with their dots."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            inside = name == "tinyperceiver"
            found |= {f"{name}.{alias.name}" for alias in node.names} if inside else {name}
    return found


def fresh(code: str, **environment: str) -> str:
    """What a new Python prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return result.stdout


def test_import_is_light():
    names = "tinyperceiver, tinyperceiver.dataset.prepare, tinyperceiver.cli.main"
    loaded = set(fresh(f"import sys, {names}; print(*sys.modules, sep='\\n')").split("\n"))
    assert {"tinyperceiver.music.tokenizer", "numpy"} <= loaded
    assert loaded & (HEAVY - {"typer"} | {"torch"}) == set()
    code = "import sys, tinyperceiver as t; t.pipeline; print(*sys.modules, sep='\\n')"
    loaded = set(fresh(code).split("\n"))
    assert {"torch", "tinyperceiver.music_pipeline"} <= loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    "own, found",
    [
        ({}, "10000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_threads_do_not_spin_for_long_unless_the_user_says_so(monkeypatch, own, found):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    look = "print(*map(os.environ.get, ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')))"
    assert fresh(f"import os, tinyperceiver; {look}", **own) == f"{found}\n"
    order = "import os, sys, tinyperceiver; print('torch' in sys.modules)"
    assert fresh(order) == "False\n", "PyTorch was loaded first, and reads it no more"


def test_names_that_are_imported_when_asked_for():
    code = "import tinyperceiver as t; print(set(t.__all__) <= set(dir(t)), hasattr(t, 'nothing'))"
    assert fresh(code).split() == ["True", "False"]
    assert set(tinyperceiver._MODULE_OF) == set(tinyperceiver.__all__)
    # What type checkers read says the same.
    known = {
        alias.name: node.module.removeprefix("tinyperceiver.")
        for node in ast.walk(tree_of("__init__"))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tinyperceiver.")
        for alias in node.names
    }
    assert known == tinyperceiver._MODULE_OF


def test_public_names_exist_are_sorted_and_documented():
    names = tinyperceiver.__all__
    assert len(set(names)) == len(names)
    assert names == sorted(
        names, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    for name in names:
        thing = getattr(tinyperceiver, name)
        if callable(thing):
            assert thing.__doc__ and thing.__doc__.strip(), name
            assert name in importlib.import_module(thing.__module__).__all__, name
        else:
            tables = ("PIECES", "PRESETS", "RUNS")
            assert name in tables, f"{name} is neither a class nor a function"


def test_the_interface_is_whole():
    """What the project promises to those who import it."""
    promised = (
        "encode_midi decode_midi read_midi MidiReadError encode_performance PerceiverConfig "
        "PerceiverAR PRESETS convert_checkpoint pipeline render wav_bytes mp3_bytes play "
        "piano_roll rotation_at apply_rotation MultiHeadAttention HybridAttention DecoderLayer"
    )
    assert set(promised.split()) <= set(tinyperceiver.__all__)
    for method in ("generate", "from_pretrained", "save_pretrained"):
        assert inspect.getdoc(getattr(tinyperceiver.PerceiverAR, method))


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("cli.")])
def test_what_a_module_says_it_exports_is_there(module):
    if module.split(".")[0] in ("huggingface", "transformers_bridge"):
        pytest.importorskip("transformers", reason="needs the extra `transformers`")
    loaded = importlib.import_module(f"tinyperceiver.{module}")
    assert loaded.__all__
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def exports_of(module: str) -> list[str]:
    """What a module lists in `__all__`."""
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


def test_what_other_files_import_is_exported():
    """`__all__` is the whole interface of a file, and private names are nobody else's."""
    exports = {
        f"tinyperceiver.{module}": exports_of(module)
        for module in MODULES
        if not module.startswith("cli.")
    }
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    imports = [
        (node.module, alias.name)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tinyperceiver")
        for alias in node.names
    ]
    assert len(imports) > 500
    unlisted = {(m, name) for m, name in imports if name not in exports.get(m, [name])}
    assert unlisted == set(), "imported elsewhere, and not in __all__"
    private = {(m, name) for m, name in imports if re.match("_(?!_)", name)}
    assert private == set(), "private, and imported elsewhere"


def test_what_is_imported_is_declared():
    """Whoever installs the package gets what it needs."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[$(.*?)^\]$", text, re.MULTILINE | re.DOTALL)[1]
    declared = {name.lower() for name in re.findall(r'^\s*"([\w-]+)', listed, re.MULTILINE)}
    imported = {name.split(".")[0] for module in MODULES for name in imports_of(tree_of(module))}
    imported -= set(sys.stdlib_module_names) | {"tinyperceiver"}
    imported.discard("mido")  # what pretty_midi reads with, and depends on
    imported.discard("IPython")  # in a notebook, which has it
    imported.discard("tinysoundfont")  # the fallback, installed by hand
    imported.discard("distributed")  # of the extra "dask"
    imported.discard("transformers")  # of the extra of that name
    imported.discard("typing_extensions")  # for type checkers, which bring it
    imported.discard("ipywidgets")  # of the extra "book"
    packages = {"fluidsynth": "pyfluidsynth", "lightning_fabric": "lightning-fabric"}
    assert {packages.get(name, name) for name in imported} <= declared


MUSIC = {
    "encode_midi": tinyperceiver.encode_midi,
    "encode_performance": tinyperceiver.encode_performance,
    "render": tinyperceiver.render,
    "play": tinyperceiver.play,
    "piano_roll": tinyperceiver.piano_roll,
    "wav_bytes": tinyperceiver.wav_bytes,
    "mp3_bytes": tinyperceiver.mp3_bytes,
}


@pytest.mark.parametrize("path", ["piece.mid", Path("piece.mid")])
@pytest.mark.parametrize("name", MUSIC)
def test_a_path_in_place_of_music_is_refused_with_the_remedy(name, path):
    with pytest.raises(TypeError, match=r"not a path: pass read_midi\('piece.mid'\)"):
        MUSIC[name](path)


def test_music_in_place_of_tokens_is_refused_with_the_remedy():
    model = tinyperceiver.PerceiverAR.from_pretrained("tiny")
    piece = tinyperceiver.load_piece("bach-prelude")
    for prompt in ("piece.mid", Path("piece.mid"), piece, [piece], ["piece.mid"]):
        with pytest.raises(TypeError, match=r"token ids, .* encode_midi\(read_midi\(path\)\)"):
            model.generate(prompt, max_new_tokens=1)
    for prompt in ("piece.mid", Path("piece.mid"), piece):
        with pytest.raises(TypeError, match=r"token ids, .* encode_midi\(read_midi\(path\)\)"):
            model.stream(prompt)
    with pytest.raises(TypeError, match=r"pass read_midi\('piece.mid'\)"):
        tinyperceiver.pipeline("symbolic-audio-generation", model)("piece.mid", max_new_tokens=1)
