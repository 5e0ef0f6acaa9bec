"""Which recordings are held out, so that a model can be measured on music that it has not seen."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "RULE_FOR_MANY",
    "RULE_FOR_OWN",
    "Row",
    "Rule",
    "hold_out_few_of_many",
    "hold_out_of_own",
]

# 2 % of the full set are some 200 recordings and 3 million tokens: enough to tell models
# apart that differ by 0.01 nats a token, and little enough for the training to miss.
VALID_SHARE = 0.02
# prepare_folder holds out a tenth of the recordings, and at least two, so that the
# measurement does not rest on one odd piece. With fewer than ten recordings that would
# leave too little to train on, so the end of each recording is held out instead.
OWN_SHARE, OWN_LEAST, FEW, END_SHARE = 0.1, 2, 10, 0.2
# A recording that is held out should have this many tokens, so that a window fits in it.
LONG_ENOUGH = 1025
# At the end of names as the original release has them: Surname, First name, Title, id. A
# name of eleven letters alone, such as performance.mid, says nothing.
YOUTUBE_ID = re.compile(
    r"[^,]+, [^,]*, .+, ([\w-]{11})\.midi?", re.IGNORECASE | re.ASCII
)

# A row of pieces.tsv, with the hash of the tokens.
Row = dict[str, str | int]


class Rule(NamedTuple):
    """How music is held out, where train/ and valid/ do not say it."""

    # Rows of all files to the tokens that are held out at the end of each, by name: none,
    # all of them, or some, where a piece is cut in two.
    hold_out: Callable[[list[Row]], dict[str, int]]
    same: str  # files that agree in this field of their rows are copies
    options: dict[str, str | float]  # for the manifest


def _recordings(
    rows: list[Row], same: str, *, has_ids: bool = False
) -> dict[str, list[Row]]:
    """Group rows by recording, each under a mark: copies stay together.

    With `has_ids` a name can end in a YouTube id, and files with the same id are of one
    recording. Without it names mean nothing: `prelude-001` looks like an id, too.
    """
    parent = {}

    def root_of(mark: str) -> str:
        while (above := parent.setdefault(mark, mark)) != mark:
            parent[mark] = parent[above]
            mark = above
        return mark

    for row in rows:
        marks = [root_of(f"bytes {row[same]}")]
        if has_ids and (found := YOUTUBE_ID.fullmatch(row["name"].split("/")[-1])):
            marks.append(root_of(f"id {found[1]}"))
        # The larger stands for both: an id if there is one, in whatever order they come.
        parent[min(marks)] = max(marks)
    groups = defaultdict(list)
    for row in rows:
        groups[root_of(f"bytes {row[same]}")].append(row)
    return groups


def _place_of(mark: str) -> float:
    """A number from 0 to 1 that only the mark decides."""
    return int.from_bytes(hashlib.sha256(mark.encode()).digest()[:8], "big") / 2**64


def hold_out_few_of_many(rows: list[Row]) -> dict[str, int]:
    """A recording stays where it is, whatever other recordings are added."""
    groups = _recordings(rows, "sha256", has_ids=True)
    # A small folder, too, gets something to validate with, and something to train on.
    bound = max(VALID_SHARE, min(map(_place_of, groups)))
    return {
        row["name"]: row["tokens"] * (len(groups) > 1 and _place_of(mark) <= bound)
        for mark, group in groups.items()
        for row in group
    }


def hold_out_of_own(rows: list[Row]) -> dict[str, int]:
    """Whole recordings if there are enough of them, else the ends of all."""
    groups = _recordings(rows, "music")
    if len(groups) < FEW:
        return {row["name"]: int(row["tokens"] * END_SHARE) for row in rows}
    lengths = {mark: max(row["tokens"] for row in groups[mark]) for mark in groups}
    enough = min(LONG_ENOUGH, sorted(lengths.values())[len(groups) // 2])
    long = [mark for mark, length in lengths.items() if length >= enough]
    count = max(OWN_LEAST, round(OWN_SHARE * len(groups)))
    chosen = set(sorted(long, key=_place_of)[:count])
    return {
        row["name"]: row["tokens"] * (mark in chosen)
        for mark, group in groups.items()
        for row in group
    }


RULE_FOR_MANY = Rule(
    hold_out_few_of_many,
    same="sha256",
    options={"split": "by recording", "valid_share": VALID_SHARE},
)
RULE_FOR_OWN = Rule(
    hold_out_of_own,
    same="music",
    options={
        "split": f"by recording, or by time if there are fewer than {FEW}",
        "valid_share": OWN_SHARE,
        "end_share": END_SHARE,
    },
)
