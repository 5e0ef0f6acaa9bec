"""From notes to what is heard and seen.

Read `synthesis` (notes to samples), `encoding` (samples to WAV and MP3), `roll` (the picture)
and `player` (both in a notebook).
"""
