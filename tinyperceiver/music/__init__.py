"""MIDI files become tokens, and tokens become music again.

Read `vocabulary`, then `midi` and `pedal` (files to notes), `tokenizer` (notes to tokens and
back) and `prompts`. `fast_midi` reads whole datasets, `pieces` holds the shipped pieces,
`pedal_intervals` says when the pedal is down, for sound and pictures, and `ngrams` holds the
simplest models of tokens.
"""
