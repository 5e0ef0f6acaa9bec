"""The guide: its commands and programs run, one after the other, and print what it says."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tinyperceiver import RUNS, PerceiverConfig, Stage, read_midi
from tinyperceiver.cli.main import main
from tinyperceiver.training import finetune

GUIDE = (Path(__file__).parent.parent / "book" / "guide.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(GUIDE)


def without_numbers(text: str) -> list[str]:
    return [re.sub(r"\d[\d.,]*", "#", line) for line in text.splitlines()]


def few_steps(config):
    """A run that takes seconds, and validates as often as the guide shows."""
    stage = replace(config.stages[0], steps=2, batch_size=8)
    return replace(config, stages=(stage,), warmup_steps=1, validate_every=1)


@pytest.mark.numeric
def test_the_guide_does_what_it_says(tmp_path, monkeypatch, capfd):
    pytest.importorskip("transformers", reason="needs the extra `transformers`")
    monkeypatch.chdir(tmp_path)
    chosen = finetune.finetuning_config
    monkeypatch.setattr(finetune, "finetuning_config", lambda *args: few_steps(chosen(*args)))
    model = PerceiverConfig(
        max_seq_len=64, max_latents=32, num_channels=16, num_heads=2, num_self_attention_layers=1
    )
    stages = (Stage(steps=1, num_latents=8, max_prefix_len=8, batch_size=1),)
    mine = replace(few_steps(RUNS["tiny"]), model=model, stages=stages, num_windows=2)
    Path("mine.json").write_text(json.dumps(mine.to_json()), encoding="utf-8")
    printed, names = "", {}
    for kind, text in BLOCKS:
        if kind == "text":
            missing = set(without_numbers(text)) - set(without_numbers(printed))
            assert missing == set(), printed
        elif kind == "python":
            exec(compile(text, "guide.md", "exec"), names)
        elif not text.startswith("pip install"):
            program = text.split()[0]
            capfd.readouterr()
            assert program == "tinyperceiver"
            monkeypatch.setattr("sys.argv", text.split())
            with pytest.raises(SystemExit) as end:
                main()
            assert end.value.code == 0, text
            printed = capfd.readouterr().out
    for file in ("out.mid", "continued.mid", "new.mid", "schubert.mid"):
        assert len(read_midi(file).instruments[0].notes) > 50, file
