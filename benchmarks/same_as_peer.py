"""Logits, loss and greedy continuations of the released shape, ours against the peer's.

    PYTHONPATH=. peer/bin/python benchmarks/same_as_peer.py [--quick]

Two models of 134.8 M random parameters go from the peer to us through the hub's layout on disk.
The first is as initialised: logits within 1e-4, loss within 1e-5. Its attention is close to
uniform, and it says the same token over and over. The second has weights three times as large; it
magnifies rounding, so that float32 is compared with float64, in which both must agree within 1e-5.
Greedy continuations must be equal in both. `peer` is described in benchmarks/README.md. Takes about
a quarter of an hour and 6 GB; `--quick` does a tenth of the greedy tokens.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from perceiver.model.audio.symbolic import PerceiverSymbolicAudioModel
from torch.nn.functional import cross_entropy

from tinyperceiver import PRESETS, PerceiverAR
from tinyperceiver.checkpoints.released import PEER_SPEEDS, peer_name

HUB = {
    "model_type": "perceiver-ar-symbolic-audio-model",
    "is_decoder": True,
    "architectures": ["PerceiverSymbolicAudioModel"],
}
EXTRA = {
    "output_norm": True,
    "output_bias": False,
    "abs_pos_emb": False,
    "activation_checkpointing": False,
    "activation_offloading": False,
    "max_heads_parallel": None,
}
# prompt length, first latents, new tokens, pads of the second row (None: one row)
GREEDY = [(4096, 1, 200, None), (6140, 2048, 60, None), (300, 16, 60, 120)]


def make_peer(folder: Path, scale: float) -> PerceiverSymbolicAudioModel:
    """The peer with random weights, which `folder` then holds as the hub would."""
    settings = vars(PRESETS["released"]) | EXTRA | {"init_scale": scale}
    torch.manual_seed(0)
    state = {}
    for name, value in PerceiverAR(PRESETS["released"]).state_dict().items():
        is_matrix = value.ndim == 2  # norms and the one bias are moved off their first values
        scaled = value * (scale / 0.02) if is_matrix else value + 0.1 * torch.randn_like(value)
        state["backend_model." + peer_name(name)] = scaled
    state["backend_model." + PEER_SPEEDS] = 10_000.0 ** (-torch.arange(0, 96, 2) / 96)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(HUB | {"model_config": settings}))
    return PerceiverSymbolicAudioModel.from_pretrained(folder).eval()


def answers(model: PerceiverAR, peer, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of both after each of the last 2,048 of 6,144 tokens."""
    return model(tokens[:, :-1], 4096), peer(input_ids=tokens[:, :-1], prefix_len=4096).logits


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(2)
    share = 10 if "--quick" in sys.argv else 1
    failed = False
    for scale in (0.02, 0.06):
        with tempfile.TemporaryDirectory() as name:
            peer = make_peer(Path(name), scale)
            model = PerceiverAR.from_pretrained(name)
        print(f"init_scale {scale}: {model.num_parameters:,} parameters")
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(0, 388, (1, 6145), generator=generator)
        ours, peers = answers(model, peer, tokens)
        exact, peers_exact = answers(model.double(), peer.double(), tokens)
        model.float(), peer.float()
        losses = [cross_entropy(each[0], tokens[0, -2048:]).item() for each in (ours, peers)]
        apart, exact_apart = ((a - b).abs().max() for a, b in ((ours, peers), (exact, peers_exact)))
        print(f"  logits up to {peers.abs().max():.1f}, {apart:.1e} apart")
        print(f"  in float64 {exact_apart:.1e} apart")
        for who, logits in (("ours", ours), ("peer's", peers)):
            error = (logits - peers_exact).abs().max()
            print(f"  {who} in float32 are at most {error:.1e} from the peer's in float64")
        print(f"  loss: {losses[0]:.6f} and {losses[1]:.6f}")
        failed |= bool(exact_apart > 1e-5) or abs(losses[0] - losses[1]) > 1e-5
        failed |= scale == 0.02 and bool(apart > 1e-4)
        for n, latents, new, pads in GREEDY:
            prompt = torch.randint(0, 388, (1 if pads is None else 2, n), generator=generator)
            pad_mask = torch.zeros_like(prompt, dtype=torch.bool)
            if pads is not None:
                pad_mask[1, :pads] = True
                prompt[pad_mask] = 388
            options = {"max_new_tokens": new // share, "num_latents": latents, "do_sample": False}
            expected = peer.generate(prompt, attention_mask=(~pad_mask).long(), **options)
            output = model.generate(prompt, pad_mask=None if pads is None else pad_mask, **options)
            same = bool((output == expected).all())
            failed |= not same
            distinct = len(set(output[0, n:].tolist()))
            print(
                f"  greedy, prompt {tuple(prompt.shape)}, {latents} latents, {pads or 0} pads: "
                f"{new // share} tokens ({distinct} different) {'equal' if same else 'DIFFER'}"
            )
    sys.exit("not the same" if failed else 0)


if __name__ == "__main__":
    main()
