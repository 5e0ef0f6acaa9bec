"""`prepare`: hostile zips, dying workers, kills at any moment; always the same bytes."""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import PATIENCE, wait_until
from encoders import CRASHES, HANGS, backwards, deadly, on_a_full_disk, slow
from test_fast_midi import file_of, number
from typer.testing import CliRunner

from tinyperceiver import encode_midi, read_midi
from tinyperceiver.cli import main as cli
from tinyperceiver.dataset import prepare, sources
from tinyperceiver.dataset import workers as pool
from tinyperceiver.dataset.hold_out import hold_out_few_of_many
from tinyperceiver.dataset.prepare import encode_file, prepare_folder, prepare_giantmidi
from tinyperceiver.dataset.sources import ArchiveError
from tinyperceiver.files.whole import alone_in

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


def melody(seed: int, length: int = 60) -> bytes:
    """A MIDI file of notes under pedals."""
    rng = random.Random(seed)
    track = b""
    for _ in range(length):
        pitch, velocity = rng.randrange(30, 100), rng.randrange(1, 128)
        track += number(rng.randrange(200)) + bytes([0x90, pitch, velocity])
        track += number(rng.randrange(1, 200)) + bytes([0x90, pitch, 0])
        if rng.random() < 0.3:
            track += bytes([rng.randrange(9), 0xB0, 64, rng.choice((0, 127))])
    return file_of(track)


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


FILES = {f"train/Bach, Étude {i}.mid": melody(i) for i in range(50)} | {
    f"valid/{i}.MIDI": melody(100 + i) for i in range(6)
}
NO_NOTES = file_of(b"\0\xb0\x40\0")


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(prepare, "UNIT_FILES", 8)


@pytest.fixture
def source(tmp_path) -> Path:
    return write_zip(tmp_path / "source.zip", FILES)


