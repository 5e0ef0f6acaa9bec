"""The task "symbolic-audio-generation" of Transformers; importing this registers it."""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from tinyperceiver.music_pipeline import TASK, SymbolicAudioPipeline
from tinyperceiver.transformers_bridge.model import PerceiverSymbolicAudioModel

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

__all__ = ["SymbolicAudioGenerationPipeline"]


class SymbolicAudioGenerationPipeline(Pipeline):
    """The task "symbolic-audio-generation": `SymbolicAudioPipeline` behind `pipeline`."""

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = False

    def __init__(self, *args, local_files_only: bool = False, **kwargs) -> None:
        # That was for loading the model; Transformers hands it on to here as well.
        super().__init__(*args, **kwargs)

    def __call__(
        self, inputs: "PrettyMIDI | Iterable[PrettyMIDI]", **kwargs
    ) -> dict | list[dict] | Iterator[dict]:
        """Continue one prompt, or each of several.

        Arguments, results and errors are those of `SymbolicAudioPipeline`. Arguments
        given to `pipeline` before hold unless they are given again. A generator or a
        dataset of prompts is left to Transformers, which takes one after the other.
        """
        if isinstance(inputs, (list, tuple)):
            return self._forward({"prompts": inputs}, **self._forward_params | kwargs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **kwargs) -> tuple[dict, dict, dict]:
        return {}, kwargs, {}

    def preprocess(self, inputs: "PrettyMIDI") -> dict:
        """Nothing is done before `SymbolicAudioPipeline`."""
        return {"prompts": inputs}

    def _forward(self, inputs: dict, **kwargs) -> dict | list[dict]:
        return SymbolicAudioPipeline(self.model.backend_model)(
            inputs["prompts"], **kwargs
        )

    def postprocess(self, outputs: dict) -> dict:
        """Nor is anything done after it."""
        return outputs

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs) -> None:
        """The model's `save_pretrained`: a pipeline holds nothing else worth keeping."""
        self.model.save_pretrained(save_directory, **kwargs)


# Imported again after a change, the new class takes the place of the old one silently.
PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)
PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=SymbolicAudioGenerationPipeline,
    pt_model=PerceiverSymbolicAudioModel,
    type="audio",
)
