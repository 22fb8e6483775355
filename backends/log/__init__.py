"""The record log: a backup as one flat directory of files, and all that reads and writes it. Start here.

The files
---------
::

    manifest            which generation counts: its snapshot, its first segment, where the snapshot ends
    session             who writes now, and how far was acknowledged (trails behind)
    snapshot-00000002   a whole database, compressed; in several files when it is large
    segment-00000007    records, one for each change after the snapshot; the next segment continues the chain
    kept                the manifest of a generation that was replaced and is kept for a week
    damage              what once proved that this generation cannot be restored
    emergency.recover   the node's file of that name, as a text file (hsm_secret is stored in the same way)
    keys                of an encrypted backup: its key, wrapped once in each key slot
    lock                keeps the processes of one machine apart
    *.tmp               unfinished: means nothing

A *generation* is one snapshot and the segments after it. It begins to count, and the one before ceases to, with the
rename of ``manifest``. Records are chained: each carries the checksum of the one before, and the first one after a
snapshot that of the manifest, so that files of different times cannot be mixed. docs/format.md describes every byte.

What a reader may rely on
-------------------------
A record that was acknowledged was durable before. A *torn* end is a record that was being written when the power
failed: it was never acknowledged, and is cut off. *Damage* is everything else that is wrong. It is always named, with
the last version that can still be restored, and never skipped. ``format/torn.py`` tells the two apart.

What a writer must do
---------------------
``Backup.open`` keeps out the previous writer before it trusts what it reads: it puts its own mark into ``session``,
makes the segments read-only (``writer/fence.py``, ``writer/recovery.py``), and then reads the end of the log again.
After a failed write or sync it acknowledges nothing more from that file, ever. It removes files only after what
replaces them counts.

The order to read the code in
-----------------------------
``format/``
    The bytes, without any file: ``records`` (headers, checksums, the chain), ``text_files`` (the form of the small text
    files) and ``documents`` (what is in them), ``attachments`` (those that hold a file of the node), ``codec``
    (compression), ``torn`` (torn or damaged?).
``reader/``
    From files to changes: ``opening`` (the files as of one moment, beside a writer), ``generation`` (``Reader``),
    ``passes`` (one pass over the log, and the end that it returns), ``records``, ``snapshot``, ``end`` (where the log
    ends, for a writer), ``last_changes`` (for rolling forward).
``writer/``
    ``writer`` (``Writer``: ``append`` is the commit path), ``segment`` and ``segments`` (one file, and how one follows
    another), ``snapshot``, ``generation`` (publishing), ``fence`` (the session marker), ``recovery``, ``keeping``.
``backup``
    ``Backup``: what one may ask of a backup before it is opened, and ``open``, which gives a ``Writer``.
``attachments``
    Storing a small file of the node, and reading it back.
``facts``, ``status``, ``member_status``, ``known_damage``, ``errors``, ``latency``
    What a backup says of itself, read once; its status for people and programs; known damage; why one cannot be made.
``key_slots``
    What gets an encrypted backup's key back: making and opening the slots of the document ``keys``.

The log knows nothing of SQLite. Compaction, which executes changes, is above it
(``backends/compaction``).
"""
