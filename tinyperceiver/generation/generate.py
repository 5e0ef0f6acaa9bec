"""The loop that continues a prompt, and what it does when the window is full.

Axis letters: B batch, n tokens in the window, m prefix, l latents, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from tinyperceiver.engines.choice import PRECISIONS, make_decoder
from tinyperceiver.generation.arguments import (
    GenerateOptions,
    Randomness,
    StreamOptions,
    check_list,
    check_prompt,
    check_sampling,
    check_tokens,
    check_whole,
    pad_left,
)
from tinyperceiver.generation.grammar import Grammar
from tinyperceiver.generation.sampling import choose_tokens
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.vocabulary import STEPS_PER_SECOND, TIME_SHIFT, VELOCITY

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["generate", "stream"]


@overload
def generate(
    model: PerceiverAR, prompt: Tensor, **options: "Unpack[GenerateOptions]"
) -> Tensor: ...


@overload
def generate(
    model: PerceiverAR, prompt: Sequence[Any], **options: "Unpack[GenerateOptions]"
) -> list[Tensor]: ...


def generate(
    model: PerceiverAR,
    prompt: Tensor | Sequence[Any],
    *,
    max_new_tokens: int | None = None,
    max_seconds: float | None = None,
    num_latents: int = 1,
    pad_mask: Tensor | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    grammar: bool = False,
    window: str = "slide",
    precision: str = "float32",
    use_cache: bool = True,
    generator: Randomness = None,
    progress: bool = False,
) -> Tensor | list[Tensor]:
    """Continue a prompt token by token, without end.

    The last `num_latents` tokens of the prompt are the first latents. Each new token is
    one more, until there are `max_latents`. What then happens is the window policy:

    - "slide", as in the library of the released model: the oldest latent becomes
      prefix, and when the window is full its first token leaves. Keys and values are
      never computed again, so they keep the influence of tokens that have left.
    - "refill", as the authors of Perceiver AR do: the model reads the last tokens
      again, `max_latents` / 2 of them as latents. The model then sees windows like
      those in training, but each reading takes as long as that of a prompt.

    Up to `max_latents` both are equal.

    Args:
        model: any `PerceiverAR`; dropout is off, whatever its mode.
        prompt: token ids, (B, n), any integer dtype, 1 <= n <= max_seq_len; or a list
            of B prompts of different lengths, (n_i,), of which the longest counts.
        max_new_tokens: stop a row after so many tokens.
        max_seconds: stop a row when its new tokens last so many seconds of music. Give
            `max_new_tokens` as well, because a model that writes no time shifts never
            reaches this length.
        num_latents: latents at the start, 1 ... max_latents; at most n are used.
        pad_mask: True at padding, (B, n), for prompts of different lengths: padding on
            the left, and none among the latents. A list needs none.
        do_sample, temperature, top_k, top_p, min_p, generator: as in `choose_tokens`;
            without `do_sample` the likeliest token of the whole vocabulary is taken.
        grammar: whether only what can be played may be chosen, see `Grammar`.
        window: "slide" or "refill".
        precision: "float32" computes what the model computes, on a CPU always in
            float32. Fewer bits are faster and less exact: "int8" and "int4" on a CPU,
            "half" on a GPU.
        use_cache: False lets the model compute every step again from the window. This
            is slow, and serves as the reference. With "slide" it works until the
            latents are full.
        progress: show a progress bar.

    Returns:
        The prompt and the new tokens, (B, n + new), int64, on the model's device. Rows
        that `max_seconds` stopped before others end in padding. For a list of prompts,
        a list with the prompt and the new tokens of each, (n_i + new_i,), without
        padding.

    Raises:
        ValueError: an argument is out of range; the message says what is allowed.
        TypeError: the prompt is music, or a path, and not token ids.
    """
    rows = None
    if not isinstance(prompt, Tensor):
        if pad_mask is not None:
            raise ValueError("a list of prompts needs no pad_mask")
        rows = prompt = check_list(prompt)
        prompt, pad_mask = pad_left(rows, model.config.padding)
    run = _Run(
        model=model,
        prompt=prompt,
        pad_mask=pad_mask,
        max_new_tokens=max_new_tokens,
        max_seconds=max_seconds,
        num_latents=num_latents,
        do_sample=do_sample,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        grammar=grammar,
        window=window,
        precision=precision,
        use_cache=use_cache,
        generator=generator,
    )
    if max_new_tokens is None and max_seconds == float("inf"):
        raise ValueError("max_seconds must be finite here; stream can go on for ever")
    steps = iter(run)
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=max_new_tokens, unit=" tokens")
    new = [token[:, None] for token in steps]
    device = model.embedding.weight.device
    tokens = torch.cat((prompt.to(device, torch.long), *new), dim=1)
    if rows is None:
        return tokens
    n = prompt.size(1)
    return [
        row[n - len(own) : n + length]
        for row, own, length in zip(tokens, rows, run.lengths, strict=True)
    ]


def stream(
    model: PerceiverAR,
    prompt: Tensor | Sequence[int],
    **options: "Unpack[StreamOptions]",
) -> Iterator[int]:
    """Continue one prompt and yield each token as soon as it is chosen.

    Args:
        model, prompt: as in `generate`; one prompt, (n,) or (1, n).
        options: those of `generate` except `pad_mask` and `progress`. Without
            `max_new_tokens` and `max_seconds` the stream has no end.

    Returns:
        An iterator of the new tokens, the same that `generate` would add.

    Raises:
        ValueError: as `generate`; it is raised by the call, not by the iterator.
        TypeError: there is no such option, or the prompt is not token ids.
    """
    unknown = options.keys() - (_Run.__dataclass_fields__.keys() - {"pad_mask"})
    if unknown:
        raise TypeError(f"stream has no options {', '.join(sorted(unknown))}")
    check_tokens(prompt)
    prompt = torch.as_tensor(prompt if len(prompt) else torch.empty(0).long())
    if prompt.ndim == 1:
        prompt = prompt[None]
    if prompt.size(0) != 1:
        raise ValueError(
            f"stream continues one prompt, not {prompt.size(0)}: use generate"
        )
    if not {options.get("max_new_tokens"), options.get("max_seconds")} - {None}:
        options["max_seconds"] = float("inf")
    run = _Run(model=model, prompt=prompt, **options)
    return (int(token) for token in run)


@dataclass(kw_only=True)
class _Run:
    """A prompt being continued; the fields are the arguments of `generate`."""

    model: PerceiverAR
    prompt: Tensor
    pad_mask: Tensor | None = None
    max_new_tokens: int | None = None
    max_seconds: float | None = None
    num_latents: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    grammar: bool = False
    window: str = "slide"
    precision: str = "float32"
    use_cache: bool = True
    generator: Randomness = None
    lengths: list[int] = field(init=False)  # new tokens of each row so far

    def __post_init__(self) -> None:
        check_sampling(
            self.do_sample, self.temperature, self.top_k, self.top_p, self.min_p
        )
        self.num_latents = check_prompt(
            self.model, self.prompt, self.num_latents, self.pad_mask
        )
        self._check_choices()
        B, n = self.prompt.shape
        device = self.model.embedding.weight.device
        self.tokens = [self.prompt.to(device, torch.long)]  # (B, n), then each (B, 1)
        if self.pad_mask is not None:
            self.pad_mask = self.pad_mask.to(device)
        self.lengths = [0] * B
        self.rules = None
        if self.grammar:
            self.rules = Grammar(B, self.model.config.vocab_size)
            for row, tokens in enumerate(self.prompt):
                if self.pad_mask is not None:
                    tokens = tokens[~self.pad_mask[row].to(tokens.device)]
                self.rules.read(row, tokens.tolist())
        self.decoder = None
        if self.use_cache:
            most = self.max_new_tokens
            self.decoder = make_decoder(
                self.model,
                batch_size=B,
                max_len=None if most is None else n + most,
                precision=self.precision,
            )

    def _check_choices(self) -> None:
        if self.max_new_tokens is None and self.max_seconds is None:
            raise ValueError(
                "say when to stop: max_new_tokens or max_seconds is needed"
            )
        if self.max_new_tokens is not None:
            check_whole("max_new_tokens", self.max_new_tokens, 0)
        if self.max_seconds is not None and not self.max_seconds >= 0:
            raise ValueError(f"max_seconds must be at least 0, not {self.max_seconds}")
        counts = 0 < (self.max_seconds or 0) < float("inf")
        if counts and self.model.config.vocab_size <= TIME_SHIFT:
            raise ValueError(
                "max_seconds: this model's vocabulary has no waits to count"
            )
        if self.window not in ("slide", "refill"):
            raise ValueError(f"window must be 'slide' or 'refill', not {self.window!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {PRECISIONS}, not {self.precision!r}"
            )
        if not self.use_cache and self.precision != "float32":
            raise ValueError("without the cache precision must be 'float32'")
        B, generators = len(self.prompt), self.generator
        if not isinstance(generators, Sequence):
            generators = [generators] * B
        if len(generators) != B:
            raise ValueError(f"{B} prompts need {B} generators, not {len(generators)}")
        for each in generators:
            if not isinstance(each, torch.Generator | None):
                raise ValueError(
                    f"generator must be a torch.Generator, not {each!r}; for a seed "
                    "take torch.Generator().manual_seed(seed)"
                )

    def __iter__(self) -> Iterator[Tensor]:
        """The next token of each row, (B,), int64; padding where a row has stopped."""
        B = len(self.lengths)
        is_done, time = [self.max_seconds == 0] * B, [0] * B  # in steps
        end = float("inf") if self.max_seconds is None else self.max_seconds
        end = end * STEPS_PER_SECOND - 1e-6  # 1.1 * 100 is more than 110
        padding = self.model.config.padding
        while not all(is_done) and max(self.lengths) != self.max_new_tokens:
            token = self._choose()  # (B,)
            chosen = [None] * B
            if self.rules is not None or self.max_seconds is not None:
                chosen = token.tolist()
                chosen = [
                    padding if done else id
                    for id, done in zip(chosen, is_done, strict=True)
                ]
                token = torch.tensor(chosen, device=token.device)
            for row, id in enumerate(chosen):
                self.lengths[row] += not is_done[row]
                if id is not None and TIME_SHIFT <= id < VELOCITY:
                    time[row] += id - TIME_SHIFT + 1
                    is_done[row] = time[row] >= end
                if self.rules is not None and not is_done[row]:
                    self.rules.read(row, [id])
            self.tokens.append(token[:, None])
            yield token

    # The mode must not stay on while whoever asked for the token has his turn.
    @torch.inference_mode()
    def _choose(self) -> Tensor:
        allowed = None
        logits = self._logits()
        if self.rules is not None:
            allowed = torch.from_numpy(self.rules.allowed).to(logits.device)
        return choose_tokens(
            logits,
            do_sample=self.do_sample,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            allowed=allowed,
            generator=self.generator,
        )

    def _logits(self) -> Tensor:
        """Logits of the next token, (B, V)."""
        config, new = self.model.config, len(self.tokens) - 1
        if new == 0:
            self.latents = self.num_latents
        elif self.window == "refill" and self.latents == config.max_latents:
            self.latents = max(1, config.max_latents // 2)
        elif self.decoder is None:
            self.latents = min(self.latents + 1, config.max_latents)
        else:
            self.latents = min(self.latents + 1, config.max_latents)
            return self.decoder.step(self.tokens[-1][:, 0])
        tokens = torch.cat(self.tokens, dim=1)
        prefix_len = min(tokens.size(1) - self.latents, config.max_prefix_len)
        start = tokens.size(1) - prefix_len - self.latents
        pads = self.pad_mask
        if pads is not None:
            pads = torch.nn.functional.pad(pads, (0, new))[:, start:]
        if self.decoder is not None:
            return self.decoder.read(tokens[:, start:], prefix_len, pads)
        was_training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            return self.model(tokens[:, start:], prefix_len, pads)[:, -1]
        finally:
            for module in was_training:
                module.training = True
