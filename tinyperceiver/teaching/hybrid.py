"""Chapter 6: the checkers of its exercises."""

from collections.abc import Callable

import torch
from torch import Tensor

from tinyperceiver.model.attention import attention_formula, causal_mask
from tinyperceiver.teaching.checking import Mistake, checker

__all__ = [
    "check_audit",
    "check_cheaper_mask",
    "check_hybrid_mask",
    "check_most_latents",
    "check_readers",
]


def _as_mask(answer: object, m: int, l: int) -> Tensor:
    """What an answer returned, as (l, m + l) booleans, or a `Mistake` in words."""
    try:
        if isinstance(answer, (list, tuple)):  # of lists, or of tensors
            answer = torch.stack([torch.as_tensor(row) for row in answer])
        mask = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        raise Mistake(
            f"for m = {m}, l = {l} it returns a {type(answer).__name__} that is no table: return "
            "l rows of m + l values, True or False, all rows of one length."
        ) from None
    if tuple(mask.shape) != (l, m + l):
        raise Mistake(
            f"for m = {m}, l = {l} the mask has the shape {tuple(mask.shape)}, not {(l, m + l)}: "
            "a row for each latent, a column for each position of the window."
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise Mistake("the mask holds other values than True and False.")
    return mask.bool()


@checker
def check_hybrid_mask(answer: Callable) -> str:
    for m, l in ((8, 4), (1, 3), (0, 5), (6, 1), (2, 7)):
        mask, right = _as_mask(answer(m, l), m, l), causal_mask(l, m + l)
        if torch.equal(mask, right):
            continue
        where = f"m = {m}, l = {l}"
        if torch.equal(mask, ~right):
            raise Mistake(
                f"for {where} True and False are exchanged: True is for a key that is seen."
            )
        if torch.equal(mask, torch.ones(l, m + l).tril().bool()):
            raise Mistake(
                f"for {where} the mask is aligned at the left: query 0 sees position 0 alone. But "
                f"it stands at position {m}. Count the queries' places from there."
            )
        if mask.all():
            raise Mistake(
                f"for {where} nothing is hidden: every latent sees the future."
            )
        if torch.equal(mask, right & ~torch.eye(l, m + l).roll(m, 1).bool()):
            raise Mistake(
                f"for {where} a latent does not see itself: compare with ≤, not with <."
            )
        i, j = (mask != right).nonzero()[0].tolist()
        word = "sees" if mask[i, j] else "does not see"
        raise Mistake(
            f"for {where} query {i}, which stands at position {i + m}, {word} position {j}."
        )
    return "Five windows, with an empty prefix and with a single latent among them."


@checker
def check_readers(answer: Callable) -> str:
    for j, m, l in ((9, 8, 4), (8, 8, 4), (11, 8, 4), (3, 8, 4), (0, 5, 2), (2, 0, 5)):
        try:
            found = [int(i) for i in answer(j, m, l)]
        except TypeError:
            raise Mistake(
                f"for j = {j}, m = {m}, l = {l} it returns no list of numbers."
            ) from None
        where = f"for j = {j}, m = {m}, l = {l} it returns {found}"
        right = list(range(max(0, j - m), l))
        if sorted(found) == right:
            continue
        if found == [int(j <= i + m) for i in range(l)]:
            raise Mistake(
                f"{where}, a column of the mask. Wanted are the numbers of the latents, those i "
                "for which it is True."
            )
        if m and sorted(found) == list(range(max(j, m), m + l)):
            raise Mistake(
                f"{where}, positions in the window. Latents are numbered from 0, at position m."
            )
        if any(i < 0 or i >= l for i in found):
            raise Mistake(
                f"{where}, and there are only the latents 0 to {l - 1}. A token of the prefix "
                "stands before all of them."
            )
        if len(set(found)) < len(found):
            raise Mistake(f"{where}: some latent is listed more than once.")
        if sorted(found) == right[1:] and j >= m:
            raise Mistake(
                f"{where}: latent {j - m} is missing, and it is the token itself."
            )
        if j < m:
            raise Mistake(f"{where}, but this token is in the prefix.")
        early = sorted(set(found) - set(right))
        if early:
            raise Mistake(
                f"{where}: latent {early[0]} stands before position {j}, at {early[0] + m}."
            )
        late = min(set(right) - set(found))
        raise Mistake(f"{where}: latent {late}, after position {j}, is missing.")
    return "A token of the prefix has l readers, the last token has one: itself."


def _stack_pairs(n: int, l: int, layers: int) -> int:
    return l * (n - l) + l * (l + 1) // 2 + layers * l * (l + 1) // 2


def _largest(cost: Callable, n: int, budget: int) -> int:
    return max((l for l in range(1, n + 1) if cost(l) <= budget), default=0)


@checker
def check_most_latents(answer: Callable) -> str:
    cases = ((6144, 18, 48_253_952), (6144, 18, 20_000_000), (1024, 3, 300_000), (12, 0, 42),
             (12, 18, 222), (12, 18, 221), (20, 2, 630), (20, 18, 19))  # fmt: skip
    for n, layers, budget in cases:
        right = _largest(lambda l, n=n, k=layers: _stack_pairs(n, l, k), n, budget)
        where = f"for n = {n:,}, {layers} layers above and {budget:,} pairs"
        try:
            found = answer(n, layers, budget)
        except Mistake:  # None
            if right:
                raise
            raise Mistake(
                f"{where} not even one latent fits: return 0 then, not None."
            ) from None
        if found == right:
            continue
        if not isinstance(found, int):
            raise Mistake(
                f"{where} it returns a {type(found).__name__}, not a whole number."
            )
        wrong = {
            "the layers above layer 1 are not counted": lambda l, n=n: _stack_pairs(
                n, l, 0
            ),
            "hidden pairs are counted, whole rectangles": lambda l, n=n, k=layers: (
                l * n + k * l * l
            ),
            "the layers above are charged for the prefix": (
                lambda l, n=n, k=layers: (k + 1) * _stack_pairs(n, l, 0)
            ),
            "a layer were missing (`layers` are those above layer 1)": (
                lambda l, n=n, k=layers: _stack_pairs(n, l, k - 1)
            ),
        }
        for reason, cost in wrong.items():
            if layers and found == _largest(cost, n, budget):
                raise Mistake(f"{where} {found:,} latents come out, as if {reason}.")
        if found < 0 or found > n:
            raise Mistake(f"{where} it returns {found:,}: l is between 0 and n.")
        spent = _stack_pairs(n, found, layers)
        if spent > budget:
            raise Mistake(
                f"{where} it returns {found:,}, which costs {spent:,} pairs: too many."
            )
        raise Mistake(
            f"{where} it returns {found:,}, and one latent more would still fit."
        )
    return "48,253,952 pairs buy 2,048 latents in a window of 6,144: the released model's shape."


def _toy_layer(
    see: Callable[[int, int], Tensor], normed: bool = False
) -> Callable[[Tensor, Tensor], Tensor]:
    """A layer with fixed weights: `see(l, n)` is its mask."""

    def layer(x: Tensor, prefix: Tensor) -> Tensor:
        context = torch.cat((prefix, x), dim=1)
        if normed:
            context = torch.nn.functional.layer_norm(context, context.shape[-1:])
        l, n = x.size(1), context.size(1)
        # The sums make a sum of the output tell more than the zero that a norm leaves.
        values = context.cumsum(dim=-1)
        return attention_formula(context[:, n - l :], context, values, see(l, n))

    return layer


def _but(i: int, j: int, sees: bool) -> Callable[[int, int], Tensor]:
    """The hybrid mask but for one place: query i and the position j after the prefix."""

    def see(l: int, n: int) -> Tensor:
        mask = causal_mask(l, n)
        if i < l and 0 <= n - l + j < n:
            mask[i, n - l + j] = sees
        return mask

    return see


def _everything(l: int, n: int) -> Tensor:
    return torch.ones(l, n, dtype=torch.bool)


def _prefix_and_self(l: int, n: int) -> Tensor:
    return (torch.arange(n) < n - l) | torch.eye(n, dtype=torch.bool)[n - l :]


def _faint(x: Tensor, prefix: Tensor) -> Tensor:
    out = _toy_layer(causal_mask)(x, prefix)
    return out - 0.0001 * x.sum(dim=1, keepdim=True)


def _late(x: Tensor, prefix: Tensor) -> Tensor:
    """Every output stands one place too late, and hears what is before its own token."""
    m, none = prefix.size(1), torch.zeros_like(x[:, :1])
    window = torch.cat((none, prefix, x[:, :-1]), dim=1)
    return _toy_layer(causal_mask)(window[:, m:], window[:, :m])


def _rounded(x: Tensor, prefix: Tensor) -> Tensor:
    out, total = _toy_layer(causal_mask)(x, prefix), x.sum(dim=1, keepdim=True)
    return (out + total) - total


AUDITS = (
    (_toy_layer(causal_mask), "fine",
     "An output may move with its own token, and must move with all before it."),
    (_toy_layer(_everything), "leaks", "In that layer all latents see all."),
    (_toy_layer(_but(0, 1, True)), "leaks",
     "In that layer latent 0 sees latent 1, and nothing else is wrong. Changing only the last "
     "latent does not find it: change each."),
    (_toy_layer(_but(1, 4, True)), "leaks",
     "In that layer latent 1 sees latent 4. Look at all outputs before the token that you have "
     "changed, not at the nearest or the first alone."),
    (_faint, "leaks", "That leak is weak: some outputs move by a few ten-thousandths, which is "
     "well above rounding."),
    (_toy_layer(causal_mask, normed=True), "fine",
     "That layer begins with a LayerNorm, which takes away the scale of a token and whatever all "
     "its channels have in common. Change tokens in another way."),
    (_toy_layer(_but(2, 3, True), normed=True), "leaks",
     "Latent 2 of that layer sees latent 3, behind a LayerNorm."),
    (_toy_layer(lambda l, n: torch.ones(l, n).tril().bool()), "deaf",
     "Its mask is aligned at the left: the future is hidden, and most of the past as well."),
    (_toy_layer(_prefix_and_self), "deaf",
     "It hears the prefix and each token itself, but not the latents between."),
    (_toy_layer(_but(3, -4, False)), "deaf",
     "One latent does not hear one token of the prefix: change tokens of the prefix as well, and "
     "look at each output."),
    (_late, "deaf", "Each output hears what stands before its token, but not the token. By the "
     "mask its own token is heard, too."),
    (_toy_layer(lambda l, n: torch.arange(n) >= torch.arange(n - l, n)[:, None]), "leaks",
     "That layer hears the future, and is deaf to the past as well. A leak comes first."),
    (_rounded, "fine", "In that layer some outputs move with the future, but by rounding alone."),
)  # fmt: skip


@checker
def check_audit(answer: Callable) -> str:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, 8, generator=random)
    prefix = torch.randn(1, 7, 8, generator=random)
    for layer, right, why in AUDITS:
        found = answer(layer, x, prefix)
        if not isinstance(found, str) or found not in ("leaks", "deaf", "fine"):
            raise Mistake(
                f'it returns {found!r}, not one of the words "leaks", "deaf" and "fine".'
            )
        if found != right:
            raise Mistake(
                f'one of the layers is to be called "{right}", and you say "{found}". {why}'
            )
    return (
        f"{len(AUDITS)} layers told apart, six of which leak and four of which are deaf. "
        "Run it on any layer that you write."
    )


