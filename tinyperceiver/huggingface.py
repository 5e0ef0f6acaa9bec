"""The documented name of `tinyperceiver.transformers_bridge`: import it for its effect."""

from tinyperceiver.transformers_bridge import (
    PerceiverSymbolicAudioModel,
    PerceiverSymbolicAudioModelConfig,
    SymbolicAudioGenerationPipeline,
)

__all__ = [
    "PerceiverSymbolicAudioModel",
    "PerceiverSymbolicAudioModelConfig",
    "SymbolicAudioGenerationPipeline",
]