def run(source, out, **options) -> dict:
    return prepare_giantmidi(source, out, accept=True, **{"workers": 1} | options)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """What a run leaves, which must not depend on how it went."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pieces_of(path: Path) -> list[list[int]]:
    tokens = np.fromfile(path, "<i2")
    ends = np.flatnonzero(tokens == -1)
    assert ends[-1] == len(tokens) - 1
    return [part[:-1].tolist() for part in np.split(tokens, ends + 1)[:-1]]


def test_result(source, tmp_path):
    out = tmp_path / "out"
    manifest = run(source, out)
    for split in ("train", "valid"):
        expected = []
        for name in sorted(name for name in FILES if name.startswith(split)):
            (tmp_path / "a.mid").write_bytes(FILES[name])
            expected.append(encode_midi(read_midi(tmp_path / "a.mid")))
        assert pieces_of(out / f"{split}.bin") == expected
        found = manifest["splits"][split]
        data = (out / f"{split}.bin").read_bytes()
        assert found["sha256"] == hashlib.sha256(data).hexdigest()
        assert found["pieces"] == len(expected)
        assert found["tokens"] == sum(map(len, expected))
        assert found["notes"] == sum(t < 128 for piece in expected for t in piece)
        seconds = sum(t - 255 for piece in expected for t in piece if 256 <= t < 356) / 100
        assert found["seconds"] == pytest.approx(seconds)
    assert manifest == json.loads((out / "manifest.json").read_bytes())
    assert manifest["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert manifest["source"]["name"] == "source.zip"
    assert manifest["skipped"] == [] and manifest["copies"] == []
    lines = (out / "pieces.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(FILES)
    assert lines[1].split("\t")[:2] == ["train", "train/Bach, Étude 0.mid"]
    left = {".lock", "CONSENT.txt", "manifest.json", "pieces.tsv", "train.bin", "valid.bin"}
    assert set(bytes_of(out)) == left
    assert str(tmp_path).encode() not in b"".join(bytes_of(out).values())


def test_any_number_of_workers_gives_the_same_bytes(source, tmp_path):
    results = []
    for workers in (1, 2, 3):
        run(source, tmp_path / str(workers), workers=workers)
        results.append(bytes_of(tmp_path / str(workers)))
    assert results[0] == results[1] == results[2]


def test_a_folder_and_one_folder_down(source, tmp_path):
    run(source, tmp_path / "zip")
    run(write_folder(tmp_path / "folder", FILES), tmp_path / "out")
    deeper = {f"giantmidi/{name}": data for name, data in FILES.items()}
    deeper |= {"giantmidi/README.txt": b"", "__MACOSX/giantmidi/train/._1.mid": b"\0"}
    run(write_zip(tmp_path / "deeper.zip", deeper), tmp_path / "deeper")
    for name in ("train.bin", "valid.bin"):
        expected = (tmp_path / "zip" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == expected
        assert (tmp_path / "deeper" / name).read_bytes() == expected


def test_a_second_run_does_nothing_and_a_damaged_result_is_made_again(source, tmp_path, capsys):
    out = tmp_path / "out"
    run(source, out)
    before, times = bytes_of(out), [p.stat().st_mtime_ns for p in sorted(out.iterdir())]
    capsys.readouterr()
    run(source, out, workers=1)
    assert capsys.readouterr().out == f"{out} is complete: nothing to do\n"
    times[0] = sorted(out.iterdir())[0].stat().st_mtime_ns  # the lock
    assert [p.stat().st_mtime_ns for p in sorted(out.iterdir())] == times
    (out / "train.bin").write_bytes(before["train.bin"][:-2])
    run(source, out)
    assert bytes_of(out) == before


def test_a_changed_source_or_another_encoder_starts_afresh(source, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    source = write_zip(source, FILES | {"train/0.mid": melody(7)})
    assert run(source, out)["splits"]["train"]["pieces"] == 51
    manifest = run(source, out, encode=backwards)
    assert manifest["options"]["encode"] == "encoders.backwards"
    assert pieces_of(out / "train.bin")[0] == encode_file(melody(7))[::-1]


def test_another_dataset_does_not_replace_what_is_there(source, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    before = bytes_of(out)
    mine = write_folder(tmp_path / "mine", {"a.mid": melody(1), "b.mid": melody(2)})
    with pytest.raises(ValueError, match=rf"holds the tokens of {source.name!r}, not of 'mine'"):
        run(mine, out)
    assert bytes_of(out) == before
    namesake = write_folder(tmp_path / "other" / source.name, {"a.mid": melody(1)})
    with pytest.raises(ValueError, match=rf"holds the tokens of another {source.name!r}, not of"):
        run(namesake, out)
    assert bytes_of(out) == before
    with pytest.raises(ValueError, match=r"none\.zip does not exist"):
        run(tmp_path / "none.zip", tmp_path / "new")


def test_bad_files_are_left_out_and_listed(tmp_path):
    files = FILES | {
        "train/0.mid": b"not MIDI",
        "train/1.mid": b"",
        "train/2.mid": NO_NOTES,
        "train/3.mid": b"MThd" + bytes(4_000_000),
        "train/A, copy.mid": melody(0),
    }
    source = write_folder(tmp_path / "source", files)
    (source / "train" / "4.mid").symlink_to(source / "train" / "0.mid")
    manifest = run(source, tmp_path / "out")
    reasons = {row["name"]: row["reason"] for row in manifest["skipped"]}
    assert list(reasons) == [f"train/{i}.mid" for i in range(5)]
    start = "it does not start with 'MThd' as MIDI files do"
    assert [reasons[f"train/{i}.mid"] for i in range(5)] == [
        start,
        start,
        "it has no notes",
        "more than 4,000,000 bytes",
        "a link, or something else than a file",
    ]
    assert manifest["copies"] == [["train/A, copy.mid", "train/Bach, Étude 0.mid"]]
    assert manifest["splits"]["train"]["pieces"] == 51


def test_a_damaged_member_is_left_out(tmp_path):
    names = list(FILES)
    source = tmp_path / "source.zip"
    with zipfile.ZipFile(source, "w") as file:  # stored, so that its bytes are found
        for name, data in FILES.items():
            file.writestr(name, data)
    data = bytearray(source.read_bytes())
    data[data.index(FILES[names[3]]) + 40] ^= 1
    source.write_bytes(data)
    (skipped,) = run(source, tmp_path / "out")["skipped"]
    assert skipped["name"] == names[3] and skipped["reason"].startswith("damaged in the zip: ")


def test_malformed_files_mixed_with_real_ones(data, tmp_path):
    files = {}
    with zipfile.ZipFile(data / "giantmidi-piano-sample.zip") as sample:
        for name in sample.namelist()[::15]:
            files[name] = sample.read(name)
        files["valid/one.mid"] = sample.read(sample.namelist()[-1])
    bad = sorted((data / "badmidi").rglob("*.mid"))
    files |= {f"train/{p.name}": p.read_bytes() for p in bad if "1e6" not in p.name}
    manifest = run(write_folder(tmp_path / "source", files), tmp_path / "out")
    reasons = {row["name"]: row["reason"] for row in manifest["skipped"]}
    assert 25 < len(reasons) < len(bad) and all(reasons.values())
    assert reasons["train/vlq_2MB.mid"].startswith("a number without end")
    assert not any(str(tmp_path) in reason or "unusual" in reason for reason in reasons.values())
    pieces = sum(split["pieces"] for split in manifest["splits"].values())
    assert pieces + len(reasons) == len(files)


# Dying


def test_a_file_that_kills_or_hangs_is_found_and_the_others_are_kept(tmp_path):
    files = FILES | {"train/B.mid": CRASHES, "train/z.mid": HANGS}
    source = write_zip(tmp_path / "source.zip", files)
    manifest = run(source, tmp_path / "out", encode=deadly, seconds_per_file=1.0, workers=2)
    assert manifest["skipped"] == [
        {"name": "train/B.mid", "reason": "the process that reads it dies or is out of memory"},
        {"name": "train/z.mid", "reason": "not done after 1 seconds"},
    ]
    assert manifest["splits"]["train"]["pieces"] == 50


def test_killed_workers_are_survived(source, tmp_path):
    run(source, tmp_path / "calm", encode=slow)
    rng, done = random.Random(0), threading.Event()
    killed = []

    def kill() -> None:
        # Not more: the second may hit a worker that reads a file alone, and a third the same file
        # again, which is left out then, as it should be.
        while not done.wait(rng.uniform(0.05, 0.35)) and len(killed) < 2:
            for child in multiprocessing.active_children()[:1]:
                child.kill()
                killed.append(child.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run(source, tmp_path / "out", encode=slow, workers=2)
    finally:
        done.set()
        killer.join()
    assert killed
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "calm")


SCRIPT = """
import sys
from encoders import slow
from tinyperceiver.dataset import prepare, sources
from tinyperceiver.dataset import workers as pool
prepare.UNIT_FILES = 4
if __name__ == "__main__":
    options = {"workers": 2, "accept": True, "encode": slow}
    prepare.prepare_giantmidi(sys.argv[1], sys.argv[2], **options)
