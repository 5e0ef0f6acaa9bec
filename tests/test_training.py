"""The training loop: what it computes, and that neither kills nor processes change it."""

import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PATIENCE, Terminal
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from pretty_midi import PrettyMIDI
from torch.nn.functional import cross_entropy

from tinyperceiver import PerceiverAR, PerceiverConfig
from tinyperceiver.dataset.token_file import DataError, TokenFile
from tinyperceiver.dataset.windows import Batch, Windows, fixed_windows
from tinyperceiver.files.whole import FolderError, alone_in
from tinyperceiver.training import run_folder, step
from tinyperceiver.training import train as training
from tinyperceiver.training.config import (
    RUNS,
    Stage,
    TrainingConfig,
    TrainingError,
    learning_rate_at,
)
from tinyperceiver.training.devices import make_fabric
from tinyperceiver.training.run_folder import lock_run
from tinyperceiver.training.step import (
    make_optimizers,
    nats_per_token,
    sum_of_losses,
    training_step,
)
from tinyperceiver.training.train import train

pytestmark = pytest.mark.numeric

SHAPE = {"num_channels": 16, "num_heads": 2, "num_self_attention_layers": 1}
NO_DROPOUT = {
    "cross_attention_dropout": 0.0,
    "post_attention_dropout": 0.0,
    "residual_dropout": 0.0,
}
MODEL = PerceiverConfig(max_seq_len=48, max_latents=16, **SHAPE)  # with dropout
CONFIG = TrainingConfig(
    model=MODEL,
    stages=(
        Stage(steps=6, num_latents=8, max_prefix_len=8, batch_size=4),
        Stage(steps=8, num_latents=16, max_prefix_len=32, batch_size=2),
    ),
    learning_rate=1e-2,
    warmup_steps=3,
    transpose=3,
    stretch=0.1,
    validate_every=4,
    num_windows=3,
    save_every=3,
)
# The other optimizer, the other schedule, the other way to draw.
MUON = replace(CONFIG, optimizer="muon", schedule="trapezoid", replacement=False, stretch=0.0)
# What the same result depends on, in one process or two, at once or in turns.
PLAIN = replace(CONFIG, model=replace(MODEL, **NO_DROPOUT))
PLAIN_MUON = replace(MUON, model=PLAIN.model)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Tokens that a model can learn: scales that go up and down."""
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    for split, count in {"train": 12, "valid": 3}.items():
        pieces = []
        for _ in range(count):
            pitch = 60 + np.abs(np.arange(60) % 24 - 12) + rng.integers(-9, 9)
            loud, long, short = (np.full(60, token) for token in (370, 275, 265))
            events = np.stack((loud, pitch, long, pitch + 128, short), axis=1)
            pieces.append(np.append(events.ravel()[rng.integers(8) :], -1))
        np.concatenate(pieces).astype("<i2").tofile(folder / f"{split}.bin")
    return folder


@pytest.fixture
def cpu():
    return make_fabric(accelerator="cpu")


@pytest.fixture(scope="session", autouse=True)
def short_samples():
    training.SAMPLE_TOKENS = 24


def result_of(out: Path) -> dict:
    """All that a run leaves and that must not depend on kills, as comparable values."""
    state = torch.load(out / "last.ckpt", weights_only=True)
    model = {name: tensor.tolist() for name, tensor in state["model"].items()}
    optimizers = {
        key: [
            {name: value.tolist() for name, value in each.items()}
            for each in state[key]["state"].values()
        ]
        for key in ("optimizer", "muon")
        if key in state
    }
    rest = {name: state[name] for name in ("step", "best", "window", "scaler")}
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for part in ("best", "model", "samples")
        for path in sorted((out / part).iterdir())
    }
    return {
        "model": model,
        "optimizers": optimizers,
        "groups": [state[key]["param_groups"] for key in optimizers],
        "rest": rest,
        "files": files,
        "log": (out / "log.jsonl").read_text(),
        "names": sorted(p.name for p in out.iterdir() if p.name != "speed.jsonl"),
    }


def result_without_pause(config, folder, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(config, folder, out, fabric=make_fabric(accelerator="cpu"))
    return result_of(out)


@pytest.fixture(scope="session")
def uninterrupted(folder, tmp_path_factory) -> dict:
    return result_without_pause(CONFIG, folder, tmp_path_factory)


@pytest.fixture(scope="session")
def uninterrupted_muon(folder, tmp_path_factory) -> dict:
    return result_without_pause(MUON, folder, tmp_path_factory)


def in_child(work) -> int:
    """Run `work` in a process of its own and return how it ended (as os.waitpid)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    return pid


