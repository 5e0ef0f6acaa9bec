"""A panel in a notebook that continues prompts, and pages of what it wrote.

Read `takes` (a continuation and its settings), `takes_page`, `live_sound` and `panel`.
"""

from tinyperceiver.studio.panel import Studio, studio

__all__ = ["Studio", "studio"]