"""


def start_run(source: Path, out: Path, script: Path) -> subprocess.Popen:
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(source), str(out)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_killed_at_ten_random_moments(source, tmp_path):
    """Ends in the same bytes, and goes on from what was done; its workers die with it."""
    calm, out = tmp_path / "calm", tmp_path / "out"
    begin = time.monotonic()
    assert start_run(source, calm, tmp_path / "run.py").wait(timeout=PATIENCE) == 0
    whole = time.monotonic() - begin
    rng, groups, kills = random.Random(1), [], 0
    for attempt in range(200):
        begin = time.monotonic()
        process = start_run(source, out, tmp_path / "run.py")
        groups.append(process.pid)
        try:
            # Toward the end of a run there is most to disturb.
            assert process.wait(timeout=whole * rng.uniform(0.3, 1.0)) == 0
            # It came through: once more. The first run may have had a slower machine.
            shutil.rmtree(out)
            whole = min(whole, time.monotonic() - begin)
        except subprocess.TimeoutExpired:
            kills += 1
            if attempt % 2:
                process.kill()  # the workers notice
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if kills == 10:
                break
    assert kills == 10
    wait_until(lambda: not any(map(group_lives, groups)), "the end of all the workers")
    assert start_run(source, out, tmp_path / "run.py").wait(timeout=PATIENCE) == 0
    assert bytes_of(out) == bytes_of(calm)


def group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_done_units_are_not_done_again(source, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, "write_result", fail)
        run(source, out)
    (work,) = out.glob("work-*")
    units = sorted(work.iterdir())
    assert [path.name for path in units] == [f"{i:06d}" for i in range(7)]
    times = [path.stat().st_mtime_ns for path in units]
    units[2].write_bytes(units[2].read_bytes()[:-1])  # a disk that lost power
    units[3].unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, "write_result", fail)
        run(source, out)
    again = [path.stat().st_mtime_ns != t for path, t in zip(units, times, strict=True)]
    assert again == [False, False, True, True, False, False, False]
    run(source, out)
    run(source, tmp_path / "calm")
    assert bytes_of(out) == bytes_of(tmp_path / "calm")


def test_what_is_not_its_own_stays(source, tmp_path):
    """A folder may hold other things: its work and half-written files have names of their own."""
    out = tmp_path / "out"
    (out / "work-diary").mkdir(parents=True)
    (out / "work-0123456789abcdef").mkdir()
    for name in ("work-x", "notes.tmp", "train.bin.1.tmp"):
        (out / name).touch()
    run(source, out)
    names = {path.name for path in out.iterdir()}
    assert {"work-diary", "work-x", "notes.tmp"} <= names
    assert not {"work-0123456789abcdef", "train.bin.1.tmp"} & names


def test_a_disk_that_fails_once_costs_no_piece(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "folder", FILES)
    real, count = sources._read_file, itertools.count()

    def fail_once(path):
        if next(count) == len(FILES) + 1:  # each is read once to be listed
            raise OSError(116, "Stale file handle", str(path))
        return real(path)

    monkeypatch.setattr(sources, "_read_file", fail_once)
    opened = sources.open_source(folder)
    pieces = sources.list_pieces(opened)
    assert not [piece for piece in pieces if piece.fault]
    pool._load(opened, pieces[:1])
    with pytest.raises(OSError, match="Stale file handle"):
        pool._load(opened, pieces[1:2])


def test_two_runs_at_once(source, tmp_path):
    with alone_in(tmp_path), pytest.raises(RuntimeError, match="another run is at work"):
        run(source, tmp_path)


def test_what_cannot_be_sent_to_a_process_is_said(source, tmp_path):
    with pytest.raises(RuntimeError, match="`encode` must be a function that they can import"):
        run(source, tmp_path / "out", encode=lambda data: [1])


def test_a_full_disk_stops_the_run_and_blames_no_file(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space left"):
        run(source, out, encode=on_a_full_disk)
    assert not (out / "manifest.json").exists()


@pytest.fixture
def cluster(tmp_path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A Dask scheduler and two workers, each a process of its own."""
    pytest.importorskip("distributed")
    address = tmp_path / "scheduler.json"
    run = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    run += ["--port", "0", "--no-dashboard", "--scheduler-file", str(address)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    quiet["env"] = ENVIRONMENT
    processes = [subprocess.Popen(run, **quiet)]
    try:
        wait_until(lambda: address.exists() or processes[0].poll() is not None, "the scheduler")
        assert processes[0].poll() is None
        run = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1"]
        run += ["--no-nanny", "--no-dashboard", "--scheduler-file", str(address)]
        processes += [subprocess.Popen(run, **quiet) for _ in range(2)]
        yield json.loads(address.read_text())["address"], processes
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def test_a_dask_cluster_one_of_whose_workers_is_killed(source, tmp_path, cluster):
    address, (_, worker, _) = cluster
    from distributed import Client

    with Client(address) as client:
        client.wait_for_workers(2)
    run(source, tmp_path / "calm", encode=slow)
    out, outcome = tmp_path / "out", []

    def work() -> None:
        outcome.append(run(source, out, encode=slow, dask=address))

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: any(out.glob("work-*/*")) or not thread.is_alive(), "the first unit")
    worker.kill()
    thread.join(PATIENCE)
    assert outcome and worker.wait() == -signal.SIGKILL
    assert bytes_of(out) == bytes_of(tmp_path / "calm")


