"""Chapter 2: a playhead over the piano roll, and the tokens of its moment."""

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinyperceiver.music.tokenizer import decode_midi
from tinyperceiver.music.vocabulary import STEPS_PER_SECOND
from tinyperceiver.sound.encoding import mp3_bytes
from tinyperceiver.teaching.music import name_of, pitch_name, times_of
from tinyperceiver.teaching.style import BLUE, GREEN, interactive

if TYPE_CHECKING:
    from IPython.display import HTML
    from pretty_midi import PrettyMIDI

ROWS = 11  # tokens in sight
LINE = 'stroke="currentColor" vector-effect="non-scaling-stroke"'

SCRIPT = """
const {tokens, notes, names} = DATA;
const last = tokens.length - 1, end = tokens[last][3];
const slider = controls.querySelector("input"), told = controls.querySelector("output");
const audio = picture.querySelector("audio"), say = picture.querySelector(".say");
const head = picture.querySelector(".head"), items = picture.querySelectorAll("li");
const bars = picture.querySelectorAll(".note"), keys = picture.querySelectorAll(".key");
const isWait = i => tokens[i][3] > tokens[i][2];
let playing = 0;

function draw(step) {
  let to = last;                       // the last token whose moment has come
  while (to > 0 && tokens[to][2] > step) to--;
  let from = to;                       // with the events since the wait before
  while (from > 0 && !isWait(from - 1)) from--;
  const rows = items.length;
  const first = Math.max(0, to - rows + 1, Math.min(from - 3, last + 1 - rows));
  items.forEach((item, row) => {
    const i = first + row, now = i >= from && i <= to;
    item.firstChild.textContent = tokens[i][0];
    item.lastChild.textContent = tokens[i][1];
    item.style.borderColor = now ? "currentColor" : "transparent";
    item.style.fontWeight = now ? 700 : 400;
    item.style.opacity = now ? 1 : 0.75;
  });
  const sounding = new Set();
  notes.forEach(([start, stop, pitch], i) => {
    const now = start <= step && step < stop;
    if (now) sounding.add(pitch);
    bars[i].setAttribute("stroke-opacity", now ? 1 : 0);
    bars[i].setAttribute("fill-opacity", now ? 1 : 0.45);
  });
  keys.forEach(key => key.setAttribute("fill-opacity",
    sounding.has(Number(key.dataset.pitch)) ? 1 : 0));
  head.setAttribute("transform", `translate(${step})`);
  const heard = [...sounding].sort((a, b) => a - b).map(pitch => names[pitch]);
  const seconds = (step / 100).toFixed(2) + " s";
  const said = tokens.slice(from, to + 1).map(token => token[1]).join(", ");
  say.textContent = `At ${seconds}: ${said}. Sounding: ${heard.join(", ") || "nothing"}.`;
  told.textContent = seconds;
  slider.value = step;
  slider.setAttribute("aria-valuetext", seconds);
}
function seek(step) {
  audio.currentTime = step / 100;
  draw(step);
}
function follow() {
  draw(Math.min(end, Math.floor(audio.currentTime * 100)));
  if (!audio.paused && !audio.ended) playing = requestAnimationFrame(follow);
}
slider.addEventListener("input", () => seek(Number(slider.value)));
const moments = [...new Set(tokens.map(token => token[2])), end];
controls.querySelector(".back").addEventListener("click", () =>
  seek(moments.filter(moment => moment < slider.value).pop() ?? 0));
controls.querySelector(".on").addEventListener("click", () =>
  seek(moments.find(moment => moment > slider.value) ?? end));
audio.addEventListener("play", () => {
  say.setAttribute("aria-live", "off");  // or it would speak over the music
  cancelAnimationFrame(playing);
  follow();
});
audio.addEventListener("pause", () => say.setAttribute("aria-live", "polite"));
draw(Number(slider.value));
"""


