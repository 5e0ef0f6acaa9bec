"""Exercises of chapter 2."""

from tinyperceiver.music.vocabulary import (
    LONGEST_SHIFT,
    NOTE_OFF,
    TIME_SHIFT,
    VELOCITY,
    VELOCITY_BIN,
)
from tinyperceiver.teaching.vocabulary import (
    check_loose_ends,
    check_shorten,
    check_stretch,
    check_transpose,
)


# %% transpose: Warm-up: the same tune, higher
# A singer asks for the piece three keys lower. Write `transpose(tokens, semitones)`: it gets a
# list of event ids, 0 to 387, and a whole number of keys, up if positive, and returns a list in
# which every key has moved by so many. Nothing else changes. A key that would leave 0 to 127
# is left out, its note-on and its note-off.
# %% stub
def transpose(tokens, semitones):
    pass  # your code


# %% check
check_transpose(transpose)


# %% solution
def transpose(tokens, semitones):
    moved = []
    for token in tokens:
        if token < TIME_SHIFT:  # ons and offs alike: the key is what is left by 128
            key = token % NOTE_OFF + semitones
            if 0 <= key < NOTE_OFF:
                moved.append(token - token % NOTE_OFF + key)
        else:
            moved.append(token)
    return moved


# %% mistake: Only keys move
def transpose(tokens, semitones):
    return [token + semitones for token in tokens]


# %% mistake: notes start that never end
def transpose(tokens, semitones):
    return [token + semitones if token < 128 else token for token in tokens]


# %% mistake: spills over
def transpose(tokens, semitones):
    return [token + semitones if token < 256 else token for token in tokens]


# %% mistake: spills over
def transpose(tokens, semitones):
    moved = []
    for token in tokens:
        key = token % 128 + semitones
        if token >= 256:
            moved.append(token)
        elif 0 <= key <= 128:  # key 127, up by one, becomes the note-off of key 0
            moved.append(token - token % 128 + key)
    return moved


# %% mistake: is a key too
def transpose(tokens, semitones):
    moved = []
    for token in tokens:
        key = token % 128 + semitones
        if token >= 256:
            moved.append(token)
        elif 21 <= key <= 108:  # the keys of a piano
            moved.append(token - token % 128 + key)
    return moved


# %% mistake: comes back on the other
def transpose(tokens, semitones):
    return [
        token - token % 128 + (token + semitones) % 128 if token < 256 else token
        for token in tokens
    ]


# %% mistake: also count for what follows
def transpose(tokens, semitones):
    moved, loud = [], None
    for token in tokens:
        if token < 256:
            key = token % 128 + semitones
            if 0 <= key < 128:
                moved += ([] if loud is None else [loud]) + [token - token % 128 + key]
            loud = None
        elif token < 356:
            moved.append(token)
        else:
            loud = token
    return moved


# %% loose_ends: Loose ends
# A model makes slips that no encoder makes. Write `loose_ends(tokens)`: it gets a list of event
# ids and returns a tuple of two counts: note-offs of a key that is not down, and note-ons that
# never get a note-off of their own. A note-off lifts its key. A key that is struck while it is
# down leaves the earlier note-on without an end.
# %% stub
def loose_ends(tokens):
    pass  # your code


# %% check
check_loose_ends(loose_ends)


# %% solution
def loose_ends(tokens):
    down, offs, ons = set(), 0, 0
    for token in tokens:
        if token < NOTE_OFF:
            ons += token in down  # the stroke before this one will get no end
            down.add(token)
        elif token < TIME_SHIFT:
            offs += token - NOTE_OFF not in down
            down.discard(token - NOTE_OFF)
    return offs, ons + len(down)


# %% mistake: the second note-off is loose
def loose_ends(tokens):
    down, offs, ended = [], 0, set()
    for token in tokens:
        if token < 128:
            down.append(token)
        elif token < 256:
            offs += token - 128 not in down
            ended.add(token - 128)
    return offs, len([key for key in down if key not in ended])


# %% mistake: struck again
def loose_ends(tokens):
    down, offs = set(), 0
    for token in tokens:
        if token < 128:
            down.add(token)
        elif token < 256:
            offs += token - 128 not in down
            down.discard(token - 128)
    return offs, len(down)


# %% mistake: only one gets an end
def loose_ends(tokens):
    down, offs = [], 0
    for token in tokens:
        if token < 128:
            down.append(token)
        elif token < 256 and token - 128 in down:
            down.remove(token - 128)
        elif token < 256:
            offs += 1
    return offs, len(down)


# %% mistake: a tuple of two counts
def loose_ends(tokens):
    ons = sum(token < 128 for token in tokens)
    offs = sum(128 <= token < 256 for token in tokens)
    return [max(0, offs - ons), max(0, ons - offs)]


# %% mistake: whole numbers
def loose_ends(tokens):
    down, offs, ons = set(), 0.0, 0.0
    for token in tokens:
        if token < 128:
            ons += token in down
            down.add(token)
        elif token < 256:
            offs += token - 128 not in down
            down.discard(token - 128)
    return offs, ons + len(down)


# %% mistake: Did you swap
def loose_ends(tokens):
    down, offs, ons = set(), 0, 0
    for token in tokens:
        if token < 128:
            ons += token in down
            down.add(token)
        elif token < 256:
            offs += token - 128 not in down
            down.discard(token - 128)
    return ons + len(down), offs


