"""The takes that the studio shows where there is no kernel: a grid of settings, from what ships.

    python scripts/record_takes.py --out book/runs/studio/takes.json

Tokens only: sound is made when they are shown. The same machine writes the same takes again.
"""

import argparse
import itertools
import json
from dataclasses import asdict
from pathlib import Path

from tinyperceiver.checkpoints.folder import WEIGHTS
from tinyperceiver.checkpoints.pretrained import SHIPPED
from tinyperceiver.files.whole import sha256_of, whole_file
from tinyperceiver.model.perceiver_ar import PerceiverAR
from tinyperceiver.music.pieces import load_piece
from tinyperceiver.music.prompts import encode_prompt
from tinyperceiver.studio.takes import Take, continuation, last_seconds, seconds_of

PIECES = ("chopin-mazurka", "mozart-sonata")
GRID = {"temperature": (0.8, 1.0, 1.2), "top_p": (0.9, 1.0)}
PROMPT = 450  # tokens, from the beginning: at the end of a piece a model falls silent
# Seconds of the prompt and of what follows: all twelve must fit on one page, with sound.
BEFORE, SECONDS = 2.0, 6.0
SETTINGS = {
    "top_k": 0,
    "min_p": 0.0,
    "prefix_len": PROMPT - 64,
    "num_latents": 64,
    "max_new_tokens": 1024,
    "seed": 0,
    "grammar": False,
    "precision": "float32",
}


def record(model: PerceiverAR, name: str, settings: dict) -> Take:
    """What is heard: the last seconds of a prompt, and as many of what follows."""
    tokens = encode_prompt(load_piece(name), model.config.vocab_size)[:PROMPT]
    prompt, stream = continuation(model, tokens, settings)
    new = []
    while seconds_of(new) < SECONDS and (token := next(stream, None)) is not None:
        new.append(token)
    return Take(name, last_seconds(prompt, BEFORE), new, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    model = PerceiverAR.from_pretrained("tiny")
    takes = []
    for name, *values in itertools.product(PIECES, *GRID.values()):
        takes.append(record(model, name, dict(zip(GRID, values, strict=True)) | SETTINGS))
        print(takes[-1].title)
    rows = ",\n".join(f"  {json.dumps(asdict(take))}" for take in takes)
    sha256 = sha256_of(SHIPPED["tiny"] / WEIGHTS)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as file:
        text = f'{{\n "sha256": "{sha256}",\n "takes": [\n{rows}\n ]\n}}\n'
        file.write(text.encode())


if __name__ == "__main__":
    main()
