"""The pipeline of the released model's card: a prompt goes in, music comes out."""

import inspect
from typing import TYPE_CHECKING, Any, overload

import torch

from tinyperceiver.checkpoints.pretrained import from_pretrained
from tinyperceiver.generation.arguments import GenerateOptions
from tinyperceiver.generation.generate import generate
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.prompts import decodable, encode_prompt
from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.sound.encoding import wav_bytes
from tinyperceiver.sound.synthesis import render as render_midi

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI
    from typing_extensions import Unpack

__all__ = ["TASK", "PipelineOptions", "SymbolicAudioPipeline", "pipeline"]

TASK = "symbolic-audio-generation"


class PipelineOptions(GenerateOptions, total=False):
    """The options of a call, which `SymbolicAudioPipeline` explains."""

    max_prompt_length: int | None
    return_full_audio: bool
    return_type: str
    render: bool
    sf2_path: str | None


def pipeline(
    task: str, model: str | PerceiverAR, **kwargs: Any
) -> "SymbolicAudioPipeline":
    """Make the pipeline for a task, as the Transformers library's function of this name.

    Args:
        task: "symbolic-audio-generation".
        model: a model, or what `PerceiverAR.from_pretrained` takes.
        kwargs: further arguments of `PerceiverAR.from_pretrained`, such as `revision` or
            `device`.

    Returns:
        A function that continues performances.

    Raises:
        ValueError: another task, or arguments for loading a model that is already loaded.
        CheckpointError: the model cannot be loaded.
    """
    if task != TASK:
        raise ValueError(f"no pipeline does {task!r}: the only task is {TASK!r}")
    if isinstance(model, PerceiverAR):
        if kwargs:
            raise ValueError(
                f"{', '.join(kwargs)}: only for a model that is loaded by its name"
            )
        return SymbolicAudioPipeline(model)
    return SymbolicAudioPipeline(from_pretrained(PerceiverAR, model, **kwargs))


class SymbolicAudioPipeline:
    """Continues performances: encodes the prompt, generates, decodes, and renders if asked to."""

    def __init__(self, model: PerceiverAR) -> None:
        self.model = model

    @overload
    def __call__(
        self, prompts: "list[PrettyMIDI]", **options: "Unpack[PipelineOptions]"
    ) -> list[dict[str, Any]]: ...

    @overload
    def __call__(
        self, prompts: "PrettyMIDI", **options: "Unpack[PipelineOptions]"
    ) -> dict[str, Any]: ...

    def __call__(
        self,
        prompts: "PrettyMIDI | list[PrettyMIDI]",
        *,
        max_prompt_length: int | None = None,
        return_full_audio: bool = True,
        return_type: str = "audio",
        render: bool = False,
        sf2_path: str | None = None,
        **generate_kwargs: "Unpack[GenerateOptions]",
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Continue one prompt, or each of a list.

        Args:
            prompts: performances.
            max_prompt_length: keep only so many tokens of a prompt, from its beginning (as the
                released model's library does; shorten the performance itself to keep its end).
            return_full_audio: whether the prompt is part of what is returned.
            return_type: "audio" or "tensors" (an enum member of that name will do).
            render: return sound instead of MIDI.
            sf2_path: the soundfont to render with; by default the one of `render`.
            generate_kwargs: arguments of `PerceiverAR.generate`.

        Returns:
            For each prompt a dict with one entry: `generated_audio_midi`, a PrettyMIDI; with
            `render`, `generated_audio_wav`, the bytes of a WAV file; with return_type "tensors",
            `generated_token_ids`, a list. A list of dicts for a list of prompts.

        Raises:
            ValueError: an argument that cannot be honoured.
        """
        kind = str(getattr(return_type, "name", return_type)).lower()
        if kind not in ("audio", "tensors"):
            raise ValueError(
                f"return_type must be 'audio' or 'tensors', not {return_type!r}"
            )
        if kind == "tensors" and render:
            raise ValueError(
                "render=True makes sound: it does not go with return_type='tensors'"
            )
        if sf2_path is not None and not render:
            raise ValueError("sf2_path has no effect without render=True")
        if (
            unknown := generate_kwargs.keys()
            - inspect.signature(generate).parameters.keys()
        ):
            raise ValueError(f"generate has no arguments {', '.join(sorted(unknown))}")
        if not generate_kwargs.keys() & {"max_new_tokens", "max_seconds"}:
            raise ValueError(
                "max_new_tokens or max_seconds is needed: how much to add to the prompt"
            )
        if max_prompt_length is not None and max_prompt_length < 1:
            raise ValueError(
                f"max_prompt_length must be at least 1, not {max_prompt_length}"
            )

        def continue_one(prompt: "PrettyMIDI") -> dict:
            tokens = encode_prompt(prompt, self.model.config.vocab_size)[
                :max_prompt_length
            ]
            if len(tokens) > (longest := self.model.config.max_seq_len):
                raise ValueError(
                    f"the prompt has {len(tokens)} tokens, more than the {longest} of the model's "
                    f"window: pass max_prompt_length, or shorten the performance"
                )
            output = self.model.generate(
                torch.tensor([tokens]).long(), **generate_kwargs
            )
            new = output[0, len(tokens) :].tolist()
            if kind == "tensors":
                return {
                    "generated_token_ids": tokens + new if return_full_audio else new
                }
            midi = decode_midi(
                tokens + new if return_full_audio else decodable(tokens, new)
            )
            if render:
                return {
                    "generated_audio_wav": wav_bytes(
                        render_midi(midi, soundfont=sf2_path)
                    )
                }
            return {"generated_audio_midi": midi}

        if isinstance(prompts, (list, tuple)):
            return [continue_one(prompt) for prompt in prompts]
        return continue_one(prompts)