def test_the_log_tells_what_happened(uninterrupted, folder):
    lines = [json.loads(line) for line in uninterrupted["log"].splitlines()]
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "held_out" in line]
    assert [line["step"] for line in steps] == list(range(1, 15))
    assert [line["step"] for line in validations] == [4, 8, 12, 14]
    assert [line["window"] for line in validations] == [16, 48, 48, 48]
    assert [line["tokens"] for line in steps] == [32] * 14
    assert steps[0]["loss"] == pytest.approx(math.log(389), abs=0.05)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert [line["learning_rate"] for line in steps] == [
        learning_rate_at(step, CONFIG) for step in range(14)
    ]
    assert uninterrupted["rest"]["best"] == min(line["held_out"] for line in validations[1:])


def test_what_is_left_can_be_loaded_and_heard(folder, tmp_path, cpu):
    out = tmp_path / "run"
    model = train(CONFIG, folder, out, fabric=cpu)
    assert not model.training
    for name in ("model", "best"):
        saved = PerceiverAR.from_pretrained(out / name)
        assert saved.config == MODEL
    saved = PerceiverAR.from_pretrained(out / "model")
    for a, b in zip(model.parameters(), saved.parameters(), strict=True):
        assert torch.equal(a, b)
    # The number in the log is that of the model that is left.
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    held_out = nats_per_token(saved, fixed_windows(TokenFile(folder / "valid.bin"), 3, 32, 16))
    assert held_out == pytest.approx(last["held_out"], abs=1e-6)
    samples = sorted((out / "samples").iterdir())
    assert [p.name for p in samples] == [f"step-{i:06}.mid" for i in (4, 8, 12, 14)]
    assert PrettyMIDI(str(samples[-1])).instruments
    assert list((out / "tensorboard").iterdir())
    speed = [json.loads(line) for line in (out / "speed.jsonl").read_text().splitlines()]
    assert [line["step"] for line in speed] == list(range(1, 15))
    assert all(line["seconds"] > 0 for line in speed)


def test_a_bar_is_for_terminals(folder, tmp_path, cpu, capfd, monkeypatch):
    config = replace(PLAIN, stages=(replace(PLAIN.stages[0], steps=2),), validate_every=2)
    train(config, folder, tmp_path / "log", fabric=cpu)
    printed = capfd.readouterr()
    assert "nats per held-out token" in printed.out and "step/s" not in printed.err
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    train(config, folder, tmp_path / "shown", fabric=cpu)
    assert "2/2" in terminal.getvalue() and "loss=" in terminal.getvalue()


@pytest.mark.parametrize(
    ("config", "whole"), [(CONFIG, "uninterrupted"), (MUON, "uninterrupted_muon")]
)
def test_killed_at_random_moments_a_run_ends_in_the_same_bits(
    folder, tmp_path, config, whole, request
):
    whole = request.getfixturevalue(whole)
    out, rng, kills = tmp_path / "run", random.Random(0), 0

    def work():
        train(config, folder, out, fabric=make_fabric(accelerator="cpu"))

    while kills < 10:
        log = out / "log.jsonl"
        before = log.stat().st_size if log.exists() else 0
        pid = in_child(work)
        # Wait until it has got somewhere, and then some milliseconds, or until it has ended.
        more = rng.randrange(100, 600)
        deadline = time.monotonic() + PATIENCE
        while not log.exists() or log.stat().st_size < before + more:
            if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > deadline:
                break
        else:
            time.sleep(rng.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            continue
        break
    assert kills >= 3, "killed too late to tell anything"
    if not (out / "model").exists():
        assert os.waitpid(in_child(work), 0)[1] == 0
    assert result_of(out) == whole


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", ["last.ckpt", "log.jsonl", "model.safetensors", "config.json"])
def test_killed_where_a_file_is_replaced(folder, tmp_path, uninterrupted, name, before):
    """At the second of the moments in which a file takes the place of another."""
    out, replace_file, count = tmp_path / "run", os.replace, 0

    def killing(source, target):
        nonlocal count
        count += Path(target).name == name
        if not before:
            replace_file(source, target)
        if count == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if before:
            replace_file(source, target)

    def work():
        os.replace = killing
        train(CONFIG, folder, out, fabric=make_fabric(accelerator="cpu"))

    if name == "log.jsonl":  # replaced where a run goes on, at its second time
        for steps in (4, 9):
            train(CONFIG, folder, out, fabric=make_fabric(accelerator="cpu"), stop_after=steps)
        count = 1
    status = os.waitpid(in_child(work), 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    train(CONFIG, folder, out, fabric=make_fabric(accelerator="cpu"))
    assert result_of(out) == uninterrupted


def test_a_run_can_pause_and_a_finished_one_stays_as_it_is(folder, tmp_path, uninterrupted, cpu):
    out = tmp_path / "run"
    train(CONFIG, folder, out, fabric=cpu, stop_after=5)
    assert not (out / "model").exists()
    # What a killed run wrote after its last save is forgotten, a half line with it.
    with open(out / "log.jsonl", "a") as log:
        log.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    train(CONFIG, folder, out, fabric=cpu)
    assert result_of(out) == uninterrupted
    before = (out / "last.ckpt").stat().st_mtime_ns
    train(CONFIG, folder, out, fabric=cpu)
    assert (out / "last.ckpt").stat().st_mtime_ns == before
    assert result_of(out) == uninterrupted


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("schedule", ["cosine", "trapezoid"])
@pytest.mark.parametrize("replacement", [True, False])
def test_each_combination_goes_on_in_the_same_bits(
    folder, tmp_path, cpu, optimizer, schedule, replacement
):
    config = replace(MUON, optimizer=optimizer, schedule=schedule, replacement=replacement)
    whole = train(config, folder, tmp_path / "whole", fabric=cpu)
    for steps in (4, 9, None):  # in the first stage and in the second
        paused = train(config, folder, tmp_path / "paused", fabric=cpu, stop_after=steps)
    for a, b in zip(whole.parameters(), paused.parameters(), strict=True):
        assert torch.equal(a, b)
    assert losses(tmp_path / "whole") == losses(tmp_path / "paused")


def test_turns_do_not_change_the_result(folder, tmp_path, cpu):
    at_once = train(PLAIN, folder, tmp_path / "a", fabric=cpu, rows_at_once=4)
    in_turns = train(PLAIN, folder, tmp_path / "b", fabric=cpu, rows_at_once=1)
    for a, b in zip(at_once.parameters(), in_turns.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), abs=1e-5)


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line.get("loss", line.get("held_out")) for line in lines]