# %% stretch: Slower, and in time
# Practise at another speed, without a MIDI file. Write `stretch(tokens, factor)`: it gets a list
# of event ids and a positive number, and returns a list of event ids with the same keys and
# velocities in the same order, in which every moment comes `factor` times as late, rounded to a
# step of 10 ms. No key may be more than 5 ms off, however long the piece. Waits may be of any
# length afterwards: none, or several seconds. A wait at the end, with nothing after it, may go.
# %% stub
def stretch(tokens, factor):
    pass  # your code


# %% check
check_stretch(stretch)


# %% solution
def stretch(tokens, factor):
    stretched, moment, written = [], 0, 0  # in steps: of the original, and so far
    for token in tokens:
        if TIME_SHIFT <= token < VELOCITY:
            moment += token - TIME_SHIFT + 1
            continue
        # Round the moment, then take the gap: what is lost here is given back later.
        steps = round(moment * factor) - written
        written += steps
        longest, rest = divmod(steps, LONGEST_SHIFT)
        stretched += [VELOCITY - 1] * longest
        if rest:
            stretched.append(TIME_SHIFT - 1 + rest)
        stretched.append(token)
    return stretched


# %% mistake: drift
def stretch(tokens, factor):
    stretched = []
    for token in tokens:
        if 256 <= token < 356:
            longest, rest = divmod(round((token - 255) * factor), 100)
            stretched += [355] * longest + [255 + rest] * (rest > 0)
        else:
            stretched.append(token)
    return stretched


# %% mistake: spills into the velocities
def stretch(tokens, factor):
    stretched = []
    for token in tokens:
        is_wait = 256 <= token < 356
        stretched.append(
            min(387, 255 + round((token - 255) * factor)) if is_wait else token
        )
    return stretched


# %% mistake: should come
def stretch(tokens, factor):
    stretched, moment, written = [], 0, 0
    for token in tokens:
        if 256 <= token < 356:
            moment += token - 255
        elif token < 256:  # velocities are forgotten
            steps = round(moment * factor) - written
            written += steps
            stretched += [355] * (steps // 100)
            stretched += [255 + steps % 100] * (steps % 100 > 0) + [token]
    return stretched


# %% mistake: may a wait become nothing
def stretch(tokens, factor):
    stretched, moment, written = [], 0, 0
    for token in tokens:
        if 256 <= token < 356:
            moment += token - 255
            steps = max(1, round(moment * factor) - written)
            written += steps
            stretched += [355] * (steps // 100)
            stretched += [255 + steps % 100] * (steps % 100 > 0)
        else:
            stretched.append(token)
    return stretched


# %% mistake: it lasts
def stretch(tokens, factor):
    stretched = []
    for token in tokens:
        if 256 <= token < 356:
            stretched.append(max(256, min(355, 255 + round((token - 255) * factor))))
        else:
            stretched.append(token)
    return stretched


# %% shorten: Open: a shorter text
# A window holds more music if the music takes fewer tokens. Write `shorten(tokens)`: it gets what
# `encode_midi` wrote and returns a list of event ids in which `decode_midi` reads the notes that it
# reads in `tokens`: as many, the same keys, starts and ends at most 20 ms off, velocities at most 8. Over the
# five pieces together it may have at most 80% of the tokens. You need more than one way. Ours
# gives 74.5%, and is not the end.
# %% stub
def shorten(tokens):
    pass  # your code


# %% check
check_shorten(shorten)


# %% solution
def shorten(tokens):
    groups, now, velocity = [], 0, None  # now in steps
    for token in tokens:
        if TIME_SHIFT <= token < VELOCITY:
            now += token - TIME_SHIFT + 1
            continue
        if token >= VELOCITY:
            # A new word only where the old one would be more than two bins off.
            if velocity is not None and abs(token - velocity) <= 8 // VELOCITY_BIN:
                continue
            velocity = token
        # Moments 40 ms apart can meet in the middle, unless a note loses its length.
        own_on = token - NOTE_OFF if NOTE_OFF <= token < TIME_SHIFT else None
        if groups and now - groups[-1][0] <= 4 and own_on not in groups[-1][2]:
            groups[-1][1] = now
            groups[-1][2].append(token)
        else:
            groups.append([now, now, [token]])
    kept, written = [], 0
    for first, last, events in groups:
        middle = (first + last) // 2
        longest, rest = divmod(middle - written, LONGEST_SHIFT)
        kept += [VELOCITY - 1] * longest + [TIME_SHIFT - 1 + rest] * (rest > 0) + events
        written = middle
    return kept


# %% mistake: 80% is the goal
def shorten(tokens):
    kept, velocity = [], None
    for token in tokens:
        if token >= 356:
            if token == velocity:
                continue
            velocity = token
        kept.append(token)
    return kept


# %% mistake: missing from all that follows
def shorten(tokens):
    return [token for token in tokens if token not in (256, 257)]


# %% mistake: 8 are allowed
def shorten(tokens):
    kept, velocity = [], None
    for token in tokens:
        if token >= 356:
            if velocity is not None and abs(token - velocity) <= 2:
                velocity = token
                continue
            velocity = token
        kept.append(token)
    return kept


# %% mistake: the mark of `encode_performance`
def shorten(tokens):
    return [389, *tokens]
