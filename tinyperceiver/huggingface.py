"""The documented name of `tinyperceiver.transformers_bridge`: import it for its effect."""

from tinyperceiver.transformers_bridge.audio_pipeline import (
    SymbolicAudioGenerationPipeline,
)
from tinyperceiver.transformers_bridge.model import (
    TINY,
    PerceiverSymbolicAudioModel,
    PerceiverSymbolicAudioModelConfig,
)

__all__ = [
    "TINY",
    "PerceiverSymbolicAudioModel",
    "PerceiverSymbolicAudioModelConfig",
    "SymbolicAudioGenerationPipeline",
]