def test_activation_checkpointing_changes_memory_alone(folder, tmp_path, uninterrupted, cpu):
    out = tmp_path / "run"
    train(CONFIG, folder, out, fabric=cpu, checkpoint_activations=True)
    assert result_of(out) == uninterrupted


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_compiled_model_learns_the_same(folder, tmp_path, cpu):
    config = replace(PLAIN, stages=(replace(PLAIN.stages[0], steps=3),), validate_every=3)
    train(config, folder, tmp_path / "a", fabric=cpu)
    train(config, folder, tmp_path / "b", fabric=cpu, compile=True)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), abs=1e-4)


def test_lower_precision_learns_nearly_the_same(folder, tmp_path, cpu):
    train(PLAIN, folder, tmp_path / "a", fabric=cpu)
    config = replace(PLAIN, precision="bf16-mixed")
    fabric = make_fabric("bf16-mixed", accelerator="cpu")
    model = train(config, folder, tmp_path / "b", fabric=fabric)
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "weights keep their digits"
    exact, rounded = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert exact != rounded
    assert exact == pytest.approx(rounded, abs=0.05)


@pytest.mark.parametrize(
    ("config", "apart"), [(PLAIN, 1e-5), (PLAIN_MUON, 0.03)], ids=["adamw", "muon"]
)
def test_two_nodes_give_the_losses_of_one(folder, tmp_path, cpu, config, apart):
    """torchrun on each of two machines; here both are this one, and speak through gloo.

    Muon computes in bfloat16, so that gradients which differ in their last digit give steps which
    differ by a hundredth. Losses follow, as far as the kernels of a processor decide.
    """
    train(config, folder, tmp_path / "one", fabric=cpu)
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(config.to_json()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--node-rank", str(rank), "--nproc-per-node", "1"),
                *("--master-addr", "127.0.0.1", "--master-port", str(port)),
                *("-m", "tinyperceiver", "train", "--config", str(path)),
                *("--data", str(folder), "--out", str(tmp_path / "two")),
                *("--accelerator", "cpu", "--nodes", "2", "--strategy", "ddp"),
            ],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [node.communicate(timeout=PATIENCE)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two == pytest.approx(one, abs=apart)
    assert two[0] == pytest.approx(one[0], abs=1e-5)
    one, two = (PerceiverAR.from_pretrained(tmp_path / x / "model") for x in ("one", "two"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=10 * apart)
    assert sum("nats per held-out token" in output for output in outputs) == 1, "one of them"


def test_the_loss_is_a_mean_over_real_targets():
    model = PerceiverAR(replace(MODEL, **NO_DROPOUT)).eval()
    tokens = torch.randint(0, 388, (2, 10), generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100]])
    batch = Batch(tokens, targets, None, 6)
    logits = model(tokens, 6)
    real = torch.cat((logits[0], logits[1, :2]))
    expected = cross_entropy(real, torch.tensor([1, 2, 3, 4, 5, 6]), reduction="sum")
    torch.testing.assert_close(sum_of_losses(model, batch), expected)
    for rows_at_once in (1, 2, 8):
        assert nats_per_token(model, batch, rows_at_once) == pytest.approx(expected.item() / 6)


