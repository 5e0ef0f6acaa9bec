"""Configuration and model as classes of Transformers; importing this registers both."""

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

from tinyperceiver.checkpoints.folder import CheckpointError, write_checkpoint
from tinyperceiver.checkpoints.pretrained import SHIPPED, find_folder, from_pretrained
from tinyperceiver.checkpoints.released import (
    HUB_PREFIX,
    MODEL_TYPE,
    REQUIRED,
    peer_config,
    peer_tensors,
)
from tinyperceiver.model.config import PRESETS, PerceiverConfig
from tinyperceiver.model.perceiver_ar import PerceiverAR

__all__ = ["TINY", "PerceiverSymbolicAudioModel", "PerceiverSymbolicAudioModelConfig"]

# The folder of the shipped model: Transformers would look for the name "tiny" on the hub.
TINY = SHIPPED["tiny"]

# What Transformers passes along by itself, or what changes nothing here: weights are
# always checked, never pickled code, and one file.
HARMLESS = {
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
    "adapter_kwargs",
    "low_cpu_mem_usage",
    "trust_remote_code",
    "weights_only",
}


class PerceiverSymbolicAudioModelConfig(PreTrainedConfig):
    """config.json of the hub's layout: the model's shape is in `model_config`."""

    model_type = MODEL_TYPE

    def __init__(
        self, model_config: dict | None = None, is_decoder: bool = True, **kwargs
    ) -> None:
        if model_config is None:
            model_config = REQUIRED | asdict(PRESETS["released"])
        self.model_config = model_config
        self.is_decoder = is_decoder
        super().__init__(**kwargs)

    @classmethod
    def from_dict(
        cls, config_dict: dict, **kwargs
    ) -> "PerceiverSymbolicAudioModelConfig":
        """Made from what config.json holds, in the hub's layout or in ours."""
        if "format" in config_dict:
            known = PerceiverConfig.__dataclass_fields__.keys() & config_dict.keys()
            shape = {name: config_dict[name] for name in known}
            config_dict = {"model_config": REQUIRED | shape}
        return super().from_dict(config_dict, **kwargs)

    @property
    def perceiver_config(self) -> PerceiverConfig:
        """The shape in `model_config`; CheckpointError if it is not one of ours."""
        source = f"model_config of {self.name_or_path or 'this configuration'}"
        return peer_config(self.model_config, source)


