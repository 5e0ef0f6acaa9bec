"""The progress bar and the log of a run."""

import json
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from tinyperceiver.files.whole import put_in_place, staged
from tinyperceiver.training.run_folder import LOG, SPEED, STATE
from tinyperceiver.training.step import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Journal"]


class Journal:
    """The progress bar and log of a run, written by its first process.

    What LOG says depends on the run alone; the speed of this machine stands in SPEED.
    """

    def __init__(self, fabric: "Fabric", out: Path, steps: range) -> None:
        self.out = out
        self.is_open = fabric.is_global_zero
        self.stack = ExitStack()
        if not self.is_open:
            return
        self._forget_after(steps.start)
        self.board = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(out / "tensorboard", purge_step=steps.start + 1)
            self.stack.callback(self.board.close)
        span = {"initial": steps.start, "total": steps.stop, "unit": "step"}
        # With disable=None a bar shows in terminals and notebooks, not in logs.
        self.bar = tqdm(**span, dynamic_ncols=True, disable=None)
        self.stack.callback(self.bar.close)
        self.begin, self.tokens = time.monotonic(), 0

    def _forget_after(self, step: int) -> None:
        """Leave out what a killed run wrote after its last save."""
        path = self.out / LOG
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = (line for line in lines if line.endswith("\n"))
            last = step if (self.out / STATE).exists() else -1
            kept = (line for line in whole if json.loads(line)["step"] <= last)
            staged(path).write_text("".join(kept), encoding="utf-8")
            put_in_place((staged(path), path))

    def write_step(self, step: int, progress: Progress, rate: float) -> None:
        """Record one training step."""
        if not self.is_open:
            return
        record = {"loss": progress.loss, "gradient_norm": progress.norm}
        record |= {"learning_rate": rate, "tokens": progress.tokens}
        self._write(LOG, {"step": step} | record)
        self.tokens += progress.tokens
        seconds = time.monotonic() - self.begin
        self._write(SPEED, {"step": step, "seconds": seconds, "tokens": self.tokens})
        speed = f"{self.tokens / seconds:,.0f}"
        self.bar.update()
        self.bar.set_postfix(loss=f"{progress.loss:.3f}", tokens_per_s=speed)
        self._plot(step, record)

    def write_validation(
        self, step: int, window: int, held_out: float, held_out_random: float
    ) -> None:
        """Record a measurement on held-out music."""
        if self.is_open:
            record = {"held_out": held_out, "held_out_random": held_out_random}
            self._write(LOG, {"step": step, "window": window} | record)
            self.bar.write(f"step {step}: {held_out:.4f} nats per held-out token")
            self._plot(step, record)

    def _write(self, name: str, record: dict) -> None:
        with open(self.out / name, "a", encoding="utf-8") as file:
            print(json.dumps(record), file=file)

    def _plot(self, step: int, record: dict) -> None:
        if self.board:
            for name, value in record.items():
                self.board.add_scalar(name, value, step)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_open:
            self.stack.close()