def test_a_step_is_adamws_on_the_mean_gradient(cpu):
    """Against the loop that everyone writes first."""
    torch.manual_seed(0)
    ours = PerceiverAR(replace(MODEL, **NO_DROPOUT))
    plain = PerceiverAR(ours.config)
    plain.load_state_dict(ours.state_dict())
    tokens = torch.randint(0, 388, (4, 13), generator=torch.Generator().manual_seed(1))
    batch = Batch(tokens[:, :-1], tokens[:, -4:], None, 8)
    wrapped = cpu.setup_module(ours)
    optimizers = [cpu.setup_optimizers(o) for o in make_optimizers(wrapped, CONFIG)]
    progress = training_step(cpu, wrapped, optimizers, batch.split(2), max_norm=0.1)

    loss = cross_entropy(plain(tokens[:, :-1], 8).flatten(0, 1), tokens[:, -4:].flatten())
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
    (adamw,) = make_optimizers(plain, CONFIG)
    adamw.step()
    assert progress.loss == pytest.approx(loss.item(), abs=1e-5)
    assert progress.norm == pytest.approx(norm.item(), rel=1e-4)
    assert progress.tokens == 16
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert a.grad is None


def test_muon_steps_each_matrix_of_the_layers_at_right_angles(cpu):
    """Against its definition: the gradient U S V^T becomes U V^T, as long as AdamW's step."""
    torch.manual_seed(0)
    model = PerceiverAR(replace(MODEL, **NO_DROPOUT))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.randint(0, 388, (4, 13), generator=torch.Generator().manual_seed(1))
    batch = Batch(tokens[:, :-1], tokens[:, -4:], None, 8)
    wrapped = cpu.setup_module(model)
    config = replace(MUON, learning_rate=0.02, weight_decay=0.5)
    optimizers = [cpu.setup_optimizers(o) for o in make_optimizers(wrapped, config)]
    sum_of_losses(model, batch).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    progress = training_step(cpu, wrapped, optimizers, [batch], max_norm=1e9)
    total = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    assert progress.norm == pytest.approx(total / batch.targets.numel(), rel=1e-4)

    of_layers = {n for n, p in before.items() if p.ndim == 2} - {"embedding.weight"}
    assert len(of_layers) == 12, "six matrices in each of two layers"
    for name, p in model.named_parameters():
        if name in of_layers:
            u, s, v = torch.linalg.svd(gradients[name], full_matrices=False)
            step = before[name] * (1 - 0.02 * 0.5) - p.detach()
            along = u.mT @ step @ v.mT / (0.02 * 0.2 * max(p.shape) ** 0.5)
            strong = s > 0.1 * s[0]  # five iterations do not reach the weakest directions
            along = along[strong][:, strong]
            assert ((along.diag() > 0.6) & (along.diag() < 1.3)).all()
            assert (along - along.diag().diag()).abs().max() < 0.1
        else:  # the first step of AdamW: the rate, whatever the gradient
            decay = 0.02 * 0.5 if name == "embedding.weight" else 0
            step = p - before[name] * (1 - decay)
            large = gradients[name].abs() > 1e-3
            expected = -0.02 * gradients[name].sign()
            torch.testing.assert_close(step[large], expected[large], rtol=1e-2, atol=1e-5)


def test_muon_and_shares_of_matrices_are_refused(folder, tmp_path, cpu, monkeypatch):
    monkeypatch.setattr(run_folder, "is_sharded", lambda fabric: True)
    with pytest.raises(TrainingError, match="optimizer muon needs whole matrices, and FSDP"):
        train(MUON, folder, tmp_path / "run", fabric=cpu)
    assert not (tmp_path / "run").exists()


def test_only_matrices_decay():
    model = PerceiverAR(MODEL)
    ((decayed, free),) = (adamw.param_groups for adamw in make_optimizers(model, CONFIG))
    assert decayed["weight_decay"] == CONFIG.weight_decay and free["weight_decay"] == 0
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


SHARDED = """
import torch, torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from test_training import CONFIG, MODEL, PerceiverAR, make_optimizers
dist.init_process_group("gloo")
model = PerceiverAR(MODEL)
sizes = [sum(p.numel() for p in model.parameters() if (p.ndim == 2) == is_matrix)
    for is_matrix in (True, False)]
model = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
assert {p.ndim for p in model.parameters()} == {1}
groups = make_optimizers(model, CONFIG)[0].param_groups
here = torch.tensor([sum(p.numel() for p in group["params"]) for group in groups])
dist.all_reduce(here)
assert here.tolist() == sizes, (here, sizes)
dist.destroy_process_group()
"""


def test_matrices_decay_in_parts_too(tmp_path):
    """FSDP gives each process a part of each matrix, in one dimension."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    tests = Path(__file__).parent
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    paths = f"{tests.parent}{os.pathsep}{tests}"
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *run, str(tmp_path / "sharded.py")], env=environment, check=True
    )


def test_float16_scales_its_gradients_and_learns_the_same():
    """As on a GPU, but for the device: PyTorch scales on CPUs, too."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    tokens = torch.randint(0, 388, (2, 24), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens, tokens[:, 8:].roll(-1, 1), None, 8)
    losses = []
    for config in (PLAIN, replace(PLAIN, precision="16-mixed")):
        torch.manual_seed(0)
        on = fabric if config.precision == "16-mixed" else make_fabric(accelerator="cpu")
        model = on.setup_module(PerceiverAR(config.model))
        optimizers = [on.setup_optimizers(o) for o in make_optimizers(model, config)]
        steps = [training_step(on, model, optimizers, [batch], 1.0) for _ in range(10)]
        losses.append([step.loss for step in steps])
    assert fabric.strategy.precision.state_dict()["_growth_tracker"] == 10, "ten sound steps"
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1][-1] < losses[1][0] - 1


