"""The vocabulary: which token means what, and the units of time and loudness."""

__all__ = [
    "LONGEST_SHIFT",
    "MAX_NOTES",
    "NOTE_OFF",
    "NOTE_ON",
    "NUM_EVENTS",
    "PAD",
    "PERFORMANCE",
    "STEPS_PER_SECOND",
    "TIME_SHIFT",
    "VELOCITY",
    "VELOCITY_BIN",
]

# First id of each kind of event.
NOTE_ON, NOTE_OFF, TIME_SHIFT, VELOCITY = 0, 128, 256, 356
NUM_EVENTS = 388
PAD = 388
PERFORMANCE = 389
STEPS_PER_SECOND = 100
LONGEST_SHIFT = VELOCITY - TIME_SHIFT  # steps that one token can say
VELOCITY_BIN = 4

MAX_NOTES = 1_000_000  # duplicates by the pedal included