def test_no_dask_cluster(source, tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match="no Dask scheduler answers at 'nowhere'"):
        run(source, tmp_path / "out", dask="nowhere")


# Splits


def test_a_flat_folder_is_split_by_recording(tmp_path):
    ids = [f"{i:03d}-abc_DEF" for i in range(300)]
    files = {f"Liszt, Franz, Étude {i}, {name}.mid": melody(i, 8) for i, name in enumerate(ids)}
    # The same id under another name, the same bytes under another id, and both in a chain.
    files["Alkan, Charles, Étude, 000-abc_DEF.mid"] = melody(1000, 8)
    files["Czerny, Carl, Étude, xyz-abc_DEF.mid"] = melody(1000, 8)
    files["Czerny, Carl, Étude 2, xyz-abc_DEF.mid"] = melody(1001, 8)
    files["no id.mid"] = melody(1001, 8)
    out = tmp_path / "out"
    manifest = run(write_folder(tmp_path / "source", files), out)
    lines = (out / "pieces.tsv").read_text(encoding="utf-8").splitlines()[1:]
    split_of = {line.split("\t")[1]: line.split("\t")[0] for line in lines}
    assert len(split_of) == len(files)
    chained = [n for n in files if n.startswith(("Alkan", "Czerny", "no"))]
    chained.append("Liszt, Franz, Étude 0, 000-abc_DEF.mid")
    assert len({split_of[name] for name in chained}) == 1
    assert 1 <= manifest["splits"]["valid"]["pieces"] <= 20
    assert manifest["options"]["valid_share"] == 0.02
    assert len(manifest["copies"]) == 2

    # Adding a file moves no other one.
    files["Heller, Stephen, Étude, 999-abc_DEF.mid"] = melody(5000, 8)
    run(write_folder(tmp_path / "source", files), out)
    lines = (out / "pieces.tsv").read_text(encoding="utf-8").splitlines()[1:]
    again = {line.split("\t")[1]: line.split("\t")[0] for line in lines}
    assert {name: again[name] for name in split_of} == split_of


