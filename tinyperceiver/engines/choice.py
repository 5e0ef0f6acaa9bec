"""Which engine decodes: ONNX Runtime on a CPU, PyTorch on a GPU."""

from tinyperceiver.engines.decoder import Decoder
from tinyperceiver.engines.onnx_engine import CPU_PRECISIONS, OnnxDecoder
from tinyperceiver.engines.torch_engine import GPU_PRECISIONS, TorchDecoder
from tinyperceiver.model.perceiver_ar import PerceiverAR

__all__ = ["PRECISIONS", "make_decoder", "precisions_of"]

PRECISIONS = ("float32", "half", "int8", "int4")


def make_decoder(
    model: PerceiverAR,
    *,
    batch_size: int = 1,
    max_len: int | None = None,
    precision: str = "float32",
) -> Decoder:
    """Make a decoder for a model, by the engine for its device.

    Args:
        model, batch_size, max_len: as in `Decoder`.
        precision: of the weights. "float32" computes in float32 on a CPU, and in the
            model's own dtype on a GPU. "int8" and "int4" are for CPUs, see `Graph`;
            "half", 16 bits, is for GPUs, see `TorchDecoder`.

    Raises:
        ValueError: no such precision, or not for this device.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, not {precision!r}")
    possible, device = precisions_of(model), model.embedding.weight.device
    if precision not in possible:
        raise ValueError(
            f"precision={precision!r} is not for a model on {device}: take one of "
            f"{possible}"
        )
    engine = OnnxDecoder if device.type == "cpu" else TorchDecoder
    return engine(model, batch_size=batch_size, max_len=max_len, precision=precision)


def precisions_of(model: PerceiverAR) -> tuple[str, ...]:
    """Those of `PRECISIONS` that the engine for the model's device has."""
    is_on_cpu = model.embedding.weight.device.type == "cpu"
    return tuple(CPU_PRECISIONS) if is_on_cpu else GPU_PRECISIONS
