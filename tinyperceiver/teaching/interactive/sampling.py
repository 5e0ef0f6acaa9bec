"""Chapter 11: what temperature and filters leave of a distribution."""

import html
import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tinyperceiver.music.vocabulary import NUM_EVENTS
from tinyperceiver.teaching.music import name_of
from tinyperceiver.teaching.style import BLUE, interactive, numbers_url

if TYPE_CHECKING:
    from IPython.display import HTML

TOP_K = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, NUM_EVENTS)  # the last keeps all
BARS = 40

LABEL = (
    "Bars: the probabilities of the forty likeliest tokens. Filled: after the filters. Outlined: "
    "before."
)
CAPTION = (
    "Dashed: the model's own distribution. Filled: what is left to draw from. Turn one knob at a "
    "time, then choose another context and see which knob follows it."
)

SCRIPT = """
const [context, says] = [controls.querySelector("select"), picture.querySelector(".says")];
const bytes = Uint8Array.from(atob(data.logits.split(",")[1]), (c) => c.charCodeAt(0));
const V = data.names.length, contexts = [...new Float32Array(bytes.buffer)];
const knob = (name) => controls.querySelector(`input[name=${name}]`);
const softmax = (z) => {
  const high = Math.max(...z), e = z.map((x) => Math.exp(x - high));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / sum);
};
function bar(place, share) {
  const tall = Math.min(share, 1) * 160;
  return `M${(8 + 15.6 * place).toFixed(1)} 176v${(-tall).toFixed(1)}h12v${tall.toFixed(1)}z`;
}
function draw() {
  const logits = contexts.slice(V * context.selectedIndex, V * (context.selectedIndex + 1));
  const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
  const before = softmax(logits);
  const T = +knob("t").value, k = data.topK[+knob("k").value];
  const topP = +knob("p").value, minP = +knob("m").value;
  let z = logits.map((x) => x / T);
  const drop = (isOut) => { z = z.map((x, i) => isOut(x, i) ? -Infinity : x); };
  const kth = z[order[Math.min(k, order.length) - 1]];
  drop((x) => x < kth);
  if (topP < 1) {
    const p = softmax(z), out = new Set();
    let sum = 0;
    for (const i of order) { if (sum >= topP) out.add(i); sum += p[i]; }
    drop((_, i) => out.has(i));
  }
  if (minP > 0) { const least = z[order[0]] + Math.log(minP); drop((x) => x < least); }
  const p = softmax(z), left = order.filter((i) => z[i] > -Infinity), high = before[order[0]];
  const most = Math.max(high, p[order[0]]);
  const shown = order.slice(0, data.bars);
  const path = (q) => shown.map((t, i) => q[t] > 0 ? bar(i, q[t] / most) : "").join("");
  picture.querySelector(".now").setAttribute("d", path(p));
  picture.querySelector(".before").setAttribute("d", path(before));
  const had = 100 * left.reduce((sum, i) => sum + before[i], 0);
  const nats = left.reduce((sum, i) => sum - p[i] * Math.log(p[i]), 0);
  const best = left.slice(0, 3).map((t) => `${data.names[t]} (${(100 * p[t]).toFixed(1)} %)`);
  says.textContent = `${left.length} of ${z.length} tokens are left, which had ` +
    `${had.toFixed(1)} % of the probability. A draw surprises by ${Math.abs(nats).toFixed(2)} ` +
    `nats on average. Likeliest: ${best.join(", ")}.`;
  const words = { t: T.toFixed(2), k: k < z.length ? `${k}` : "off",
    p: topP < 1 ? topP.toFixed(2) : "off", m: minP > 0 ? minP.toFixed(2) : "off" };
  for (const [name, text] of Object.entries(words)) {
    knob(name).nextElementSibling.textContent = text;
    knob(name).setAttribute("aria-valuetext", text);
  }
}
controls.addEventListener("input", draw);
draw();
"""


def filter_board(contexts: dict[str, Tensor]) -> "HTML":
    """Sliders over real distributions of the next token.

    Args:
        contexts: name -> logits of the next token, (V,).
    """
    picture = (
        f'<svg role="img" aria-label="{LABEL}" viewBox="0 0 640 200" '
        'style="display:block;width:100%;max-width:640px;min-width:min(640px,30em)" '
        'fill="currentColor" font-size="15">'
        '<path d="M8 176h624" stroke="currentColor"/><text x="8" y="194">likeliest</text>'
        f'<text x="632" y="194" text-anchor="end">number {BARS}</text>'
        f'<path class="now" fill="{BLUE}"/><path class="before" fill="none" '
        'stroke="currentColor" stroke-dasharray="3 2"/></svg>'
        '<p class="says" aria-live="polite" style="margin:.3em 0;min-height:4.6em"></p>'
    )
    row = 'style="display:block;margin:.2em 0"'
    options = "".join(f"<option>{html.escape(name)}</option>" for name in contexts)
    controls = f"<label {row}>after: <select>{options}</select></label>"
    for name, label, low, high, step, value in (
        ("t", "temperature", 0.1, 3, 0.05, 1),
        ("k", "top-k", 0, len(TOP_K) - 1, 1, len(TOP_K) - 1),
        ("p", "top-p", 0.05, 1, 0.01, 1),
        ("m", "min-p", 0, 0.5, 0.01, 0),
    ):
        controls += (
            f'<label {row}>{label} <input type="range" name="{name}" min="{low}" max="{high}" '
            f'step="{step}" value="{value}" style="width:12em;max-width:45%;'
            'vertical-align:middle"> <output></output></label>'
        )
    data = {
        "logits": numbers_url(torch.stack([z[:NUM_EVENTS] for z in contexts.values()]).numpy()),
        "names": [name_of(token) for token in range(NUM_EVENTS)],
        "topK": TOP_K,
        "bars": BARS,
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    script = f"const data = {text};\n{SCRIPT}"
    return interactive("filter-board", picture, controls, script, CAPTION)