def test_the_rate_rises_along_a_line_and_falls_along_a_cosine():
    config = replace(CONFIG, stages=(replace(CONFIG.stages[0], steps=103),), learning_rate=0.8)
    rates = [learning_rate_at(step, config) for step in range(103)]
    assert rates[:3] == pytest.approx([0.8 / 3, 1.6 / 3, 0.8])
    assert rates[3] == 0.8
    assert rates[53] == pytest.approx(0.4)  # half of the way
    assert rates[28] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert 0 < rates[-1] < 0.001
    assert learning_rate_at(103, config) == pytest.approx(0)


def test_the_rate_rises_along_a_line_stays_and_falls_along_another():
    stages = (replace(CONFIG.stages[0], steps=60), replace(CONFIG.stages[1], steps=40))
    config = replace(MUON, stages=stages, learning_rate=0.8, warmup_steps=4, decay_fraction=0.2)
    rates = [learning_rate_at(step, config) for step in range(100)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert set(rates[3:81]) == {0.8}
    assert rates[81:] == pytest.approx([0.8 * k / 20 for k in range(19, 0, -1)])
    # As many steps of warm-up and of the last line as there are: the lower of both.
    short = replace(config, warmup_steps=100, decay_fraction=1.0)
    assert learning_rate_at(24, short) == pytest.approx(0.2)
    assert learning_rate_at(75, short) == pytest.approx(0.2)
    assert learning_rate_at(0, replace(config, warmup_steps=0)) == 0.8


def test_the_published_run_is_as_published():
    released = RUNS["released"]
    assert (released.optimizer, released.schedule) == ("adamw", "cosine")
    assert released.replacement
    assert released.steps == 20_000
    assert released.stages[0] == Stage(
        steps=20_000, num_latents=2048, max_prefix_len=4096, batch_size=2 * 8 * 2
    )
    assert (released.learning_rate, released.weight_decay) == (2e-4, 0.01)
    assert (released.warmup_steps, released.max_norm) == (200, 0.5)
    assert released.precision == "32-true"
    assert released.model.cross_attention_dropout == released.model.residual_dropout == 0.1


def test_the_next_checkpoint_will_be_small_and_see_far():
    small = RUNS["small"].model
    assert 5e6 <= PerceiverAR(small).num_parameters <= 8e6
    assert 2 * PerceiverAR(small).num_parameters <= 15e6, "bytes in 16 bits"
    assert small.max_seq_len >= 2048
    assert RUNS["small"].stages[-1].num_latents == small.max_latents >= 1024
    assert RUNS["small"].stages[-1].max_prefix_len == small.max_prefix_len


def test_the_recorded_run_is_the_named_one():
    path = Path(__file__).parent.parent / "book" / "runs" / "tiny" / "config.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))["config"]
    assert TrainingConfig.from_json(recorded) == RUNS["tiny"]


@pytest.mark.parametrize("config", [CONFIG, MUON, *RUNS.values()])
def test_a_configuration_survives_json(config):
    assert TrainingConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    "change, message",
    [
        ({"learning_rate": 0}, "learning_rate must be a positive number, not 0"),
        ({"learning_rate": math.inf}, "learning_rate must be a positive number, not inf"),
        ({"max_norm": math.nan}, "max_norm must be a positive number, not nan"),
        ({"weight_decay": math.inf}, "weight_decay must be a number >= 0, not inf"),
        ({"seed": 1.5}, "seed must be a whole number >= 0, not 1.5"),
        ({"transpose": 2.5}, "transpose must be a whole number >= 0, not 2.5"),
        ({"warmup_steps": 0.5}, "warmup_steps must be a whole number >= 0, not 0.5"),
        ({"save_every": True}, "save_every must be a whole number >= 1, not True"),
        ({"save_every": 2.5}, "save_every must be a whole number >= 1, not 2.5"),
        ({"seed": -1}, "seed must be a whole number >= 0, not -1"),
        ({"stretch": 1.0}, "stretch must be less than 1"),
        ({"precision": "8"}, "precision must be one of 32-true, bf16-mixed, 16-mixed, not '8'"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon, not 'sgd'"),
        ({"schedule": "step"}, "schedule must be one of cosine, trapezoid, not 'step'"),
        ({"decay_fraction": 0}, "decay_fraction must be above 0 and at most 1, not 0"),
        ({"decay_fraction": 1.5}, "decay_fraction must be above 0 and at most 1, not 1.5"),
        ({"decay_fraction": "x"}, "decay_fraction must be above 0 and at most 1, not x"),
        ({"replacement": "no"}, "replacement must be one of True, False, not 'no'"),
        ({"replacement": False}, "stretch is 0.1, which needs replacement"),
        ({"optimizer": "muon", "precision": "16-mixed"}, "muon does not work with .* 16-mixed"),
        ({"stages": ()}, "at least one stage"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"betas": ("a", "b")}, "betas must be two numbers"),
    ],
)
def test_a_field_out_of_range_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": 0}, r"stages\[1\].steps must be a whole number >= 1, not 0"),
        ({"num_latents": 17}, r"stages\[1\].num_latents is 17, but the model takes at most 16"),
        ({"max_prefix_len": 33}, r"stages\[1\].max_prefix_len is 33, .* at most 32"),
    ],
)
def test_a_stage_that_the_model_cannot_take_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, stages=(CONFIG.stages[0], replace(CONFIG.stages[1], **change)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "model must be an object of named fields, not None"),
        ({"model": {"num_chanels": 3}}, "model has unknown fields: num_chanels"),
        ({"model": {"num_channels": "x"}}, "num_channels must be an integer >= 1, not 'x'"),
        ({"betas": 3}, "no training configuration"),
        ({"stages": 3}, "stages must be a list, not 3"),
        ({"stages": [{"steps": 1}]}, r"stages\[0\] lacks fields: batch_size, max_prefix_len"),
        ({"nonsense": 1}, "the configuration has unknown fields: nonsense"),
        ({"seed": "x"}, "seed must be a whole number >= 0, not 'x'"),
        ({"learning_rate": "fast"}, "learning_rate must be a positive number, not 'fast'"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_json(CONFIG.to_json() | change)
    with pytest.raises(ValueError, match=r"the configuration must be an object .*, not \[\]"):
        TrainingConfig.from_json([])
    settings = CONFIG.to_json()
    del settings["stages"]
    with pytest.raises(ValueError, match="the configuration lacks fields: stages"):
        TrainingConfig.from_json(settings)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run(folder, tmp_path, uninterrupted, monkeypatch, what):
    out, count = tmp_path / "run", 0
    cpu = make_fabric(accelerator="cpu")

    def spoiled(model, batch):
        nonlocal count
        loss = sum_of_losses(model, batch)
        count += model.training
        if count == 5 and what == "loss":
            return loss * math.nan
        if count == 5:
            loss.register_hook(lambda grad: grad * math.inf)
        return loss

    monkeypatch.setattr(step, "sum_of_losses", spoiled)
    message = (
        r"step 5 is not finite \(loss .*\); the last save is in .*last\.ckpt\. "
        r"Try a lower learning_rate or a longer warm-up$"
    )
    with pytest.raises(TrainingError, match=message):
        train(CONFIG, folder, out, fabric=cpu)
    assert torch.load(out / "last.ckpt", weights_only=True)["step"] == 4
    monkeypatch.undo()
    train(CONFIG, folder, out, fabric=cpu)
    assert result_of(out) == uninterrupted, "the last good checkpoint was good"


def test_what_is_not_finite_in_16_bits_may_be_finite_in_32(folder, tmp_path):
    wild = replace(CONFIG, precision="bf16-mixed", learning_rate=1e3, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"nothing is saved\. Try float32, a"):
        fabric = make_fabric("bf16-mixed", accelerator="cpu")
        train(replace(wild, validate_every=100, save_every=100), folder, tmp_path, fabric=fabric)


def test_out_of_memory_says_what_to_lower(folder, tmp_path):
    """A real lack of memory, in a process that may take 1 GB more than it has."""
    config = replace(
        CONFIG,
        model=PerceiverConfig(max_seq_len=200, max_latents=100, num_channels=512, num_heads=2),
        stages=(Stage(steps=3, num_latents=100, max_prefix_len=0, batch_size=4096),),
    )

    def work():
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, held + 2**30))
        fabric = make_fabric(accelerator="cpu")
        message = "out of memory in step 1.*fewer rows_at_once.*now 4096"
        with pytest.raises(TrainingError, match=message):
            train(config, folder, tmp_path / "run", fabric=fabric, rows_at_once=4096)

    assert os.waitpid(in_child(work), 0)[1] == 0