def scrub(
    midi: "PrettyMIDI", tokens: Sequence[int], name: str, at: float = 0.0, caption: str = ""
) -> "HTML":
    """A piano roll with a playhead to be moved, and the tokens of that moment.

    Args:
        midi: what is heard, with notes and pedal.
        tokens: what is shown, at least 11, with every note ended.
        name: of the element, once on a page.
        at: where the playhead stands at first, in seconds.
        caption: what to try; HTML.
    """
    steps = times_of(tokens).tolist()
    notes = [
        (round(STEPS_PER_SECOND * note.start), round(STEPS_PER_SECOND * note.end), note.pitch)
        for note in decode_midi(tokens).instruments[0].notes
    ]
    row = (
        '<li style="border-left:.25em solid transparent;padding:0 .5em">'
        '<span style="display:inline-block;width:2.6em;font-family:monospace"></span>'
        "<span></span></li>"
    )
    mp3 = base64.b64encode(mp3_bytes(midi)).decode()
    picture = (
        '<div style="display:flex;flex-wrap:wrap;gap:.5em 1em">'
        '<div style="flex:1 1 17em;min-width:0;position:relative;padding-left:2.2em">'
        f"{_roll(notes, steps[-1])}</div>"
        '<ol aria-label="Tokens around the playhead" style="flex:0 0 13em;list-style:none;'
        f'margin:0;padding:0;font-size:.9em;line-height:1.6">{row * ROWS}</ol></div>'
        '<p class="say" aria-live="polite" style="min-height:3em;margin:.4em 0"></p>'
        '<audio controls preload="metadata" aria-label="The same passage" '
        f'style="width:100%;max-width:36rem" src="data:audio/mpeg;base64,{mp3}"></audio>'
    )
    controls = (
        '<div style="display:flex;flex-wrap:wrap;gap:.5em;align-items:center">'
        '<button type="button" class="back">◂ event before</button>'
        '<label style="flex:1 1 12em;display:flex;gap:.5em">Time '
        f'<input type="range" min="0" max="{steps[-1]}" value="{round(STEPS_PER_SECOND * at)}" '
        'style="flex:1"></label><output style="min-width:4em"></output>'
        '<button type="button" class="on">event after ▸</button></div>'
    )
    rows = zip(map(int, tokens), map(name_of, tokens), steps, steps[1:], strict=False)
    names = {pitch: pitch_name(pitch) for _, _, pitch in notes}
    data = {"tokens": list(rows), "notes": notes, "names": names}
    script = SCRIPT.replace("DATA", json.dumps(data, separators=(",", ":")), 1)
    return interactive(name, picture, controls, script, caption)


def _roll(notes: Sequence[tuple[int, int, int]], end: int) -> str:
    """Keyboard and notes as an SVG that stretches; the octaves' names keep their size."""
    low, high = min(note[2] for note in notes) - 2, max(note[2] for note in notes) + 2
    height, wide = 10 * (high - low + 1), end // 16
    keys = names = ""
    for pitch in range(low, high + 1):
        y, shade = 10 * (high - pitch), 0.5 if pitch % 12 in (1, 3, 6, 8, 10) else 0.08
        key = f'<rect x="{-wide}" width="{wide * 0.9:g}"'
        keys += (
            f'{key} y="{y}" height="10" fill="currentColor" fill-opacity="{shade}" '
            f'{LINE} stroke-opacity=".4" stroke-width=".6"/>{key} class="key" '
            f'data-pitch="{pitch}" y="{y + 1}" height="8" fill="{GREEN}" fill-opacity="0"/>'
        )
        if pitch % 12 == 0:
            names += (
                '<span aria-hidden="true" style="position:absolute;left:0;font-size:.75em;'
                f'line-height:1;margin-top:-.5em;top:{(y + 5) / height:.1%}">'
                f"C{pitch // 12 - 1}</span>"
            )
    bars = "".join(
        f'<rect class="note" x="{start}" y="{10 * (high - pitch) + 1}" width="{stop - start}" '
        f'height="8" fill="{BLUE}" {LINE} stroke-width="1.5" stroke-opacity="0"/>'
        for start, stop, pitch in notes
    )
    label = (
        f"Piano roll of {len(notes)} notes in {end / STEPS_PER_SECOND:.1f} seconds with a "
        "playhead; the keyboard at its left shows the keys that sound."
    )
    return (
        f'<svg role="img" aria-label="{label}" viewBox="{-wide} 0 {wide + end} {height}" '
        f'preserveAspectRatio="none" style="display:block;width:100%;height:15em">{keys}{bars}'
        f'<path class="head" d="M0 0V{height}" {LINE} stroke-width="2"/></svg>{names}'
    )
