"""The plugin without one of the things that the campaign proves: whoever believes the campaign has seen it fail there.

Run as a program it is such a plugin: `python -m tests.powercut.stubs NAME`.
"""

import sys
from collections.abc import Callable, Sequence


def _roll_forward() -> None:
    """Nothing is done before the manifest."""
    raise NotImplementedError


STUBS: dict[str, Callable[[], None]] = {"roll-forward": _roll_forward}
"""What can be left out, and how."""


def plugin_without(name: str | None) -> Sequence[str] | None:
    """The command line of a plugin that lacks this; None for the plugin as it is."""
    return None if name is None else [sys.executable, "-m", "tests.powercut.stubs", name]


def main() -> None:
    """Answer lightningd, without."""
    STUBS[sys.argv[1]]()
    from plugin.main import main as answer

    answer()


if __name__ == "__main__":
    main()