def test_another_run_is_not_continued(folder, tmp_path, cpu):
    out = tmp_path / "run"
    train(CONFIG, folder, out, fabric=cpu, stop_after=1)
    changed = r"holds another run: learning_rate was [\d.]+ and is 1; seed was 0 and is 1\."
    with pytest.raises(TrainingError, match=changed):
        train(replace(CONFIG, learning_rate=1, seed=1), folder, out, fabric=cpu)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    shutil.copy(folder / "train.bin", other / "valid.bin")
    with pytest.raises(
        TrainingError, match=r"run: its valid\.bin was another\. Name another folder"
    ):
        train(CONFIG, other, out, fabric=cpu)
    with pytest.raises(DataError, match=r"train\.bin does not exist"):
        train(CONFIG, tmp_path, tmp_path / "new", fabric=cpu)
    assert not (tmp_path / "new").exists()


def test_a_folder_of_an_earlier_version_goes_on_and_a_strange_one_does_not(folder, tmp_path, cpu):
    out = tmp_path / "run"
    train(CONFIG, folder, out, fabric=cpu, stop_after=1)
    path = out / "config.json"
    run = json.loads(path.read_text())
    plain = replace(CONFIG, num_windows=64)  # as TrainingConfig has it by itself
    del run["config"]["num_windows"]
    path.write_text(json.dumps(run))
    with pytest.raises(TrainingError, match=r"holds another run: num_windows was \d+ and is \d+\."):
        train(CONFIG, folder, out, fabric=cpu, stop_after=2)
    run["config"] |= {"num_windows": CONFIG.num_windows}
    del run["config"]["precision"]
    path.write_text(json.dumps(run))
    assert plain.precision == "32-true"
    train(CONFIG, folder, out, fabric=cpu, stop_after=2)
    assert len(losses(out)) == 2
    path.write_text('{"config": 3}')
    with pytest.raises(TrainingError, match=r"config\.json is not of a run of training"):
        train(CONFIG, folder, out, fabric=cpu)


