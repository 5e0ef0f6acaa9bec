"""One step of training: the loss, the optimizers and the change of the weights."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tinyperceiver.dataset.windows import Batch
from tinyperceiver.training.config import TrainingConfig
from tinyperceiver.training.devices import is_sharded

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "Progress",
    "make_optimizers",
    "nats_per_token",
    "sum_of_losses",
    "training_step",
]


def make_optimizers(
    model: nn.Module, config: TrainingConfig
) -> list[torch.optim.Optimizer]:
    """Make AdamW, or Muon for the matrices of the layers and AdamW for the rest.

    Only matrices decay: a norm's scale has no reason to shrink.

    Sources: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101; Jordan et al.
    2024, https://kellerjordan.github.io/posts/muon. Muon's steps are made as long as
    AdamW's, so that both take one rate: Liu et al. 2025,
    https://arxiv.org/abs/2502.16982, section 2.2.

    Returns:
        AdamW, and after it Muon where `config` asks for it.
    """
    of_layers, matrices, others = [], [], []
    for module in model.modules():
        # By kind, not by shape: FSDP lays all parameters out in one dimension.
        is_layers = isinstance(module, nn.Linear) and config.optimizer == "muon"
        is_matrix = isinstance(module, (nn.Linear, nn.Embedding))
        for name, parameter in module.named_parameters(recurse=False):
            if not is_matrix or name != "weight":
                others.append(parameter)
            else:
                (of_layers if is_layers else matrices).append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        # All parameters in one pass over memory. With float16, gradients must be scaled
        # back before they are cut, which the fused one leaves for later.
        fused=config.precision != "16-mixed",
    )
    if config.optimizer == "adamw":
        return [adamw]
    muon = torch.optim.Muon(
        of_layers,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]


def sum_of_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Nats, summed over the targets of `batch`; ignored ones add nothing."""
    logits = model(batch.tokens, batch.prefix_len, batch.pad_mask)  # (B, l, V)
    return cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), reduction="sum"
    )


@torch.no_grad()
def nats_per_token(model: nn.Module, batch: Batch, rows_at_once: int = 8) -> float:
    """Mean nats of the targets of `batch`, by a model in eval mode."""
    parts = batch.split(rows_at_once)
    total = sum(sum_of_losses(model, part).double() for part in parts)
    return (total / (batch.targets >= 0).sum()).item()


class Progress(NamedTuple):
    """What a step of training saw."""

    loss: float  # nats per token, before the step
    norm: float  # length of the gradient, before it is cut
    tokens: int  # targets, over all processes


def training_step(
    fabric: "Fabric",
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    batches: list[Batch],
    max_norm: float,
) -> Progress:
    """Change the weights once, by what one process's share of a step's windows says.

    Args:
        model, optimizers: set up by `fabric`.
        batches: the share, in as many turns as memory asks for.
        max_norm: a longer gradient of an optimizer's weights is cut to this length.

    Raises:
        FloatingPointError: loss or gradient is not finite; the weights are as before.
    """
    # Places, not targets: no process need know how many targets the others have. A step
    # with few targets weighs less; where pieces are long, hardly any place lacks one.
    places = sum(batch.targets.numel() for batch in batches)
    total = torch.zeros(2, dtype=torch.float64, device=fabric.device)
    for turn, batch in enumerate(batches, start=1):
        batch = fabric.to_device(batch)
        # Processes average their gradients once, after the last turn; those that hold
        # parts of a model (FSDP) each time, so that none needs room for all of them.
        waits = turn < len(batches) and not is_sharded(fabric)
        with fabric.no_backward_sync(model, enabled=waits):
            loss = sum_of_losses(model, batch)
            fabric.backward(loss / places)
        total += torch.stack((loss.detach(), (batch.targets >= 0).sum()))
    norms = [
        fabric.clip_gradients(
            model, optimizer, max_norm=max_norm, error_if_nonfinite=False
        )
        for optimizer in optimizers
    ]
    norm = torch.stack(norms).norm()
    loss, tokens = fabric.all_reduce(total, reduce_op="sum").tolist()
    # Float16 alone has a state, its scale: overflow is expected, and the step left out.
    is_scaled = bool(fabric.strategy.precision.state_dict())
    if not math.isfinite(loss) or not (is_scaled or norm.isfinite()):
        raise FloatingPointError(
            f"loss {loss / max(tokens, 1)}, length of gradient {norm}"
        )
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return Progress(loss / max(tokens, 1), norm.item(), int(tokens))
