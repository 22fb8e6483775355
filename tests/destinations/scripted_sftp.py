"""In the place of ssh: `python scripted_sftp.py ANSWERS END` sends the packets of a file, one for each that it gets.

The first answers INIT. After the last one it waits (END is `wait`) or ends (`exit`).
"""

import os
import struct
import sys
from pathlib import Path


def exactly(count: int) -> bytes:
    """Read this many bytes from the client; ends the process if it has gone."""
    data = b""
    while len(data) < count:
        some = os.read(0, count - len(data))
        if not some:
            os._exit(0)
        data += some
    return data


def main() -> None:
    rest, end = Path(sys.argv[1]).read_bytes(), sys.argv[2]
    while rest:
        exactly(struct.unpack(">I", exactly(4))[0])
        length = 4 + int(struct.unpack(">I", rest[:4])[0])
        os.write(1, rest[:length])
        rest = rest[length:]
    while end == "wait":
        exactly(1)


if __name__ == "__main__":
    main()