def test_what_would_fail_hours_later_fails_at_once(folder, tmp_path, cpu):
    """Too little to validate on in a later stage; tokens that the model does not know."""
    last = replace(CONFIG.stages[1], num_latents=16, max_prefix_len=400, batch_size=2)
    long = replace(CONFIG, model=replace(MODEL, max_seq_len=500), stages=(CONFIG.stages[0], last))
    with pytest.raises(DataError, match=r"valid\.bin has 0 windows of 417 tokens"):
        train(long, folder, tmp_path / "run", fabric=cpu)
    small = replace(CONFIG, model=replace(MODEL, vocab_size=300))
    with pytest.raises(TrainingError, match=r"train\.bin holds token 370; the model knows 0"):
        train(small, folder, tmp_path / "run", fabric=cpu)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("max_latents", [48, 40], ids=["no prefix", "a short prefix"])
def test_models_with_little_prefix_are_heard_too(folder, tmp_path, cpu, max_latents):
    stage = replace(CONFIG.stages[0], steps=1, max_prefix_len=0)
    config = replace(CONFIG, model=replace(MODEL, max_latents=max_latents), stages=(stage,))
    train(config, folder, tmp_path, fabric=cpu)
    assert PrettyMIDI(str(tmp_path / "samples" / "step-000001.mid")).instruments


def test_two_runs_at_once(folder, tmp_path, cpu):
    with alone_in(tmp_path), pytest.raises(TrainingError, match="another run is at work"):
        train(CONFIG, folder, tmp_path, fabric=cpu)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"], "it left nothing there"
    train(CONFIG, folder, tmp_path, fabric=cpu, stop_after=1)
    with alone_in(tmp_path):
        assert len(losses(tmp_path)) == 1, "a run that is over leaves the folder free"


def test_all_processes_hear_that_the_folder_is_locked(tmp_path):
    """Only the first one asks for the lock; the others waited for it without end."""
    sent = []
    first = SimpleNamespace(is_global_zero=True, broadcast=lambda x: sent.append(x) or x)
    second = SimpleNamespace(is_global_zero=False, broadcast=lambda _: sent[-1])
    with alone_in(tmp_path):
        for fabric in (first, second):
            refused = pytest.raises(TrainingError, match="another run is at work")
            with refused, lock_run(fabric, tmp_path):
                pass
    with lock_run(first, tmp_path), pytest.raises(FolderError), alone_in(tmp_path):
        pass
    with lock_run(second, tmp_path), alone_in(tmp_path):
        assert sent[-1] is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".lock", "run cannot be locked: .*name another folder"),
        ("config.json.new", r"step 1: .*config\.json\.new cannot be written: .*Make room"),
        ("log.jsonl", r"step 1: .*log\.jsonl cannot be written: .*Make room"),
    ],
)
def test_what_cannot_be_written_before_the_first_step(folder, tmp_path, cpu, name, message):
    """A folder that stands in a file's place is as good as a full disk."""
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(TrainingError, match=message):
        train(CONFIG, folder, tmp_path / "run", fabric=cpu)


def test_a_machine_that_does_not_see_the_folder_is_told(folder, tmp_path, cpu, monkeypatch):
    monkeypatch.setattr(type(cpu), "is_global_zero", False)
    monkeypatch.setattr(type(cpu), "global_rank", 1)
    with pytest.raises(TrainingError, match=r"process 1 does not see .*all machines must share"):
        train(PLAIN, folder, tmp_path / "run", fabric=cpu)


