"""The ablation: equal time for each recipe, and a second start that goes on."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tinyperceiver import PerceiverConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import ablation


def test_each_recipe_fills_the_time_in_its_proportions():
    config = ablation.fill(ablation.BASE, [0.1, 0.2, 0.4], 90)
    steps = [stage.steps for stage in config.stages]
    assert steps == [112, 56, 169]  # 2 : 1 : 3
    assert np.dot(steps, [0.1, 0.2, 0.4]) == pytest.approx(90, abs=0.4)


def test_it_measures_runs_and_goes_on(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        pieces = [np.append(rng.integers(0, 388, 3000), -1) for _ in range(4)]
        np.concatenate(pieces).astype("<i2").tofile(tmp_path / f"{split}.bin")
    shape = {"num_channels": 16, "num_heads": 2, "num_self_attention_layers": 1}
    small = PerceiverConfig(max_seq_len=96, max_latents=64, **shape)
    stages = ablation.stages((1, (32, 0, 4)), (1, (64, 32, 2)))
    base = replace(ablation.BASE, model=small, stages=stages, num_windows=4)
    changes = {"none": {}, "AdamW": {"optimizer": "adamw"}}
    monkeypatch.setattr(ablation, "BASE", base)
    monkeypatch.setattr(ablation, "CHANGES", changes)
    monkeypatch.setattr(ablation, "SEEDS", (0,))
    path = tmp_path / "runs" / "results.json"

    def start(*more: str) -> dict:
        arguments = [str(tmp_path), str(tmp_path / "work"), "--json", str(path)]
        arguments += ["--processes", "1", "--seconds", "0.2", *more]
        monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments])
        ablation.main()
        return json.loads(path.read_text())

    measured = start("--speeds")["changes"]
    assert measured["AdamW"]["seconds_per_step"] != measured["none"]["seconds_per_step"]
    assert all(row["held_out"] == {} for row in measured.values())
    first = start()["changes"]
    for name, row in first.items():
        assert row["stages"] == measured[name]["stages"] and len(row["stages"]) == 2
        assert set(row["held_out"]) == {"0"} and row["held_out"]["0"]
    # What is there is not run again; what is missing is.
    monkeypatch.setattr(ablation, "SEEDS", (0, 1))
    both = start()["changes"]
    for name, row in both.items():
        assert row["held_out"]["0"] == first[name]["held_out"]["0"] != row["held_out"]["1"]
    with pytest.raises(SystemExit, match="holds an ablation with another base or --seconds"):
        start("--seconds", "1")