@pytest.mark.parametrize("name", ["performance.mid", "prelude-001.mid", "Bach, prelude-001.mid"])
def test_a_name_of_eleven_letters_is_no_id(name):
    """Of 200 folders that each hold one, all were of one recording, and none was held out."""
    rows = [{"name": f"{i}/{name}", "sha256": f"{i}", "tokens": 10} for i in range(200)]
    held_out = [name for name, tokens in hold_out_few_of_many(rows).items() if tokens]
    assert 1 <= len(held_out) <= 20


def test_a_small_flat_folder_has_something_to_validate_with(tmp_path):
    source = write_folder(tmp_path / "source", {f"{i}.mid": melody(i) for i in range(3)})
    manifest = run(source, tmp_path / "out")
    assert [manifest["splits"][s]["pieces"] for s in ("train", "valid")] == [2, 1]


@pytest.mark.parametrize(
    "names, message",
    [
        (["train/1.mid", "2.mid"], "'2.mid' lies in neither"),
        (["train/1.mid", "train/2.mid"], "has MIDI files in train/ only, not in both"),
        (["a.txt"], "holds no MIDI files"),
    ],
)
def test_layouts_that_make_no_sense(names, message, tmp_path):
    source = write_folder(tmp_path / "source", {name: melody(0) for name in names})
    with pytest.raises(ValueError, match=message):
        run(source, tmp_path / "out")


def test_nothing_can_be_used(tmp_path):
    source = write_folder(tmp_path / "source", {"1.mid": b"?", "2.mid": b""})
    with pytest.raises(
        ValueError, match=r"none of 2 MIDI files can be used; the first, '1.mid': it"
    ):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


# One's own music


