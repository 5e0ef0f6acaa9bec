"""Chapter 3: the bigram table row by row."""

import json
from typing import TYPE_CHECKING

import numpy as np

from tinyperceiver.music.vocabulary import NUM_EVENTS, TIME_SHIFT
from tinyperceiver.teaching.music import EDGES, KINDS, name_of
from tinyperceiver.teaching.style import BLUE, interactive

if TYPE_CHECKING:
    from IPython.display import HTML

LABEL = "Four bar charts: the probability of each next token, by kind of event"
CAPTION = (
    "Choose a kind, then move along the keys, waits or velocities. The highest bar fills its "
    "chart, and all four share its scale; bars below 0.3 % are left out."
)

SCRIPT = """
const [kind, which] = [controls.querySelector("select"), controls.querySelector("input")];
const known = Object.keys(data.totals).map(Number);
const of = (k) => known.filter((t) => t >= data.edges[k] && t < data.edges[k + 1]);
function draw() {
  const token = of(kind.selectedIndex)[+which.value], flat = data.rows[token];
  const row = flat.filter((_, i) => i % 2 == 0).map((next, i) => [next, flat[2 * i + 1]]);
  const most = Math.max(...row.map((pair) => pair[1]));
  let path = "";
  for (const [next, share] of row) {
    let k = 3;
    while (next < data.edges[k]) k--;
    const wide = 296 / (data.edges[k + 1] - data.edges[k]);
    const x = 12 + 320 * (k % 2) + (next - data.edges[k]) * wide, high = 96 * share / most;
    const foot = 120 + 128 * (k >> 1);
    path += `M${x.toFixed(1)} ${foot}v${(-high).toFixed(1)}h${wide.toFixed(1)}` +
      `v${high.toFixed(1)}z`;
  }
  picture.querySelector(".bars").setAttribute("d", path);
  const best = [...row].sort((a, b) => b[1] - a[1]).slice(0, 4);
  const then = best.map(([b, p]) => `${data.names[b]} (${(p / 10).toFixed(1)} %)`).join(", ");
  const total = data.totals[token].toLocaleString("en-US");
  picture.querySelector(".says").textContent =
    `After ${data.names[token]}, met ${total} times, most often: ${then}.`;
  controls.querySelector("output").textContent = data.names[token];
  which.setAttribute("aria-valuetext", data.names[token]);
}
function choose(token) {
  const tokens = of(kind.selectedIndex);
  which.max = tokens.length - 1;
  which.value = token === undefined ? tokens.length >> 1 : tokens.indexOf(token);
  draw();
}
kind.addEventListener("change", () => choose());
which.addEventListener("input", draw);
kind.selectedIndex = data.edges.findLastIndex((edge) => edge <= data.first);
choose(data.first);
"""


def next_token(counts: np.ndarray) -> "HTML":
    """The bigram table row by row: choose a token, see what comes after it.

    Args:
        counts: how often b followed a, (388, 388), [a, b]. Tokens that never come are
            left out.
    """
    totals = {a: total for a, total in enumerate(counts.sum(1).tolist()) if total}
    rows = {}
    for a, total in totals.items():
        p = counts[a] / total
        likely = np.flatnonzero(p >= 0.003).tolist()
        rows[a] = [number for b in likely for number in (b, round(1000 * float(p[b])))]
    data = {
        "rows": rows,
        "totals": totals,
        "names": [name_of(token) for token in range(NUM_EVENTS)],
        "edges": EDGES,
        "first": TIME_SHIFT + 9,  # wait 100 ms
    }
    frames = "".join(
        f'<text x="{x}" y="{y}">{kind}</text><path d="M{x} {y + 104}h296" stroke="currentColor"/>'
        for kind, (x, y) in zip(KINDS, ((12, 16), (332, 16), (12, 144), (332, 144)), strict=True)
    )
    picture = (
        f'<svg role="img" aria-label="{LABEL}" viewBox="0 0 640 256" fill="currentColor" '
        'style="display:block;width:100%;max-width:640px;min-width:min(640px,30em)" '
        f'font-size="16">{frames}<path class="bars" fill="{BLUE}"/></svg>'
        '<p class="says" aria-live="polite" style="margin:.3em 0;min-height:3.2em"></p>'
    )
    options = "".join(f"<option>{kind}</option>" for kind in KINDS)
    controls = (
        f"<label>the token before: <select>{options}</select></label> "
        '<label>which: <input type="range" min="0" step="1" style="width:14em;max-width:70%">'
        "</label> <output></output>"
    )
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    script = f"const data = {text};\n{SCRIPT}"
    return interactive("next-token", picture, controls, script, CAPTION)
