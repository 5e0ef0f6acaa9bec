"""Make the sound and the picture of the README: the landing page's music, as files.

python scripts/make_media.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from tinyperceiver import (
    PerceiverAR,
    decode_midi,
    encode_midi,
    load_piece,
    mp3_bytes,
    piano_roll,
)

ASSETS = Path(__file__).resolve().parent.parent / "book" / "_assets"
PROMPT_TOKENS, NEW_TOKENS, NUM_LATENTS, SEED = 450, 400, 64, 7


def main() -> None:
    prompt = encode_midi(load_piece("mozart-sonata"))[:PROMPT_TOKENS]
    output = PerceiverAR.from_pretrained("tiny").generate(
        torch.tensor([prompt]),
        max_new_tokens=NEW_TOKENS,
        num_latents=NUM_LATENTS,
        do_sample=True,
        top_p=0.95,
        generator=torch.Generator().manual_seed(SEED),
    )
    music = decode_midi(output[0])
    (ASSETS / "first-listen.mp3").write_bytes(mp3_bytes(music))
    piano_roll(music, split=decode_midi(prompt).get_end_time())
    plt.savefig(ASSETS / "first-listen.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
