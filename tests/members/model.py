"""Random histories of a backup with several members: `make members-model`, or `python -m tests.members.model 20000`.

A history has 2 to 4 members, some of them trailing, and up to three machines with a node's directory. Members fail
before and after each step, vanish, come back empty, old or torn; nodes crash between any two steps; node directories
are copied, and old ones put back. After all of it, and in the middle, the backup is restored from whatever is there.

No acknowledged change may be missing from a restore that asked nobody, nor from the state that a node starts from
unasked, nor may a member be overwritten that alone holds one. Every rule that is stubbed out must lose some.

The rules are the project's own code: `knows`, `newest`, `may_start`, `choose`, `is_foreign`, the documents of `Epochs`,
`adopted` and `note_of` for a node that goes on from what it finds. Only the order of a node's steps is the model's.

What the model assumes, because nothing could help: not everything that holds a change is destroyed at once, and what
`LIMITS` names does not happen.
"""

import argparse
from collections import Counter
from collections.abc import Collection, Iterable

from tests.members.history import History

VARIANTS = (
    "no-epoch",
    "longest-wins",
    "start-alone",
    "ack-before-epoch",
    "rejoin-early",
    "no-intent",
    "in-sync-only",
    "no-session-in-epoch",
    "overwrite-unknown",
    "trailing-document-early",
    "copy-before-document",
    "no-hour",
    "no-proof",
    "no-fence",
    "join-acks-without-old",
    "join-acks-without-new",
    "resuming-without-adopting",
    "numbers-only",
    "history-by-session-only",
    "epoch-0-counts",
    "in-sync-first",
    "no-done-member-in-change",
    "heal-unfenced",
    "taken-over-unnoticed",
)
"""Each stubs one rule out. What it is about stands where the name is used."""

COVERED = ("node-side-forgotten",)
"""Rules whose lack another rule makes up for. A node that forgets its own epoch loses nothing in 12,000 histories:
where something was acknowledged under it, the database is ahead of the members that are there, and so proves nothing.
"""

LIMITS = (
    "within-the-hour",
    "copies-before-an-add",
    "both-set-back",
    "given-up-comes-back",
    "restored-beside-a-running-node",
)
"""Each drops an assumption of the model: no rule helps then, and the table says how often.

- `within-the-hour`: an old node directory is put back less than an hour after it was copied.
- `copies-before-an-add`: a member is set back to before another was added, of which it cannot know.
- `both-set-back`: the node's directory and all members that are there are set back to the same moment, and those that
  have gone on since are away. (While this is assumed, such a start is refused if a member out of sync is away.)
- `given-up-comes-back`: a member that a person gave up as lost for good comes back, and is overwritten.
- `restored-beside-a-running-node`: a backup is restored while its node goes on with some of the members, and the new
  node starts within the hour with others.
"""


def stubs(variant: str) -> Collection[str]:
    """The rules to stub out. Without numbers that go on, only sessions would tell two nodes apart."""
    return (variant, "numbers-only") if variant == "resuming-without-adopting" else (variant,)


def first_that_loses(variant: str, histories: int, first: int = 0) -> int | None:
    """The first seed whose history loses something with that rule stubbed out."""
    return next((seed for seed in range(first, first + histories) if History(seed, stubs(variant)).run().lost), None)


def table(histories: int, first: int, variants: Iterable[Collection[str]]) -> bool:
    """Print how many histories lose. Returns whether all is as it must be."""
    good = True
    for broken in variants:
        outcomes = [History(seed, broken).run() for seed in range(first, first + histories)]
        losing = [number for number, outcome in enumerate(outcomes) if outcome.lost]
        how = Counter(outcome.lost for outcome in outcomes if outcome.lost).most_common()
        seed = f"; first seed {first + losing[0]}; {dict(how)}" if losing else ""
        print(f"{' '.join(sorted(broken)) or 'all rules':26} {len(losing):6} of {histories} lose{seed}", flush=True)
        if not broken:
            counts = {
                name: sum(getattr(o, name) for o in outcomes) for name in ("acknowledged", "restored", "diverged")
            }
            print(f"{'':26} {counts}")
        good &= bool(losing) == bool(broken)
    return good


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("histories", type=int, nargs="?", default=20000)
    parser.add_argument(
        "broken", nargs="*", choices=[*VARIANTS, *COVERED, *LIMITS, []], help="only this, with these rules stubbed out"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen: list[Collection[str]] = [(), *(stubs(variant) for variant in VARIANTS + LIMITS)]
    return not table(arguments.histories, arguments.seed, [arguments.broken] if arguments.broken else chosen)


if __name__ == "__main__":
    raise SystemExit(main())
