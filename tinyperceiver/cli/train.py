"""`tinyperceiver train`: train a model, or fine-tune one."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyperceiver.cli.refusals import CommandError, refusing

if TYPE_CHECKING:
    import torch

    from tinyperceiver import PerceiverAR, TrainingConfig


def train(
    config: Annotated[
        str | None,
        typer.Option(
            help="A named run ('tiny' is the shipped model's, 'small' that of the next one, "
            "'released' the published one), "
            "or a JSON file like the one that --show prints.",
            show_default="with --from: a short run that suits model and data",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Fine-tune this model, instead of starting from random weights: 'tiny', which "
            "is shipped; a folder; or a model id on the hub.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(help="Folder with train.bin and valid.bin, from `prepare`."),
    ] = Path("data/giantmidi"),
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; one that was stopped goes on from its last save.",
            show_default="runs/ and the name of --config or, without it, of --data",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the configuration and stop.")
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            help="32-true, bf16-mixed or 16-mixed.", show_default="as in --config"
        ),
    ] = None,
    rows_at_once: Annotated[
        int,
        typer.Option(
            min=1,
            help="Windows computed together by a process: fewer need less memory.",
        ),
    ] = 8,
    checkpoint_activations: Annotated[
        bool,
        typer.Option(
            "--checkpoint-activations", help="Compute more, keep less in memory."
        ),
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model first (torch.compile).")
    ] = False,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu or auto.")] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="GPUs of each machine, or processes on its CPU.")
    ] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[
        str, typer.Option(help="auto, ddp, or fsdp for models larger than a GPU.")
    ] = "auto",
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Pause when this many steps are done.")
    ] = None,
) -> None:
    """Train a model, or fine-tune a trained one.

    If the command is interrupted, run it again: it continues from its last save.

    \b
    tinyperceiver train --from tiny --data data/my-midi
    tinyperceiver train --config tiny --data data/giantmidi
    tinyperceiver train --config released --precision bf16-mixed --devices 2
    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr HOST \\
        -m tinyperceiver train --config released --devices 4 --nodes 2
    """
    from dataclasses import replace

    from tinyperceiver.training.devices import make_fabric
    from tinyperceiver.training.run_folder import STATE
    from tinyperceiver.training.train import train as train_model

    name, run, initial_model = _choose_run(config, start, data)
    _check_choice("--accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    _check_choice("--strategy", strategy, ("auto", "ddp", "fsdp"))
    if nodes > 1 and not {"MASTER_ADDR", "SLURM_NTASKS"} & os.environ.keys():
        raise CommandError(
            "--nodes is for several machines: start torchrun on each of them, as --help shows"
        )
    if precision is not None:
        with refusing():
            run = replace(run, precision=precision)
    if show:
        print(json.dumps(run.to_json(), indent=2))
        return
    out = out or Path("runs") / name
    fabric = make_fabric(
        run.precision,
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
    )
    try:
        model = train_model(
            run,
            data,
            out,
            initial_model=initial_model,
            fabric=fabric,
            rows_at_once=rows_at_once,
            checkpoint_activations=checkpoint_activations,
            compile=compile,
            stop_after=stop_after,
        )
    except KeyboardInterrupt:
        resumed = f"continues from the last save in {out}"
        if not (out / STATE).exists():
            resumed = "begins again, because nothing is saved yet"
        print(f"stopped: the same command {resumed}", file=sys.stderr)
        raise
    if fabric.is_global_zero:
        _report(model, run, out, stop_after, initial_model, data, fabric.device)


def _choose_run(
    config: str | None, start: str | None, data: Path
) -> "tuple[str, TrainingConfig, PerceiverAR | None]":
    """Name and configuration of the run, and the model that it starts from."""
    from tinyperceiver import PerceiverAR, TokenFile
    from tinyperceiver.training.config import RUNS, TrainingConfig
    from tinyperceiver.training.finetune import finetuning_config

    if config is None:
        if start is None:
            raise CommandError(
                "give --from MODEL to fine-tune a model, or --config NAME to train a new one"
            )
        splits = [TokenFile(data / f"{split}.bin") for split in ("train", "valid")]
        initial_model = PerceiverAR.from_pretrained(start)
        run = finetuning_config(initial_model.config, *splits)
        return data.resolve().name, run, initial_model
    if config in RUNS:
        name, run = config, RUNS[config]
    else:
        path = Path(config)
        if not path.is_file():
            raise CommandError(
                f"--config {config} is neither a file nor one of {', '.join(RUNS)}"
            )
        name = path.stem
        try:
            run = TrainingConfig.from_json(json.loads(path.read_bytes()))
        except ValueError as error:
            raise CommandError(f"{path}: {error}") from error
    return name, run, None if start is None else PerceiverAR.from_pretrained(start)


def _report(
    model: "PerceiverAR",
    run: "TrainingConfig",
    out: Path,
    stop_after: int | None,
    initial_model: "PerceiverAR | None",
    data: Path,
    device: "torch.device",
) -> None:
    """Say what there is now, what fine-tuning gained, and what to do next."""
    from tinyperceiver import PerceiverAR, TokenFile
    from tinyperceiver.training.evaluate import measure_gain
    from tinyperceiver.training.finetune import describe_gain

    size = f"{model.num_parameters:,} parameters"
    if not (out / "model").exists():
        print(
            f"{out}: {size}, paused after {stop_after:,} of {run.steps:,} steps; "
            f"the same command without --stop-after continues"
        )
        return
    best = f"{out / 'best'} has the lowest held-out loss"
    print(f"{out / 'model'}: {size}, all {run.steps:,} steps; {best}")
    if initial_model is not None:
        held_out = TokenFile(data / "valid.bin")
        both = initial_model, PerceiverAR.from_pretrained(out / "best")
        both = (each.to(device) for each in both)
        print(describe_gain(measure_gain(*both, held_out)))
    print(
        f"hear it: tinyperceiver generate piece.mid -o out.mid "
        f"--checkpoint {shlex.quote(str(out / 'best'))}"
    )


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise CommandError(f"{option} must be {' or '.join(choices)}, not {value!r}")
