"""A byte changes at the member that the others are caught up from: what they still have of it is not overwritten."""

from pathlib import Path

import pytest

from tests.fake_lightningd import History
from tests.members.elsewhere import Stream
from tests.members.world import MembersWorld


@pytest.mark.parametrize("which", ["segment-*", "snapshot-*"])
def test_damaged_file_of_source_does_not_replace_the_good_one(which: str, tmp_path: Path) -> None:
    """The segment is the one that is being written: a quiet node writes to the same one for months."""
    world, history = MembersWorld(tmp_path).init(), History()
    world.run([history.first(), *history.notes(20)])
    with world.node() as node:
        node.play(history.notes(5))
        if which == "snapshot-*":
            node.rpc("backup-compact")
            Stream(node, history).until(lambda: "compaction ended" in _text(node.logs), "compacted")
        source, other = world.note.in_sync
        rotten = max(world.place(source).glob(which))
        good = world.place(other) / rotten.name
        kept = good.read_bytes()
        content = kept.rstrip(b"\0")
        changed = len(content) // 2
        _write_byte(rotten, changed, content[changed] ^ 1)
        for segment in world.place(other).glob("segment-*"):
            segment.chmod(0o400)  # and so the member is out of sync, with everything in it
        stream = Stream(node, history)
        stream.until(lambda: other not in world.note.in_sync, "out of sync")
        stream.until(lambda: "would pass on a damaged file" in _text(node.logs), "refused")
        stream.changes(20)
        assert good.read_bytes()[: len(content)] == content
        assert source in world.note.in_sync
        assert other not in world.note.in_sync
    assert any(level == "broken" and "backup-cli verify --repair" in line for level, line in node.logs)


def _text(logs: list[tuple[str, str]]) -> str:
    return "\n".join(line for _, line in logs)


def _write_byte(path: Path, offset: int, value: int) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([value]))
    path.chmod(mode)