def test_a_batch_that_processes_cannot_share_is_refused(folder, tmp_path, cpu, monkeypatch):
    monkeypatch.setattr(type(cpu), "world_size", 3)
    with pytest.raises(TrainingError, match=r"stages\[0\].batch_size is 4, which 3 processes"):
        train(CONFIG, folder, tmp_path / "run", fabric=cpu)


# From given weights


@pytest.fixture(scope="session")
def start() -> PerceiverAR:
    torch.manual_seed(7)
    return PerceiverAR(MODEL).eval()


@pytest.fixture(scope="session")
def continued(folder, start, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("runs") / "continued"
    train(CONFIG, folder, out, initial_model=start, fabric=make_fabric(accelerator="cpu"))
    return result_of(out)


def test_a_run_from_given_weights_measures_them_first(folder, start, continued):
    lines = [json.loads(line) for line in continued["log"].splitlines()]
    validations = [line for line in lines if "held_out" in line]
    assert [line["step"] for line in validations] == [0, 4, 8, 12, 14]
    ruler = fixed_windows(TokenFile(folder / "valid.bin"), 3, 8, 8)  # of the first stage
    assert validations[0]["held_out"] == pytest.approx(nats_per_token(start, ruler), abs=1e-6)
    assert "samples/step-000000.mid" in continued["files"]
    first = next(line for line in lines if "loss" in line)
    windows = Windows(TokenFile(folder / "train.bin"), 8, 8, transpose=3, stretch=0.1)
    batch = windows[0, range(4)]
    mine = PerceiverAR(start.config)
    mine.load_state_dict(start.state_dict())
    torch.manual_seed(training._seed_of(0, 0, 0))  # of dropout
    expected = (sum_of_losses(mine, batch) / (batch.targets >= 0).sum()).item()
    assert first["loss"] == pytest.approx(expected, abs=1e-5)


def test_what_does_not_get_better_is_left_as_it_was(folder, start, tmp_path, cpu):
    spoiling = replace(
        CONFIG, stages=CONFIG.stages[:1], learning_rate=3.0, warmup_steps=0, weight_decay=1.0
    )
    train(spoiling, folder, tmp_path, initial_model=start, fabric=cpu)
    lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    held_out = [line["held_out"] for line in lines if "held_out" in line]
    assert min(held_out[1:]) > held_out[0]
    best = PerceiverAR.from_pretrained(tmp_path / "best")
    for a, b in zip(start.parameters(), best.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", ["last.ckpt", "best/model.safetensors", "best/config.json"])
def test_killed_before_its_first_step(folder, start, tmp_path, continued, name, before):
    out, replace_file = tmp_path / "run", os.replace

    def killing(source, target):
        if not before:
            replace_file(source, target)
        if Path(target) == out / name:
            os.kill(os.getpid(), signal.SIGKILL)
        if before:
            replace_file(source, target)

    def work():
        os.replace = killing
        train(CONFIG, folder, out, initial_model=start, fabric=make_fabric(accelerator="cpu"))

    status = os.waitpid(in_child(work), 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    train(CONFIG, folder, out, initial_model=start, fabric=make_fabric(accelerator="cpu"))
    assert result_of(out) == continued


def test_a_resumed_run_needs_its_first_weights_no_more(folder, start, tmp_path, continued, cpu):
    out = tmp_path / "run"
    train(CONFIG, folder, out, initial_model=start, fabric=cpu, stop_after=2)
    train(CONFIG, folder, out, initial_model=start, fabric=cpu, stop_after=5)
    train(CONFIG, folder, out, fabric=cpu)
    assert result_of(out) == continued


def test_other_first_weights_are_refused(folder, start, tmp_path, cpu):
    other = PerceiverAR(MODEL)
    train(CONFIG, folder, tmp_path / "a", initial_model=start, fabric=cpu, stop_after=1)
    train(CONFIG, folder, tmp_path / "b", fabric=cpu, stop_after=1)
    message = r"holds another run: its initial_weights was another. Name another folder"
    for out in ("a", "b"):
        with pytest.raises(TrainingError, match=message):
            train(CONFIG, folder, tmp_path / out, initial_model=other, fabric=cpu)
    # Without a save there is nothing to go on from but these weights.
    (tmp_path / "a" / "last.ckpt").unlink()
    with pytest.raises(TrainingError, match=message):
        train(CONFIG, folder, tmp_path / "a", fabric=cpu)


def test_a_start_of_another_shape_is_refused_and_of_another_window_is_not(
    folder, start, tmp_path, cpu
):
    wide = replace(CONFIG, model=replace(MODEL, num_channels=32))
    message = "to start from has num_channels = 16, but the configuration asks for 32"
    with pytest.raises(TrainingError, match=message):
        train(wide, folder, tmp_path / "run", initial_model=start, fabric=cpu)
    assert not (tmp_path / "run").exists()
    longer = replace(CONFIG, model=replace(MODEL, max_seq_len=64, **NO_DROPOUT))
    train(longer, folder, tmp_path / "run", initial_model=start, fabric=cpu, stop_after=1)
