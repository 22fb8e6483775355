"""A fake lightningd: the other side of the plugin protocol, with a real database, that can die at any moment.

    with Node(directory, command) as node:
        node.play(read_recording(RECORDED_CALLS))

It is written from what lightningd does, not from what the plugin expects of it, and uses no code of the project.
"""

from tests.fake_lightningd.calls import (
    ANSWERING_PLUGIN,
    RECORDED_CALLS,
    RECORDED_DATABASE,
    Call,
    History,
    bump,
    foreign_keys,
    fresh_schema,
    read_recording,
    recorded_database,
    transaction,
)
from tests.fake_lightningd.database import (
    Database,
    OutOfStep,
    SeparateDatabase,
    committed_version,
    contents,
    has_hot_journal,
)
from tests.fake_lightningd.ends import Aborted, LeftInCall, Moment, PluginDied, Refused, RpcError, Victim
from tests.fake_lightningd.node import Node, run_without_plugin
from tests.fake_lightningd.rpc import RpcSocket
from tests.fake_lightningd.scripted import scripted_plugin
from tests.fake_lightningd.wire import Delivery, at_once, cut_at, in_pieces

__all__ = [
    "ANSWERING_PLUGIN",
    "RECORDED_CALLS",
    "RECORDED_DATABASE",
    "Aborted",
    "Call",
    "Database",
    "Delivery",
    "History",
    "LeftInCall",
    "Moment",
    "Node",
    "OutOfStep",
    "PluginDied",
    "Refused",
    "RpcError",
    "RpcSocket",
    "SeparateDatabase",
    "Victim",
    "at_once",
    "bump",
    "committed_version",
    "contents",
    "cut_at",
    "foreign_keys",
    "fresh_schema",
    "has_hot_journal",
    "in_pieces",
    "read_recording",
    "recorded_database",
    "run_without_plugin",
    "scripted_plugin",
    "transaction",
]
