"""From logits to new tokens.

Read `sampling` (filters and the draw), `grammar` (what can be played), `arguments` (what is
checked first) and `generate` (the loop).
"""
