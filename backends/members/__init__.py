"""One backup at several destinations, its *members*: the node goes on when one fails, and they heal one another.

Every member holds the same files as a backup with one destination, and can be read alone. In addition, each holds the
document `members` (``backends/log/format/members.py``), and the node's directory holds `backup.members`
(``backends/node/members_note.py``).

The rules
---------
A change is acknowledged when every member that is *in sync* has it durably. Which members are in sync is said by the
*epoch*. A member that fails, or lets a commit wait for longer than `grace`, is put out of sync by a new epoch: first
the node notes its number as an intent, then every member that remains carries it, then the node notes it as done, and
only then is anything acknowledged without the failed member. A member that is back is caught up beside the running
node, and joins under another epoch. The node goes on as long as `need` members are in sync.

So the newest state is with a member of the highest epoch, and every member in sync in that epoch holds all of it.

Encrypted
---------
The document of each member is sealed with the key that the manifest names, and is sealed before the first such manifest
is published (``running``). From then on, what is not sealed at a member does not count as its state (``survey``), but
still decides whether the member may be overwritten (``examine``). Without the key nobody can tell which member is the
newest, and nobody guesses. A log counts only up to where the holder of the key has written it: somebody who holds one
destination can destroy what is there, but not make it pass for the newest state, and so not destroy the other copies.

The order to read the code in
-----------------------------
``urls``
    The name that each member gets from its URL, and the mark `?trailing`.
``survey``
    What the members say now; one that hangs does not hold up the rest.
``newest``
    Which member holds the newest state: a pure function of what the members say.
``start``
    Whether a node may start with the members that are there: a pure function, too.
``epochs``
    How an epoch is changed: the intent, the members, done.
``backends/storage/mirror``
    One `Storage` made of several: the same bytes to all in parallel. The log writes to it as to any other.
``opening``
    From backup.lock to a `Backup` on such a storage: survey, take-over, making the members equal.
``shared_files``, ``differences``, ``copy_file``
    Which files members share, which of them differ, and copying one durably.
``moment``, ``files``
    What a member holds at one moment, and making another one equal to it without ever mixing two histories.
``key_copies``
    The key slots of an encrypted backup: of two documents `keys` that differ, which one counts.
``running``, ``levelling``, ``giving``
    The members while the node runs: they are made equal first; one that fails is put out of sync; a compaction's
    snapshot is given to all.
``catching_up``, ``tails``
    The thread that brings a member that was out of sync up to the others, and what trails; the open segments there.
``validity``, ``peers``, ``compare``, ``comparison``, ``repair``
    Which members hold the good copy of each file, by checksums and chain; mending a damaged one from it.
``member_statuses``, ``live_status``
    What is known of each member: for a command, which reads them, and for the running node, from memory.
"""
