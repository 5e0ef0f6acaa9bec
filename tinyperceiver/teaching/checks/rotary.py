"""Chapter 4: the exercises on the rotation."""

import math

import torch

from tinyperceiver.model.rotary import apply_rotation, rotation_at
from tinyperceiver.teaching.checking import Mistake, exercise, same

__all__ = ["long_rotation", "period", "to_halves", "turn_back", "turn_pair"]


@exercise(
    "One arrow",
    cases=[
        (0.3, -1.2, 0.7),
        (1.0, 0.0, math.pi / 2),
        (2.0, 5.0, -2.5),
        (1, 2, 0),
        (-0.4, 0.8, 1.1),
        (0.0, 1.0, -0.4),
    ],
    returns="two numbers, the new x and the new y, with a comma between them",
    about="({x:g}, {y:g}) turned by {angle:.3g} became ({got[0]:.3g}, {got[1]:.3g}).",
    wrong="The length is right, the direction is not.",
    praise="Six arrows turned, and each kept its length.",
)
def turn_pair(x, y, angle):
    """
    Write `turn_pair(x, y, angle)`, without tensors: `x` and `y` are numbers, the tip of an
    arrow that starts at (0, 0), and `angle` is in radians, positive for counter-clockwise.
    Return the new `x` and the new `y`, two numbers.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    # Both sums need the old x and y: neither may be overwritten before both are done.
    return x * cos - y * sin, x * sin + y * cos


turn_pair.mistakes |= {
    "The new x has overwritten the old one before y was computed: both need the old x.": {
        "return x * cos - y * sin, x * sin + y * cos": "x = x * cos - y * sin\n"
        "    return x, x * sin + y * cos",
    },
    "That is the wrong way round: a positive angle turns counter-clockwise, so (1, 0) goes up, "
    "not down.": {"math.sin(angle)": "-math.sin(angle)"},
    "That is a turn by so many degrees: the angle is in radians.": {
        "cos, sin =": "angle = math.radians(angle)\n    cos, sin ="
    },
    "Both numbers are right, in the wrong order: the new x comes first.": {
        "x * cos - y * sin, x * sin + y * cos": "x * sin + y * cos, x * cos - y * sin"
    },
    "x and y have changed places: this is what (y, x) turns into.": {
        "x * cos - y * sin, x * sin + y * cos": "y * cos - x * sin, y * sin + x * cos"
    },
}


@turn_pair.mistake(
    "The arrow points exactly backwards. If you ask y / x where it points: (1, −2) and (−1, 2) "
    "have the same quotient."
)
def _(x, y, angle):
    length = math.hypot(x, y)
    start = math.atan(y / x) if x else math.copysign(math.pi / 2, y)
    return length * math.cos(start + angle), length * math.sin(start + angle)


@turn_pair.diagnose
def _(got, expected, x, y, angle):
    before, after = math.hypot(x, y), math.hypot(*got)
    if abs(after - before) > 1e-6:
        return f"A turn keeps the length, which was {before:.3g} and is {after:.3g}."


turn_pair.caught |= {
    "returns a complex": lambda x, y, angle: complex(x, y) * complex(math.cos(angle)),
    "keeps the length, which was 1.24": lambda x, y, angle: (x + angle, y),
    "the direction is not": {"math.cos(angle), math.sin(angle)": "0.6, 0.8"},
}


@exercise(
    "How long is a turn?",
    cases=[(47, 96, 10_000.0), (0, 96, 10_000.0), (5, 64, 500.0)],
    about="{call} is {got:.4g}.",
    wrong="Multiply it by the pair's speed: a whole turn should come out.",
    praise="From 6.28 tokens for the first of 48 pairs to 51,862 for the last. Did you "
    "guess? With a base of a million the first keeps its 6.28 and the last needs 4.7 "
    "million: the slower a pair, the more it gains.",
    tolerance=1e-4,
)
def period(pair, head_dim, base):
    """
    Write `period(pair, head_dim, base)`: in how many tokens does channel pair `pair` (0 for
    the first) of a head with `head_dim` channels turn once round? Return a number.

    Before you check it, guess: if the base were a million instead of ten thousand, which
    pairs' periods would grow most, those of the fast or of the slow? The verdict tells.
    """
    speed = base ** (-2 * pair / head_dim)  # radians per token
    return 2 * math.pi / speed  # a whole turn is 2 pi radians


period.mistakes |= {
    "That is the speed, in radians a token. How many tokens does a whole turn take?": {
        "2 * math.pi / speed": "speed"
    },
    "In that many tokens the pair turns by one radian; a whole turn has more of them.": {
        "2 * math.pi / speed": "1 / speed"
    },
    "The exponent is half of what it should be: pair i begins at channel 2i.": {"-2 *": "-1 *"},
    "The base is not used: it is an argument, too.": {"base **": "10_000 **"},
    "The faster a pair, the shorter its period; here it is longer.": {"/ speed": "* speed"},
}


def _turned():
    """Queries that have been turned, (B, H, n, d), and their positions, (B or 1, n)."""
    for positions, shape in (
        (torch.arange(6)[None], (2, 3, 6, 8)),
        (torch.tensor([[3, 900, 41], [7, 0, 6000]]), (2, 1, 3, 16)),
    ):
        yield apply_rotation(torch.randn(shape), rotation_at(positions, shape[-1])), positions


@exercise(
    "Turn it back",
    cases=_turned,
    wrong="what comes back is not the original: {difference}",
    praise="Turned there and back, every channel is off by less than 0.0001.",
    tolerance=1e-4,
)
def turn_back(x, positions):
    """
    Somebody has turned queries with `apply_rotation(x, rotation_at(positions, d))` and
    thrown the original away. Write `turn_back(x, positions)`, which restores it: `x` are the
    turned queries, (B, H, n, d), and `positions` are the same integers as before, (B or 1,
    n). Return a tensor like `x`. Use the functions of this chapter.
    """
    # Turning by −a undoes turning by a; the positions may as well be negative.
    return apply_rotation(x, rotation_at(-positions, x.size(-1)))


turn_back.mistakes |= {
    "turn_back gives back what it got: nothing has turned.": lambda x, positions: x,
    "turn_back turns forward once more: position 3 is now turned as position 6 would be.": {
        "-positions": "positions"
    },
    "every channel comes back with the wrong sign. Turning the other way leaves the cosines "
    "alone, since cos(−a) = cos(a), and `x` as well.": {"(x, rotation_at": "(-x, rotation_at"},
    "what comes back is turned forward once more, and has the wrong sign. Of cosines, sines and "
    "`x`, turning back changes one.": {"x, rotation_at(-": "-x, rotation_at("},
    "these tokens are turned back as if they stood at 0, 1, 2, …; they stand at `positions`.": {
        "-positions": "-torch.arange(x.size(2))[None]"
    },
    "the right angles, the wrong channels: these are the pairs (i, i + d/2), and "
    "`apply_rotation` turned (0, 1), (2, 3), …": {"return apply_rotation": "return _turn_halves"},
}
turn_back.caught |= {"each row has": {"-positions": "-positions[:1]"}}


@turn_back.diagnose
def _(got, expected, x, positions):
    if same(got[0], expected[0], 1e-4):
        return (
            "the first row of the batch is right, the second is not: each row has positions of "
            "its own."
        )


def _turn_halves(x, rotation):
    """The other layout: channel i turns with channel i + d / 2."""
    cos, sin = (part[:, None] for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


@exercise(
    "Move the weights to the other layout",
    cases=lambda: [(torch.randn(D, D), H) for D, H in ((12, 1), (16, 2), (32, 4))],
    wrong="some rows of the new weight are not where they should be. Partners (2i, 2i + 1) "
    "of a head must become (i, i + d/2).",
    praise="With 1, 2 and 4 heads, the halves layout now gives the scores of the interleaved one.",
)
def to_halves(weight, num_heads):
    """
    You want to run interleaved weights in a library that turns halves. `weight`, (D, D),
    makes the queries (or keys) of `num_heads` heads at once: `x @ weight.T`. Its rows are
    channels: the first d = D / `num_heads` rows are those of the first head, the next d those
    of the second, and so on; each head turns its own pairs. Write
    `to_halves(weight, num_heads)`, which returns the same rows in another order, so that the
    halves layout gives all scores that the interleaved one gave.
    """
    heads = weight.unflatten(0, (num_heads, -1))  # (H, d, D)
    # Row i of the new order is channel 2i, its partner i + d/2 is channel 2i + 1.
    return torch.cat((heads[:, 0::2], heads[:, 1::2]), dim=1).flatten(0, 1)


to_halves.mistakes |= {
    "the weight comes back as it was: nothing has moved.": lambda weight, num_heads: weight,
    "the columns have moved. The channels of a query are the rows of the weight; its columns are "
    "the channels of x.": lambda w, num_heads: torch.cat((w[:, 0::2], w[:, 1::2]), dim=1),
    "rows have moved from head to head. Each of the {num_heads} heads has rows of its own, and "
    "pairs are made within a head.": lambda w, num_heads: torch.cat((w[0::2], w[1::2])),
    "the odd channels stand first: the x and y of every arrow have changed places, so that it "
    "turns the other way.": {"0::2": "1::2", "1::2": "0::2"},
    "this is the way back, from halves to interleaved. Ask of each new row: which old row must "
    "stand here?": {
        "torch.cat((heads[:, 0::2], heads[:, 1::2]), dim=1).flatten(0, 1)": "torch.stack("
        "heads.chunk(2, dim=1), dim=2).flatten(0, 2)"
    },
}
to_halves.caught |= {
    "heads have changed places": {"(0, (num_heads, -1))": "(0, (num_heads, -1)).flip(0)"},
    "does not hold the same rows": lambda weight, num_heads: weight.T,
    "The scores agree": {"heads[:, 0::2], heads[:, 1::2]": "-heads[:, 1::2], heads[:, 0::2]"},
}


@to_halves.diagnose
def _(got, expected, weight, num_heads):
    heads = [part.unflatten(0, (num_heads, -1)) for part in (got, expected)]  # (H, d, D)
    if all(any(torch.equal(new, right) for right in heads[1]) for new in heads[0]):
        return (
            "within each head the rows are right, but the heads have changed places: what "
            "were the first head's rows must stay the first d."
        )
    found = (got[:, None] == weight).all(dim=-1)  # (D, D): is this new row that old one?
    if not (found.sum(0) == 1).all() or not (found.sum(1) == 1).all():
        x = torch.randn(5, len(weight))
        rotation = rotation_at(torch.arange(5)[None], len(weight) // num_heads)
        scores = []
        for part in (got, expected):
            query = (x @ part.T.to(x)).unflatten(-1, (num_heads, -1)).transpose(0, 1)[None]
            turned = _turn_halves(query, rotation)
            scores.append(turned @ turned.mT)
        if same(*scores, 1e-4):
            return (
                "The scores agree, but some rows are none of the old ones: nothing needs to "
                "be computed here, they need only another order."
            )
        return (
            "the new weight does not hold the same rows in another order. Nothing needs to "
            "be computed here."
        )


@exercise(
    "Longer than it has learnt",
    praise="At 3, 4 and 8 times the length distance alone counts, each pair is slower than "
    "the one before, and no slow pair goes too far.",
    returns="two tensors, cosines and sines",
)
def long_rotation(n, head_dim, trained):
    """
    *Open.* A model has been trained on windows of `trained` tokens with `rotation_at`, and
    you want it to read `n`, up to eight times as many. Over the longer window the slow pairs
    reach angles that it has never met. Write `long_rotation(n, head_dim, trained)`: cosines
    and sines for positions 0 to n − 1, each (1, n, head_dim / 2), such that

    - distance alone counts: cosines and sines are off by less than 0.001;
    - position 0 does not turn, and each pair turns more slowly than the one before;
    - a window of up to `trained` tokens is turned as it always was;
    - in a longer one, a pair that made less than one turn in `trained` tokens goes no farther
      in `n` than it went in `trained`, and at least a tenth as far;
    - the fastest pair still turns by 0.1 radians a token or more.

    There are several ways. Which one a trained model likes best is a question for
    measurements.
    """
    # Squeeze the positions into the range that the model knows: all pairs turn more
    # slowly. With a larger base instead, the fast pairs nearly keep their speed; that
    # is another right answer, if it slows all slow pairs enough and stops none.
    squeeze = min(1, trained / n)  # a third, say: float64 keeps more of its digits
    return rotation_at(torch.arange(n)[None].double() * squeeze, head_dim)


@long_rotation.judge
def _(answer):
    for head_dim, trained, n in (
        (32, 512, 512),
        (32, 512, 200),
        (32, 512, 2048),
        (96, 1024, 3072),
        (32, 512, 4096),
    ):
        plain = rotation_at(torch.arange(n)[None], head_dim)
        found = long_rotation.expect(answer(n, head_dim, trained), plain)
        cos, sin = (part[0].double() for part in found)  # (n, d / 2)
        if not same(cos**2 + sin**2, torch.ones_like(cos), 1e-4):
            raise Mistake("cos² + sin² is not 1: these are no longer rotations.")
        speed = _speed(cos, sin)
        if n > trained:
            _judge_long(cos, sin, speed, trained)
        elif not same((cos, sin), (plain[0][0], plain[1][0]), 1e-3):
            raise Mistake(
                f"{n} tokens fit into the {trained} of the training, and yet the rotation "
                "has changed: short windows should stay as the model knows them."
            )


def _speed(cos, sin):
    """Radians a token of each pair, (d / 2): the same from every token to the next."""
    n = len(cos)
    step_cos = cos[1:] * cos[:-1] + sin[1:] * sin[:-1]  # (n - 1, d / 2)
    step_sin = sin[1:] * cos[:-1] - cos[1:] * sin[:-1]
    speed = torch.atan2(step_sin, step_cos).mean(dim=0)
    steady = torch.arange(n).double()[:, None] * speed  # angles from token 0 on
    off_cos = cos * cos[0] + sin * sin[0] - steady.cos()
    off_sin = sin * cos[0] - cos * sin[0] - steady.sin()
    if max(off_cos.abs().max(), off_sin.abs().max()) <= 1e-3:
        return speed
    uneven = ((step_cos - step_cos[0]).abs() + (step_sin - step_sin[0]).abs()).amax(dim=1)
    place = int((uneven > 0.5 * uneven.max()).nonzero()[0])
    here, there, first = (torch.stack((cos[p], sin[p])) for p in (place, place + 1, 0))
    if same(here, there, 1e-4):
        raise Mistake(
            f"tokens {place} and {place + 1} are turned alike, so the model cannot tell "
            "which of them came first."
        )
    if same(there, first, 1e-4):
        raise Mistake(
            f"token {place + 1} is turned as token 0 is, so the model takes the newest "
            "tokens for the oldest."
        )
    raise Mistake(
        f"distance alone no longer counts: from token {place} to {place + 1} the pairs turn "
        "by another angle than from 0 to 1."
    )


def _judge_long(cos, sin, speed, trained):
    """Judge cosines and sines, (n, d / 2), of a window longer than those of the training."""
    n, pairs = cos.shape
    known = 10_000.0 ** (-torch.arange(pairs).double() / pairs) * trained  # radians, then
    reach = speed * (n - 1)
    with_window = f"with a window of {n:,} tokens"
    if cos[0].min() < 0 or sin[0].abs().max() > 1e-3:
        raise Mistake(f"{with_window} position 0 has turned already; its angles should be 0.")
    if (reach < -1e-3).any():
        pair = int((reach < -1e-3).nonzero()[0])
        raise Mistake(
            f"{with_window} pair {pair} turns clockwise: the model would take what came "
            "before for what comes after."
        )
    is_slow = known < 2 * math.pi  # fast pairs have seen every angle
    strange = is_slow & (reach > 1.001 * known)
    if strange.any():
        pair = int(strange.nonzero()[-1])
        raise Mistake(
            f"over {n:,} tokens pair {pair} turns by {reach[pair]:.2g} radians, past the "
            f"{known[pair]:.2g} that it reached over the {trained:,} of the training: the "
            "model has never met such an angle."
        )
    if 0 <= speed.max() < 0.1:
        raise Mistake(
            "even the fastest pair turns by less than 0.1 radians a token: neighbours can "
            "hardly be told apart."
        )
    idle = is_slow & (reach < 0.1 * known)
    if idle.any():
        pair = int(idle.nonzero()[-1])
        raise Mistake(
            f"over {n:,} tokens pair {pair} turns by {reach[pair]:.2g} radians; over the "
            f"{trained:,} of the training it was {known[pair]:.2g}, and a tenth of that is "
            "the least. A pair that hardly turns cannot tell far from near."
        )
    if (speed[1:] >= speed[:-1]).any():
        pair = int((speed[1:] >= speed[:-1]).nonzero()[0]) + 1
        raise Mistake(
            f"{with_window} pair {pair} turns by {speed[pair]:.2g} radians a token and pair "
            f"{pair - 1} by {speed[pair - 1]:.2g}: each pair should turn more slowly than "
            "the one before."
        )


long_rotation.caught |= {
    "never met such an angle": {" * squeeze": ""},
    "turned alike": {".double() * squeeze": ".clamp(max=trained - 1)"},
    "as token 0 is": {".double() * squeeze": " % trained"},
    "short windows should stay": {".double() * squeeze, head_dim": ", head_dim, base=1e7"},
    "hardly be told apart": {"min(1, trained / n)": "1 if n <= trained else 0.01"},
    "200 tokens fit": {"min(1, trained / n)": "trained / n"},
    "a tenth of that is the least": {
        ".double() * squeeze, head_dim": ", head_dim, base=10_000.0 if n <= trained else 1e9"
    },
    "turns clockwise": {"min(1, trained / n)": "1 if n <= trained else -trained / n"},
    "no longer rotations": lambda n, head_dim, trained: (torch.ones(1, n, head_dim // 2),) * 2,
}


@long_rotation.catch("distance alone no longer counts: from token")
def _(n, head_dim, trained):
    positions = torch.arange(n)[None].double()
    squeezed = trained * torch.tanh(positions / trained)
    return rotation_at(positions if n <= trained else squeezed, head_dim)


@long_rotation.catch("position 0 has turned already")
def _(n, head_dim, trained):
    start, squeeze = (0, 1) if n <= trained else (5, trained / (n + 5))
    return rotation_at((start + torch.arange(n)[None]).double() * squeeze, head_dim)


@long_rotation.catch("more slowly than the one before")
def _(n, head_dim, trained):
    speed = 10_000 ** (-torch.arange(0, head_dim, 2).double() / head_dim)
    if n > trained:
        fast = speed * trained >= 2 * math.pi
        speed = torch.where(fast, 1.0, speed * trained / n)
    angle = torch.arange(n)[None, :, None] * speed
    return angle.cos().float(), angle.sin().float()


@long_rotation.catch("distance alone no longer counts")
def _(n, head_dim, trained):
    cos, sin = long_rotation.solution(n, head_dim, trained)
    if n > trained:  # the last pair turns unevenly, and never by much
        place = torch.arange(n) / (n - 1)
        angle = place**2 * 10_000 ** (2 / head_dim - 1) * trained
        cos[0, :, -1], sin[0, :, -1] = angle.cos(), angle.sin()
    return cos, sin
