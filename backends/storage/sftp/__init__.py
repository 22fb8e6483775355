"""A directory on an SSH server, reached through the system's own `ssh` and the SFTP that nearly all of them serve.

The record log uses `storage.py`, with `names.py` for what changes names, `new_names.py` for making that durable, and
`reading.py` and `writing.py` for open files. Below them, `session.py` makes requests, `connection.py` sends them and
receives the answers, `packets.py` encodes them, and `process.py` runs `ssh`, which `starter.py` starts, for the account
that `address.py` finds in the URL. `sentences.py` says why it failed, and `logins.py` when it may be tried again.

What was sent on a connection that broke may be carried out at any later time. What follows from that is in `hidden.py`
for names and in `writing.py` for what is written.
"""
