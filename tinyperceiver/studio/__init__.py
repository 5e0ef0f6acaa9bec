"""A panel in a notebook that continues prompts, and pages of what it wrote.

Read `takes` (a continuation and its settings), `takes_page`, `live_sound` and `panel`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyperceiver.studio.panel import Studio, studio

__all__ = ["Studio", "studio"]


# Only the panel needs ipywidgets. It is imported when it is asked for, so that takes and
# their pages can be used without it.
def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import ipywidgets  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the studio is made of ipywidgets, which is not installed: pip install ipywidgets"
        ) from error
    from tinyperceiver.studio import panel

    return getattr(panel, name)


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
