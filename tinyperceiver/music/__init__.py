"""Between MIDI files and tokens.

Read `vocabulary`, then `midi` and `pedal` (files to notes), `tokenizer` (notes to tokens and
back) and `prompts`. `fast_midi` reads whole datasets, `pieces` are the shipped ones, and
`ngrams` are the simplest models of such tokens.
"""