@checker
def check_cheaper_mask(answer: Callable) -> str:
    share = 0.0
    for m, l in ((64, 16), (200, 8), (64, 64), (100, 50)):
        mask, full, where = (
            _as_mask(answer(m, l), m, l),
            causal_mask(l, m + l),
            f"m = {m}, l = {l}",
        )
        if (mask & ~full).any():
            i, j = (mask & ~full).nonzero()[0].tolist()
            raise Mistake(
                f"for {where} query {i}, at position {i + m}, sees position {j}: the future leaks."
            )
        own = mask.diagonal(m)
        if not own.all():
            raise Mistake(
                f"for {where} latent {int((~own).nonzero()[0])} does not see itself."
            )
        unread = (~mask.any(dim=0)).nonzero().flatten()
        if len(unread):
            raise Mistake(
                f"for {where} nobody reads {len(unread)} tokens of the prefix, the first of them "
                f"at position {int(unread[0])}: what stands there is forgotten."
            )
        neighbours = mask.diagonal(m - 1)
        if not neighbours.all():
            i = int((~neighbours).nonzero()[0])
            raise Mistake(f"for {where} latent {i} does not see the token before it.")
        used = int(mask.sum()) / int(full.sum())
        if used > 0.5:
            raise Mistake(
                f"for {where} {used:.0%} of the pairs are left, and half of them are allowed."
            )
        share = max(share, used)
        reads = mask[:, :m].sum(dim=1)
    return (
        f"No leak, no token of the prefix unread, and at most {share:.0%} of the pairs. Of a "
        f"prefix of {m} a latent reads {int(reads.min())} to {int(reads.max())} tokens."
    )