def own(source: Path, out: Path) -> tuple[dict, dict[str, set[str]]]:
    """The manifest, and the splits that each name is in."""
    manifest = prepare_folder(source, out, workers=1)
    splits = {}
    for line in (out / "pieces.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        split, name, *_ = line.split("\t")
        splits.setdefault(name, set()).add(split)
    return manifest, splits


@pytest.mark.parametrize("count, held_out", [(10, 2), (24, 2), (25, 2), (36, 4)])
def test_of_ones_own_music_a_tenth_is_held_out(count, held_out, tmp_path, capsys):
    files = {f"deep/er/{i}.mid": melody(i, 20) for i in range(count)}
    manifest, splits = own(write_folder(tmp_path / "source", files), tmp_path / "out")
    assert "licence" not in capsys.readouterr().out
    assert not (tmp_path / "out" / "CONSENT.txt").exists()
    assert manifest["options"]["encode"] == "tinyperceiver.prepare.encode_file"
    assert sum(found == {"valid"} for found in splits.values()) == held_out
    assert sum(found == {"train"} for found in splits.values()) == count - held_out
    expected = {True: [], False: []}
    for name in sorted(files):
        expected["valid" in splits[name]].append(encode_file(files[name]))
    assert pieces_of(tmp_path / "out" / "valid.bin") == expected[True]
    assert pieces_of(tmp_path / "out" / "train.bin") == expected[False]


def test_the_split_depends_on_the_music_alone(tmp_path):
    files = {f"{i}.mid": melody(i, 20) for i in range(12)}
    _, splits = own(write_folder(tmp_path / "source", files), tmp_path / "a")
    # Eleven characters, as a YouTube id has, and all the same.
    renamed = {f"{i:03}/prelude-001.midi": data for i, data in enumerate(files.values())}
    _, again = own(write_folder(tmp_path / "renamed", renamed), tmp_path / "b")
    names = dict(zip(files, renamed, strict=True))
    assert {names[name]: found for name, found in splits.items()} == again


def test_what_is_held_out_is_long_enough_to_measure_on(tmp_path):
    files = {f"{i}.mid": melody(i, 5) for i in range(9)}
    files |= {f"long {i}.mid": melody(100 + i, 400) for i in range(5)}
    _, splits = own(write_folder(tmp_path / "source", files), tmp_path / "out")
    held_out = [name for name, found in splits.items() if found == {"valid"}]
    assert len(held_out) == 2
    # Half of the recordings are not short: of those the hash chooses.
    lengths = sorted(len(encode_file(data)) for data in files.values())
    assert all(len(encode_file(files[name])) >= lengths[7] for name in held_out)


def test_files_with_the_same_tokens_are_on_one_side(tmp_path):
    """Whatever their names and bytes: a text event changes the file and not the music."""
    files = {}
    for i in range(12):
        files[f"{i}.mid"] = melody(i, 20)
        track = files[f"{i}.mid"]
        head = track.index(b"MTrk") + 8
        size = int.from_bytes(track[head - 4 : head], "big") + 6
        text = b"\0\xff\x01\x02Hi"
        changed = track[: head - 4] + size.to_bytes(4, "big") + text + track[head:]
        files[f"again/{i}.mid"] = changed
        assert encode_file(changed) == encode_file(track)
    manifest, splits = own(write_folder(tmp_path / "source", files), tmp_path / "out")
    assert all(splits[f"{i}.mid"] == splits[f"again/{i}.mid"] for i in range(12))
    assert sum(found == {"valid"} for found in splits.values()) == 4, "two recordings"
    assert len(manifest["copies"]) == 12
    assert manifest["cut"] == 0


@pytest.mark.parametrize("count", [1, 2, 9])
def test_of_a_few_pieces_the_ends_are_held_out(count, tmp_path):
    files = {f"{i}.mid": melody(i, 20) for i in range(count)}
    files["copy.mid"] = melody(0, 20)
    manifest, splits = own(write_folder(tmp_path / "source", files), tmp_path / "out")
    assert all(found == {"train", "valid"} for found in splits.values())
    begins, ends = (pieces_of(tmp_path / "out" / f"{s}.bin") for s in ("train", "valid"))
    expected = [encode_file(files[name]) for name in sorted(files)]
    assert [begin + end for begin, end in zip(begins, ends, strict=True)] == expected
    assert [len(end) for end in ends] == [len(piece) // 5 for piece in expected]
    found = [manifest["splits"][split] for split in ("train", "valid")]
    assert [split["tokens"] for split in found] == [sum(map(len, x)) for x in (begins, ends)]
    assert manifest["cut"] == count + 1
    notes = sum(token < 128 for piece in expected for token in piece)
    assert sum(split["notes"] for split in found) == notes


def test_folders_named_train_and_valid_are_respected(source, tmp_path):
    source = write_folder(tmp_path / "source", FILES)
    manifest, splits = own(source, tmp_path / "out")
    assert manifest["options"]["split"] == "by folder"
    assert all(found == {name.split("/")[0]} for name, found in splits.items())


def test_a_folder_that_is_not_there_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"none does not exist: name the folder of your MIDI"):
        prepare_folder(tmp_path / "none", tmp_path / "out")
    (tmp_path / "1.mid").write_bytes(melody(1))
    with pytest.raises(ValueError, match=r"1\.mid is neither a folder nor a zip: name the folder"):
        prepare_folder(tmp_path / "1.mid", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["1.mid"]


def test_a_killed_run_on_ones_own_music_is_resumed(tmp_path, monkeypatch):
    files = {f"{i}.mid": melody(i, 20) for i in range(20)}
    source = write_folder(tmp_path / "source", files)
    own(source, tmp_path / "calm")

    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, "write_result", fail)
        own(source, tmp_path / "out")
    (work,) = (tmp_path / "out").glob("work-*")
    times = [path.stat().st_mtime_ns for path in sorted(work.iterdir())]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, "write_result", fail)
        own(source, tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in sorted(work.iterdir())] == times
    own(source, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "calm")


