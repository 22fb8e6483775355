"""Words that sentences of all parts need."""


def counted(count: int, noun: str) -> str:
    """So many of them: `1 change`, `2 changes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
