"""What is prepared for a machine with a GPU, rehearsed without one; and what is alike on both."""

import json
import lzma
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import DEVICES, random_tokens, small_model
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import on_gpu
import train_for

from tinyperceiver.files.whole import alone_in
from tinyperceiver.model.config import PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.training.config import Stage, TrainingConfig
from tinyperceiver.training.devices import make_fabric
from tinyperceiver.training.train import train

CONFIG = TrainingConfig(
    model=PerceiverConfig(
        max_seq_len=48,
        max_latents=16,
        num_channels=16,
        num_heads=2,
        num_self_attention_layers=1,
    ),
    stages=(
        Stage(steps=100, num_latents=8, max_prefix_len=8, batch_size=4),
        Stage(steps=300, num_latents=16, max_prefix_len=32, batch_size=2),
    ),
    learning_rate=1e-2,
    warmup_steps=5,
    num_windows=3,
)


def scale_pieces(seed: int, count: int) -> bytes:
    """A token file of pieces that repeat a few notes, so that a model can learn them."""
    rng = np.random.default_rng(seed)
    pieces = [np.append(np.tile(rng.integers(256, size=8), 40), -1) for _ in range(count)]
    return np.concatenate(pieces).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Training data in two parts, one of them packed."""
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "train.bin.xz").write_bytes(lzma.compress(scale_pieces(0, 4)))
    (folder / "train-2.bin").write_bytes(scale_pieces(1, 6))
    (folder / "valid.bin").write_bytes(scale_pieces(0, 2))
    (folder / "train.csv").write_text("not a part")
    return folder


def test_a_rehearsal_leaves_records_log_and_weights(data, tmp_path):
    config, out = tmp_path / "small.json", tmp_path / "out"
    config.write_text(json.dumps(CONFIG.to_json()))
    options = ["--rehearse", "--steps", "training_gpu", "throughput", "train"]
    options += ["--data", data, "--out", out, "--config", config]
    run = subprocess.run(
        [sys.executable, on_gpu.__file__, *options], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads((out / "results.json").read_text())
    assert [result["exit"] for result in results.values()] == [0, 0, 0]
    (row,) = results["training_gpu"]["record"]["rows"]
    assert row["mode"] == "plain" and row["tokens_per_second"] > 0 and row["share_of_peak"] > 0
    throughput = results["throughput"]["record"]
    assert {(row["side"], row["latents"]) for row in throughput["one_row"]} == {
        (side, latents) for side in ("float32", "half") for latents in (1, 9)
    }
    assert [row["rows"] for row in throughput["many_rows"]] == [1, 2]

    trained = results["train"]["record"]
    run = json.loads((out / "run" / "config.json").read_text())
    done = TrainingConfig.from_json(run["config"])
    # Only the number of steps depends on the machine.
    assert replace(done, stages=CONFIG.stages, validate_every=1000, save_every=1000) == CONFIG
    assert trained["is_finished"] and trained["steps"] == done.steps
    lines = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == done.steps
    held_out = [line["held_out"] for line in lines if line.get("window") == 48]
    assert trained["held_out"] == pytest.approx(min(held_out), abs=0.01)  # 16 bits round
    assert trained["held_out"] < lines[0]["loss"]
    assert {
        str(value.dtype) for value in load_file(out / "model" / "model.safetensors").values()
    } == {"float16"}
    assert PerceiverAR.from_pretrained(out / "model").config == CONFIG.model
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 7 and "tokens/s" in (out / "log.txt").read_text()


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    steps = {
        "fails": (60, "-c 1/0", "", ""),
        "hangs": (1, "-c __import__('time').sleep(600)", "", ""),
        "works": (60, "-c print(6*7)", "", ""),
    }
    monkeypatch.setattr(on_gpu, "STEPS", steps)
    argv = ["on_gpu.py", "--data", str(tmp_path), "--out", str(tmp_path), "--steps", *steps]
    monkeypatch.setattr(sys, "argv", argv)
    begin = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        on_gpu.main()
    assert stopped.value.code and time.monotonic() - begin < 60
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result["timed_out"] for result in results.values()] == [False, True, False]
    assert [bool(result["exit"]) for result in results.values()] == [True, True, False]
    log = (tmp_path / "log.txt").read_text()
    assert "ZeroDivisionError" in log and "\n42\n" in log
    shown = capsys.readouterr().out
    assert "ZeroDivisionError" in shown and "hangs: out of time after 1" in shown


@pytest.mark.parametrize(("last", "seconds"), [("time.sleep(600)", 5), ("pass", 60)])
def test_a_step_leaves_no_process_behind(tmp_path, last, seconds):
    """Neither one that is ended nor one that ends, such as a worker that reads data."""
    lock = tmp_path / ".lock"
    # Both processes hold the lock, until both are gone.
    code = f"""if True:
        import fcntl, os, time
        file = open({str(lock)!r}, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fork() == 0:
            time.sleep(600)
        {last}"""
    with open(tmp_path / "log", "wb") as log:
        result = on_gpu.run([sys.executable, "-c", code], seconds, log)
    assert lock.exists() and result["timed_out"] == (last != "pass")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(RuntimeError), alone_in(tmp_path):
            return
        time.sleep(0.1)
    pytest.fail("a process still holds the lock")


def test_the_tests_that_need_a_gpu_are_found(tmp_path):
    options = type("Options", (), {"rehearse": False})
    command = on_gpu.command_of("tests", options, 100, tmp_path)
    names = {Path(part).name for part in command}
    assert {"test_attention.py", "test_engines.py"} <= names
    assert "test_tokenizer.py" not in names


def test_a_run_is_made_as_long_as_the_time(data):
    timed = [{"step": 0.1, "validation": 1.0}, {"step": 0.3, "validation": 2.0}]
    config = train_for.fit(CONFIG, timed, 1000)
    assert config.steps == sum(stage.steps for stage in config.stages)
    seconds = sum(s.steps * t["step"] for s, t in zip(config.stages, timed, strict=True))
    assert 900 < seconds + 10 < 1000
    assert config.stages[1].steps == pytest.approx(3 * config.stages[0].steps, abs=3)
    assert config.validate_every * 5 >= config.steps > config.validate_every * 4
    assert train_for.fit(CONFIG, timed, 1000, most_steps=40).steps == 40
    with pytest.raises(ValueError, match="9 s are left, and 5 validations take 10 s"):
        train_for.fit(CONFIG, timed, 9)


def test_parts_are_joined_in_order(data, tmp_path):
    train_for.join_parts(data, "train", tmp_path / "train.bin")
    assert (tmp_path / "train.bin").read_bytes() == scale_pieces(0, 4) + scale_pieces(1, 6)
    for number in (10, 9):
        (tmp_path / f"many-{number}.bin").write_bytes(bytes([number]))
    train_for.join_parts(tmp_path, "many", tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == bytes([9, 10])
    (tmp_path / "many-9.bin.xz").write_bytes(lzma.compress(b"again"))
    with pytest.raises(ValueError, match="are the same part: remove one"):
        train_for.join_parts(tmp_path, "many", tmp_path / "joined")
    with pytest.raises(FileNotFoundError, match=r"holds no test\.bin and no test\.bin\.xz"):
        train_for.join_parts(data, "test", tmp_path / "test.bin")


def test_a_run_that_is_cut_short_leaves_its_best_weights(data, tmp_path, monkeypatch, capsys):
    def interrupted(config, folder, out, **options):
        train(config, folder, out, stop_after=40, **options)
        if config.steps > 40:
            raise TimeoutError("not done after 9 s")

    monkeypatch.setattr(train_for, "train", interrupted)
    (tmp_path / "small.json").write_text(json.dumps(CONFIG.to_json()))
    options = ["--until", str(time.time() + 600), "--most-steps", "60", "--accelerator", "cpu"]
    options += ["--data", str(data), "--out", str(tmp_path), "--larger-batches", "2"]
    options += ["--json", str(tmp_path / "train.json"), "--config", str(tmp_path / "small.json")]
    monkeypatch.setattr(sys, "argv", ["train_for.py", *options])
    train_for.main()
    record = json.loads((tmp_path / "train.json").read_text())
    assert not record["is_finished"] and record["steps"] == 60
    assert "the run is not done after 9 s: taking the best weights" in capsys.readouterr().out
    run = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert [stage["batch_size"] for stage in run["stages"]] == [8, 4]
    assert len((tmp_path / "run" / "speed.jsonl").read_text().splitlines()) == 40
    assert PerceiverAR.from_pretrained(tmp_path / "model").num_parameters == record["parameters"]


# On the GPU itself


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", ["slide", "refill"])
def test_greedy_tokens_are_those_of_the_cpu(window, device):
    prompts = [random_tokens(1, n)[0] for n in (5, 9)]
    options = {"max_new_tokens": 30, "num_latents": 3, "window": window}
    expected = small_model().generate(prompts, **options)
    found = small_model().to(device).generate(prompts, **options)
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]


@pytest.fixture
def tokens(data, tmp_path) -> Path:
    for split in train_for.SPLITS:
        train_for.join_parts(data, split, tmp_path / f"{split}.bin")
    return tmp_path


def few_steps(tokens: Path, name: str, accelerator: str, options: dict | None = None, **changes):
    """Losses of a short run that pauses and goes on."""
    stages = tuple(replace(stage, steps=10) for stage in CONFIG.stages)
    config = replace(CONFIG, stages=stages, validate_every=6, **changes)
    options = {"rows_at_once": 4} | (options or {})
    for stop in (8, None):
        fabric = make_fabric(config.precision, accelerator=accelerator)
        train(config, tokens, tokens / name, fabric=fabric, stop_after=stop, **options)
    lines = map(json.loads, (tokens / name / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("device", DEVICES)
def test_training_is_that_of_the_cpu(tokens, device):
    none = ("cross_attention_dropout", "post_attention_dropout", "residual_dropout")
    changes = {"model": replace(CONFIG.model, **dict.fromkeys(none, 0.0)), "transpose": 3}
    expected = few_steps(tokens, "cpu", "cpu", **changes)
    found = few_steps(tokens, "device", "gpu" if device == "cuda" else device, **changes)
    assert len(found) == 20 and found == pytest.approx(expected, rel=1e-2)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("precision", "option"),
    [
        ("16-mixed", "rows_at_once"),
        ("bf16-mixed", "rows_at_once"),
        ("bf16-mixed", "checkpoint_activations"),
        ("bf16-mixed", "compile"),  # last: it takes by far the longest
    ],
)
def test_training_in_16_bits_learns_on_a_gpu(tokens, precision, option):
    losses = few_steps(tokens, "run", "gpu", {option: 1}, precision=precision)
    assert len(losses) == 20 and sum(losses[-5:]) < 0.9 * sum(losses[:5])
