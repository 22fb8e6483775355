"""The ways in which a run of a node can end, and who dies at which moment."""

from enum import Enum
from typing import Any


class Aborted(Exception):
    """lightningd ends here, before it commits: its database stays at the version before."""


class Refused(Aborted):
    """The plugin answered a `db_write` with anything but "continue".

    `message` is what the operator reads, `reply` the whole answer.
    """

    def __init__(self, message: str, reply: dict[str, Any]) -> None:
        super().__init__(message)
        self.message, self.reply = message, reply


class PluginDied(Aborted):
    """The plugin terminated before replying, or an important plugin was found dead."""


class LeftInCall(PluginDied):
    """The plugin's pipe closed while lightningd waited for its answer to a `db_write`.

    During shutdown, too: the transaction stays open, the next one finds it open, and lightningd ends by signal 6.
    """


class RpcError(Exception):
    """A method answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code, self.message = code, message


class Moment(Enum):
    """The moment of a call at which somebody dies."""

    BEFORE_HOOK = "the statements have run, the plugin knows nothing"
    IN_HOOK = "the plugin has been asked and has not been heard"
    BEFORE_COMMIT = "the plugin has said continue, nothing is committed"


class Victim(Enum):
    """Who dies: a power cut takes both, the out-of-memory killer one or both."""

    BOTH = "both"
    NODE = "node"
    PLUGIN = "plugin"


def message_of(reply: dict[str, Any]) -> str:
    """What lightningd prints of an answer that it does not accept."""
    if "error" in reply:
        return str(reply["error"].get("message"))
    result = reply.get("result")
    return str(result["message"]) if isinstance(result, dict) and "message" in result else str(result)
