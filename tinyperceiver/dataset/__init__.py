"""From MIDI files to windows of tokens to train on.

Read `sources` (a folder or a zip), `workers` (processes that tokenize), `hold_out` (the split),
`result` (the files that are written) and `prepare` (all of it); then `token_file` and `windows`,
which training reads.
"""