class PerceiverSymbolicAudioModel(PreTrainedModel):
    """A `PerceiverAR`, its `backend_model`, with the manners of Transformers."""

    config_class = PerceiverSymbolicAudioModelConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    model_tags = ["tinyperceiver", "music-generation"]  # noqa: RUF012

    def __init__(
        self,
        config: PerceiverSymbolicAudioModelConfig,
        backend_model: PerceiverAR | None = None,
    ) -> None:
        super().__init__(config)
        if backend_model is None:
            backend_model = PerceiverAR(config.perceiver_config)
        self.backend_model = backend_model
        self.post_init()
        self.training = backend_model.training

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Done by `PerceiverAR` itself, whose values must stay."""

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """The table that tokens are looked up in, and logits are made with."""
        return self.backend_model.embedding

    @classmethod
    def wrap(cls, model: PerceiverAR) -> "PerceiverSymbolicAudioModel":
        """A model of ours, for Transformers; the weights are shared, not copied."""
        config = cls.config_class(model_config=REQUIRED | asdict(model.config))
        config.dtype = model.embedding.weight.dtype
        return cls(config, model)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: PerceiverSymbolicAudioModelConfig | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: torch.device | str | int | dict | None = None,
        **kwargs,
    ) -> "PerceiverSymbolicAudioModel":
        """Load a model in eval mode, through `PerceiverAR.from_pretrained`.

        Args:
            pretrained_model_name_or_path: what that takes: a model id on the hub, a
                folder in the hub's layout or in ours, or "tiny".
            config: instead of what config.json says, for weights of the same shapes.
            revision, cache_dir, local_files_only, token: as there; of a folder there
                are no revisions.
            dtype: of the weights; by default, and for "auto", what config.json names,
                else float32.
            torch_dtype: the former name of `dtype`.
            device_map: a device for the whole model; "auto" is the GPU if there is one.
            kwargs: refused, except what Transformers itself passes on.

        Raises:
            CheckpointError: as there, or the weights do not fit `config`.
            ValueError: an argument that cannot be honoured.
            OSError: config.json is missing or not readable.
        """
        refused = [
            name for name, value in kwargs.items() if value and name not in HARMLESS
        ]
        if refused:
            raise ValueError(
                f"this model's from_pretrained cannot honour {', '.join(sorted(refused))}: "
                f"leave it out"
            )
        name = pretrained_model_name_or_path
        if name in SHIPPED or os.path.isdir(name):
            revision = None
        folder = find_folder(
            name,
            revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        if config is None:
            config = cls.config_class.from_pretrained(folder)
        config = copy.deepcopy(config)
        config.name_or_path = str(name)
        config.dtype = _as_dtype(dtype or torch_dtype, config)
        model = from_pretrained(
            PerceiverAR, folder, dtype=config.dtype, device=_as_device(device_map)
        )
        if config.perceiver_config != model.config:
            model = _reshape(model, config.perceiver_config, folder)
        return cls(config, model)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str | None = None,
        token: str | bool | None = None,
        **kwargs,
    ) -> None:
        """Save in the hub's layout, which the released model's library reads, too.

        Args:
            save_directory: made if it is not there; other files in it are left alone.
            is_main_process: False writes nothing: of many processes one saves.
            state_dict: weights by the names of this model; by default its own.
            push_to_hub: upload it, too. `token` and further arguments are those of
                `push_to_hub`; `repo_id` is by default the folder's name.
            max_shard_size: not used; the weights are one file, model.safetensors.

        Raises:
            CheckpointError: the folder can't be written; it is then as it was.
            ValueError: weights of another model, or an argument that is not known.
        """
        if kwargs and not push_to_hub:
            raise ValueError(
                f"save_pretrained cannot honour {', '.join(sorted(kwargs))} without push_to_hub"
            )
        if not is_main_process:
            return
        state = self.state_dict() if state_dict is None else state_dict
        state = {name.removeprefix(HUB_PREFIX): each for name, each in state.items()}
        if wrong := state.keys() ^ self.backend_model.state_dict().keys():
            raise ValueError(
                f"missing or surplus among the weights to save: {', '.join(sorted(wrong))}"
            )
        self.config.dtype = self.dtype
        self.config.architectures = [type(self).__name__]
        settings = json.loads(self.config.to_json_string())
        folder = Path(save_directory).expanduser()
        tensors = peer_tensors(state, self.config.perceiver_config)
        write_checkpoint(folder, tensors, lambda _: settings)
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", folder.resolve().name)
            self.push_to_hub(repo_id, token=token, **kwargs)

    def forward(
        self,
        input_ids: Tensor,
        prefix_len: int | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> CausalLMOutput:
        """Logits of the token after each latent, and the loss if there are `labels`.

        Args:
            input_ids: token ids, (B, n).
            prefix_len: m; by default as short as `max_latents` and padding permit.
            attention_mask: 0 at padding, on the left and in the prefix, else 1, (B, n).
            labels: (B, n), as a rule `input_ids` again: they are shifted by one here,
                and -100 is left out.
            num_items_in_batch: how many targets to divide the loss by, where several
                batches make a step; by default those of this call.

        Returns:
            `logits`, (B, l, V), and `loss`, nats per token, of the latents but the last.

        Raises:
            ValueError: as by `PerceiverAR`, or an argument that cannot be honoured.
        """
        refused = [
            name
            for name, value in kwargs.items()
            if value is not None and value is not False and name != "return_dict"
        ]
        if refused:
            raise ValueError(f"this model cannot honour {', '.join(sorted(refused))}")
        pad_mask = None if attention_mask is None else attention_mask == 0
        longest = 0 if pad_mask is None else int(pad_mask.sum(dim=1).max())
        if prefix_len is None:
            most = self.backend_model.config.max_latents
            prefix_len = max(longest, input_ids.size(1) - most)
        if longest and not pad_mask.sort(descending=True).values.equal(pad_mask):
            raise ValueError("padding must stand on the left")
        if longest > prefix_len:
            raise ValueError(
                f"padding must be in the prefix: a row has {longest} places of it, "
                f"prefix_len is {prefix_len}"
            )
        logits = self.backend_model(input_ids, prefix_len, pad_mask)
        loss = None
        if labels is not None:
            following = labels[:, prefix_len + 1 :].flatten()
            scores = logits[:, :-1].flatten(0, 1).float()
            if num_items_in_batch is None:
                loss = cross_entropy(scores, following)
            else:  # of several batches whose losses are added
                loss = cross_entropy(scores, following, reduction="sum")
                loss = loss / num_items_in_batch
        return CausalLMOutput(loss=loss, logits=logits)

    def generate(
        self,
        inputs: Tensor | list[Tensor] | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs,
    ) -> Tensor | list[Tensor]:
        """`PerceiverAR.generate`, with its arguments, limits and errors.

        Args:
            inputs: the prompt; `input_ids` is another name for it.
            attention_mask: 0 at padding, else 1: the reverse of `pad_mask`.
        """
        if attention_mask is not None:
            kwargs["pad_mask"] = attention_mask == 0
        prompt = input_ids if inputs is None else inputs
        if prompt is None or (inputs is not None and input_ids is not None):
            raise ValueError("generate needs one prompt: token ids of shape (B, n)")
        return self.backend_model.generate(prompt, **kwargs)

    def stream(self, inputs: Tensor, **kwargs) -> Iterator[int]:
        """`PerceiverAR.stream`, with its arguments, limits and errors."""
        return self.backend_model.stream(inputs, **kwargs)


def _as_dtype(dtype: torch.dtype | str | None, config: PreTrainedConfig) -> torch.dtype:
    if dtype in (None, "auto"):
        dtype = config.dtype or torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"dtype must be 'auto' or a floating-point type of PyTorch, not {dtype!r}"
        )
    return found


def _as_device(device_map: torch.device | str | int | dict | None) -> object:
    if isinstance(device_map, dict):
        if list(device_map) != [""]:
            raise ValueError(
                f"device_map must name one device for the whole model, not {device_map!r}"
            )
        device_map = device_map[""]
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device_map


def _reshape(model: PerceiverAR, config: PerceiverConfig, source: Path) -> PerceiverAR:
    """The same weights under another configuration, if it has the same shapes."""
    with torch.device("meta"):
        other = PerceiverAR(config)
    try:
        other.load_state_dict(model.state_dict(), assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source} does not fit the configuration given for it: {error}"
        ) from error
    return other.eval()


AutoConfig.register(
    PerceiverSymbolicAudioModelConfig.model_type,
    PerceiverSymbolicAudioModelConfig,
    exist_ok=True,
)
AutoModelForCausalLM.register(
    PerceiverSymbolicAudioModelConfig, PerceiverSymbolicAudioModel, exist_ok=True
)
