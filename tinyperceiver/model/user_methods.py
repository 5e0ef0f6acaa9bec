"""The methods that users call on a model: continue a prompt, load, and save."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    from typing_extensions import Unpack

    from tinyperceiver.generation.arguments import GenerateOptions, StreamOptions

__all__ = ["UserMethods"]


class UserMethods:
    """Methods of `PerceiverAR` whose work is done by folders that import the model.

    This is the only file that uses later folders. Each method imports its function when
    it is called.
    """

    @overload
    def generate(
        self, prompt: Tensor, **options: "Unpack[GenerateOptions]"
    ) -> Tensor: ...

    @overload
    def generate(
        self, prompt: Sequence[Any], **options: "Unpack[GenerateOptions]"
    ) -> list[Tensor]: ...

    def generate(
        self, prompt: Tensor | Sequence[Any], **options: "Unpack[GenerateOptions]"
    ) -> Tensor | list[Tensor]:
        """Continue a prompt token by token, as `tinyperceiver.generate` does.

        Args:
            prompt: token ids, (B, n); or a list of B prompts of different lengths.
            options: `max_new_tokens` or `max_seconds` says how much to add.
                `num_latents`, `window` and `precision` say how the model reads;
                `do_sample`, `temperature`, `top_k`, `top_p`, `min_p`, `grammar` and
                `generator` how a token is chosen. `tinyperceiver.generate` explains
                all of them.

        Returns:
            The prompt and the new tokens, (B, n + new); a list for a list.

        Raises:
            ValueError: an argument is out of range; the message says what is allowed.
        """
        from tinyperceiver.generation.generate import generate

        return generate(self, prompt, **options)

    def stream(
        self, prompt: Tensor | Sequence[int], **options: "Unpack[StreamOptions]"
    ) -> "Iterator[int]":
        """Continue one prompt and yield each token as soon as it is chosen.

        Args:
            prompt: token ids, (n,) or (1, n).
            options: those of `generate`. Without `max_new_tokens` and `max_seconds`
                the music has no end.

        Returns:
            An iterator of the new tokens.

        Raises:
            ValueError: as `generate`; it is raised by the call, not by the iterator.
            TypeError: there is no such option.
        """
        from tinyperceiver.generation.generate import stream

        return stream(self, prompt, **options)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        revision: str | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "Self":
        """Load a model in eval mode.

        Args:
            name_or_path: "tiny", the checkpoint that ships with the package; or a
                folder, in the hub's layout or ours; or else a model id on the Hugging
                Face hub. For a folder named tiny write "./tiny".
            revision: branch, tag or commit on the hub.
            cache_dir, local_files_only, token: as in
                `huggingface_hub.hf_hub_download`; the environment variables HF_HOME,
                HF_HUB_OFFLINE and HF_ENDPOINT have their usual effect.
            device: where to put the weights; by default the CPU.
            dtype: the weights are converted to this dtype.

        Returns:
            The model.

        Raises:
            CheckpointError: there is no model of this name, or it is damaged,
                incomplete or of another kind.
        """
        from tinyperceiver.checkpoints.pretrained import from_pretrained

        return from_pretrained(
            cls,
            name_or_path,
            revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            device=device,
            dtype=dtype,
        )

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None
    ) -> "Path":
        """Save the model as config.json and model.safetensors.

        If the folder holds a checkpoint already, it is replaced as a whole: even if the
        process is killed, the folder holds either the old or the new one.

        Args:
            folder: created if it does not exist; other files in it are not changed.
            dtype: how to store the weights, e.g. `torch.bfloat16`; by default in their
                own dtype.

        Returns:
            The folder.

        Raises:
            CheckpointError: the folder can't be written, or `dtype` can't hold a
                weight.
        """
        from tinyperceiver.checkpoints.pretrained import save_pretrained

        return save_pretrained(self, folder, dtype=dtype)
