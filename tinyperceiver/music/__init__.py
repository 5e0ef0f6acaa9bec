"""MIDI files become tokens, and tokens become music again.

Read `vocabulary`, then `midi` and `pedal` (files to notes), `tokenizer` (notes to tokens and
back) and `prompts`. `fast_midi` reads whole datasets, `pieces` holds the shipped pieces, and
`ngrams` the simplest models of tokens.
"""