def test_command_for_a_folder(tmp_path, monkeypatch):
    files = {f"{i}.mid": melody(i, 20) for i in range(11)} | {"bad.mid": b"MThd"}
    write_folder(tmp_path / "My music.d", files)
    monkeypatch.chdir(tmp_path)
    command = ["prepare", "folder", "My music.d", "--workers", "1"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"data/My music\.d/train\.bin: 9 pieces, .* minutes", lines[0])
    assert re.fullmatch(r"data/My music\.d/valid\.bin: 2 pieces, .* minutes", lines[1])
    assert lines[2].startswith("left out: bad.mid: ")
    assert result.stderr == "", "a bar would flood a log"


# Consent


def test_consent_is_asked_for_once(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"there is no terminal to ask.*--accept"):
        prepare_giantmidi(source, out)
    assert "CC BY 4.0" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "no")
    with pytest.raises(ValueError, match="without your consent"):
        prepare_giantmidi(source, out)
    assert list(out.iterdir()) == []
    monkeypatch.setattr("builtins.input", lambda prompt: "Yes")
    prepare_giantmidi(source, out, workers=1)
    capsys.readouterr()
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail("asked twice"))
    prepare_giantmidi(source, out, workers=1)
    assert "CC BY" not in capsys.readouterr().out


# Hostile archives


def header_of(file: bytes, name: bytes, central: bool) -> int:
    mark = b"PK\1\2" if central else b"PK\3\4"
    at = file.index(mark)
    while file[at + (46 if central else 30) :][: len(name)] != name:
        at = file.index(mark, at + 1)
    return at


