"""Sound while the model writes: pieces of it go to the browser as they come."""

import base64
import html
import itertools
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.vocabulary import (
    NOTE_OFF,
    NUM_EVENTS,
    STEPS_PER_SECOND,
    TIME_SHIFT,
    VELOCITY,
    VELOCITY_BIN,
)
from tinyperceiver.sound.synthesis import open_piano
from tinyperceiver.studio.takes import LEAD_IN, last_seconds, seconds_of

if TYPE_CHECKING:
    import ipywidgets

__all__ = ["LiveSound", "base64_of", "run_script"]

RATE = 22_050  # Hz, of the sound while the model writes
PIECE = 1.0  # seconds of music that go to the browser at a time

# Plays pieces of sound end to end. They may come out of order, and twice to two views.
_HEAR = """
const {key, number, rate, end, sound} = this.dataset;
const all = (window.tinyperceiverStudio ||= {});
const live = (all[key] ||= {
  context: new AudioContext({sampleRate: Number(rate)}),
  waiting: {}, number: 0, next: 0, end: 0,
});
live.waiting[number] = {end: Number(end), sound};
for (; live.waiting[live.number]; live.number += 1) {
  const {end, sound} = live.waiting[live.number];
  const bytes = Uint8Array.from(atob(sound), (c) => c.charCodeAt(0));
  const samples = Float32Array.from(new Int16Array(bytes.buffer), (s) => s / 32768);
  const buffer = live.context.createBuffer(1, samples.length, live.context.sampleRate);
  buffer.getChannelData(0).set(samples);
  const source = new AudioBufferSourceNode(live.context, {buffer});
  source.connect(live.context.destination);
  live.next = Math.max(live.next, live.context.currentTime + 0.1);
  source.start(live.next);
  live.next += buffer.duration;
  live.end = end;
}
"""
# The player of the finished take goes on where the pieces are.
_HAND_OVER = """
const live = window.tinyperceiverStudio?.[this.dataset.key];
if (live && live.context.state !== 'closed') {
  const audio = this.closest('.tinyperceiver-studio').querySelector('audio');
  const heard = live.end - Math.max(live.next - live.context.currentTime, 0);
  if (audio && this.dataset.go && live.context.state === 'running') {
    audio.dataset.start = audio.currentTime = heard;
    audio.play().catch(() => {});
  }
  live.context.close();
}
"""


def base64_of(data: bytes) -> str:
    """Return bytes as base64 text, which fits into HTML."""
    return base64.b64encode(data).decode()


def run_script(script: str, **data: object) -> str:
    """HTML that runs a script where it is shown; `data` is in `this.dataset`."""
    values = "".join(f' data-{name}="{value}"' for name, value in data.items())
    # An image that cannot be loaded: the one event that every front end lets happen.
    return f'<img alt="" hidden src="data:,"{values} onerror="{html.escape(script)}">'


class LiveSound:
    """Plays tokens as they come, through a widget."""

    def __init__(self, view: "ipywidgets.HTML", prompt: Sequence[int]) -> None:
        self.view, self.key, self.numbers = view, uuid.uuid4().hex, itertools.count()
        self.synth, self.gain, self.velocity = open_piano(RATE), np.inf, 0
        self.pieces, self.waiting, self.steps, self.done = [], 0, 0, 0
        lead_in = last_seconds(prompt, LEAD_IN)
        self.begin = seconds_of(prompt) - seconds_of(lead_in)
        for token in lead_in:
            self.feed(token)

    def feed(self, token: int) -> None:
        """Play one more token."""
        if token < NOTE_OFF:
            self.synth.off(0, token)
            self.synth.on(0, token, self.velocity)
        elif token < TIME_SHIFT:
            self.synth.off(0, token - NOTE_OFF)
        elif token < VELOCITY:
            self.steps += token - TIME_SHIFT + 1
            count = round(self.steps * RATE / STEPS_PER_SECOND) - self.done
            self.pieces.append(self.synth.samples(count).mean(axis=1))  # (count,)
            self.done, self.waiting = self.done + count, self.waiting + count
            if self.waiting >= PIECE * RATE:
                self.send()
        elif token < NUM_EVENTS:
            # Not 0, which would be a note-off.
            self.velocity = max(1, VELOCITY_BIN * (token - VELOCITY))

    def send(self) -> None:
        """Send the sound that was made since the last call to the browser."""
        samples = np.concatenate(self.pieces)  # (N,)
        self.pieces, self.waiting = [], 0
        # As loud as the first piece asks, lower if a later one is louder.
        self.gain = min(self.gain, 20_000 / max(np.abs(samples).max(), 1e-3))
        data = {"key": self.key, "number": next(self.numbers), "rate": RATE}
        data["end"] = self.begin + self.done / RATE
        data["sound"] = base64_of((self.gain * samples).astype("<i2").tobytes())
        self.view.value = run_script(_HEAR, **data)

    def hand_over(self, go: bool) -> None:
        """Let the player of the finished take continue where the live sound is, if `go`."""
        self.view.value = run_script(_HAND_OVER, key=self.key, go="yes" if go else "")

    def close(self) -> None:
        """Free the synthesizer."""
        self.synth.close()
