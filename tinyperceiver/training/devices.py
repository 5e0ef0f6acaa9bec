"""Where training runs: devices, processes, and less memory."""

from functools import partial
from typing import TYPE_CHECKING

from torch.utils.checkpoint import checkpoint

from tinyperceiver.model.perceiver_ar import DecoderLayer, PerceiverAR
from tinyperceiver.training.config import TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["checkpoint_activations_of", "is_sharded", "make_fabric"]


def make_fabric(
    precision: str = "32-true",
    *,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
) -> "Fabric":
    """Make a `Fabric` that says on which devices to train.

    Source: https://lightning.ai/docs/fabric/stable/api/fabric_args.html.

    Args:
        precision: "32-true", or products in fewer bits: "bf16-mixed", "16-mixed".
        accelerator: "cpu", "gpu", or "auto" for the best there is.
        devices: GPUs of each machine, or processes on its CPU.
        num_nodes: machines.
        strategy: "ddp", each process with a whole model; "fsdp", each with a part of
            it, on GPUs only; or "auto".

    Returns:
        The `Fabric`, for `train`.

    Raises:
        TrainingError: this machine does not have what is asked for.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import FSDPStrategy

    if strategy == "fsdp":
        strategy = FSDPStrategy(auto_wrap_policy={DecoderLayer}, state_dict_type="full")
    try:
        return Fabric(
            precision=precision,
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
        )
    except (RuntimeError, ValueError) as error:  # so it refuses what this machine lacks
        raise TrainingError(
            f"this machine cannot train with accelerator={accelerator!r}, "
            f"devices={devices}, strategy={strategy!r}, precision={precision!r}: {error}"
        ) from error


def is_sharded(fabric: "Fabric") -> bool:
    """Return whether processes hold parts of the model (FSDP) instead of whole ones."""
    from lightning_fabric.strategies import FSDPStrategy

    return isinstance(fabric.strategy, FSDPStrategy)


def checkpoint_activations_of(model: PerceiverAR) -> None:
    """Keep only what enters a layer; compute the rest again when gradients need it.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    for layer in (model.hybrid_layer, *model.layers):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