def with_field(file: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """A field of a member's central header, changed."""
    at = header_of(file, name, central=True) + offset
    return file[:at] + value + file[at + len(value) :]


def renamed(name: str, data: bytes = b"x"):
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("train/1.mid", melody(1))
            info = zipfile.ZipInfo("q" * len(name))
            file.writestr(info, data)
        # zipfile itself would mend some names.
        written = path.read_bytes().replace(b"q" * len(name), name.encode())
        path.write_bytes(written)

    return make


def symlink(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo("train/1.mid")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")


def duplicate(name: str):
    def make(path: Path) -> None:
        with pytest.warns() if name == "train/1.mid" else nullcontext():
            write = zipfile.ZipFile(path, "w")
            write.writestr("train/1.mid", melody(1))
            write.writestr(name, melody(2))
            write.close()

    return make


def bomb(path: Path) -> None:
    write_zip(path, {"train/1.mid": b"MThd" + bytes(50_000_000)})


def changed(offset: int, value: bytes):
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("train/0.mid", melody(0))
            file.writestr("train/1.mid", melody(1))
        path.write_bytes(with_field(path.read_bytes(), b"train/1.mid", offset, value))

    return make


def overlapping(path: Path) -> None:
    write_zip(path, {"train/0.mid": melody(0), "train/1.mid": melody(1)})
    data = path.read_bytes()
    value = header_of(data, b"train/0.mid", central=False).to_bytes(4, "little")
    path.write_bytes(with_field(data, b"train/1.mid", 42, value))


HOSTILE = {
    "absolute": (renamed("/etc/cron.d/1.mid"), "starts at the root"),
    "drive": (renamed("C:/1.mid"), "starts at the root"),
    "upwards": (renamed("train/../../1.mid"), "leads out of the folder"),
    "upwards, not MIDI": (renamed("../.bashrc"), "leads out of the folder"),
    "backslash": (renamed("..\\1.mid"), "backslash"),
    "zero byte": (renamed("a.mid\0.txt"), "control character"),
    "line break": (renamed("a\n.mid"), "control character"),
    "symlink": (symlink, "a link"),
    "twice": (duplicate("train/1.mid"), "another has this name"),
    "twice but for capitals": (duplicate("train/1.MID"), "only in capitals"),
    "bomb": (bomb, "a bomb"),
    "claims more than it has": (changed(24, (3_000_000).to_bytes(4, "little")), "a bomb"),
    "packed size beyond the file": (changed(20, b"\xff\xff\xff\x0f"), "longer than the zip"),
    "encrypted": (changed(8, b"\1\0"), "encrypted"),
    "another method": (changed(10, b"\x0c\0"), "another method"),
    "overlapping": (overlapping, "lies over another"),
    "nested": (renamed("train/more.zip"), "an archive in the archive"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(case, tmp_path, monkeypatch):
    make, reason = HOSTILE[case]
    make(tmp_path / "evil.zip")
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: pytest.fail("read from it"))
    with pytest.raises(ArchiveError, match=rf"evil\.zip is not to be trusted.*{reason}"):
        run(tmp_path / "evil.zip", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"evil.zip", "out"}
    assert set(bytes_of(tmp_path / "out")) == {".lock", "CONSENT.txt"}


def test_a_member_that_claims_a_little_more_or_less_than_it_has(tmp_path):
    for name, claimed in (("more", 2000), ("less", 100)):
        path = write_zip(tmp_path / f"{name}.zip", FILES)
        size = claimed.to_bytes(4, "little")
        path.write_bytes(with_field(path.read_bytes(), b"valid/1.MIDI", 24, size))
        (skipped,) = run(path, tmp_path / name)["skipped"]
        assert skipped["name"] == "valid/1.MIDI"


def test_totals_have_a_bound(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_TOTAL", 10_000)
    with pytest.raises(ArchiveError, match="holds 56 files of"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", "cut"])
def test_no_zip(content, source, tmp_path):
    if content == "cut":
        content = source.read_bytes()[:-100]
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match="neither a folder nor a zip, or is cut off"):
        run(tmp_path / "a.zip", tmp_path / "out")


def test_wrong_arguments(source, tmp_path):
    with pytest.raises(ValueError, match=r"missing\.zip does not exist"):
        run(tmp_path / "missing.zip", tmp_path / "out")
    with pytest.raises(ValueError, match=r"has the SHA-256 .*, not 00"):
        run(source, tmp_path / "out", sha256="00")
    with pytest.raises(ValueError, match="a SHA-256 is for a zip"):
        run(tmp_path, tmp_path / "out", sha256="00")
    with pytest.raises(ValueError, match="workers must be 1 or more, not 0"):
        run(source, tmp_path / "out", workers=0)


# The command


def test_command(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write = ["prepare", "giantmidi", "--source", str(source), "--workers", "1", "--accept"]
    result = CliRunner().invoke(cli.app, write)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()[-2:]
    assert lines[0].startswith("data/giantmidi/train.bin: 50 pieces, ")
    assert result.stderr == "", "a bar would flood a log"


def test_help_of_the_command():
    command = typer.main.get_command(cli.app).commands["prepare"].commands["giantmidi"]
    assert all(option.help for option in command.params)
    examples = re.findall(r"^\s*tinyperceiver prepare giantmidi(.*)$", command.help, re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        command.make_context("giantmidi", shlex.split(example))


def test_command_without_consent(source, tmp_path):
    command = [sys.executable, "-c", "from tinyperceiver.cli.main import main; main()", "prepare"]
    command += ["giantmidi", "--source", str(source), "--out", str(tmp_path / "out")]
    result = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 1 and "CC BY 4.0" in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("tinyperceiver: the dataset needs your consent")
