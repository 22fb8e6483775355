"""The plugin without one of the features that the campaign proves, to show that the campaign fails without it.

Run as a program, it is such a plugin: `python -m tests.powercut.stubs NAME`.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def _roll_forward() -> None:
    """Examine the database before the manifest, but leave it as it is."""
    before: Any = importlib.import_module("plugin.before_manifest")
    rolling: Any = importlib.import_module("plugin.roll_forward")
    assert callable(rolling.catch_up), "there is nothing to leave out"
    rolling.catch_up = lambda directory, settings, backup_id: before.Start(before.look(directory))


STUBS: dict[str, Callable[[], None]] = {"roll-forward": _roll_forward}
"""The features that can be left out, and how."""


def plugin_without(name: str) -> Sequence[str]:
    """The command line of a plugin that lacks this feature."""
    return [sys.executable, str(Path(__file__)), name]


def main() -> None:
    """Run the plugin without the feature that the command line names."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    STUBS[sys.argv[1]]()
    from plugin.main import main as answer

    answer()


if __name__ == "__main__":
    main()
