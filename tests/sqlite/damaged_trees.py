"""Databases with trees of several levels, and what may be wrong with them."""

import random
from contextlib import closing
from pathlib import Path

import apsw

from backends.sqlite.connection import READ_ONLY, connect
from backends.sqlite.recorded_pages import database_pages
from backends.sqlite.table_tree import table_tree
from tests.sqlite.databases import execute

PAGE = 512
"""Small pages, so that small tables have high trees."""

N = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"

SCHEMA = (
    f"PRAGMA page_size = {PAGE}",
    "PRAGMA synchronous = OFF",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT, x)",
    "CREATE TABLE one (id INTEGER PRIMARY KEY, parent REFERENCES parent (id), hash BLOB UNIQUE, state INTEGER NOT NULL,"
    " onion, own INTEGER REFERENCES one (id), UNIQUE (parent, id))",
    "CREATE INDEX by_state ON one (state)",
    "CREATE INDEX unresolved   ON one(parent, state) WHERE state NOT IN (9, 19)",
    "CREATE TABLE two (x TEXT NOT NULL, parent INTEGER REFERENCES parent (id))",
    "CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID",
    "CREATE TABLE freed (x)",
)

INTO_ONE = "INSERT INTO one SELECT {} + i, i % 20 + 1, randomblob(20), 9 + (i % 50 = 0), zeroblob(150), NULL FROM n"
INTO_TWO = "INSERT INTO two SELECT hex(randomblob(CASE i % 100 WHEN 0 THEN 700 ELSE 110 END)), 1 FROM n"

ROWS = (
    f"{N.format(20)} INSERT INTO parent SELECT i, i FROM n",
    *(
        f"{N.format(500)} {insert.format(start)}"  # so that the pages of both tables alternate in the file
        for start in range(0, 7000, 500)
        for insert in (INTO_ONE, INTO_TWO)
    ),
    f"{N.format(50)} INSERT INTO keyed SELECT 'k' || i, i FROM n",
    f"{N.format(60)} INSERT INTO freed SELECT randomblob(300) FROM n",
    "DELETE FROM freed",
)


def root_of(path: Path, name: str) -> int:
    with closing(connect(path, READ_ONLY)) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchall()
    return int(str(root))


def cut_of(path: Path, name: str) -> list[int]:
    with path.open("rb") as file:
        return [cut.page.number for cut in table_tree(database_pages(file.fileno()), root_of(path, name)).cut]


class Bytes:
    """The database's bytes, by page."""

    def __init__(self, path: Path, size: int = PAGE) -> None:
        self.path, self.data, self.size = path, bytearray(path.read_bytes()), size

    def page(self, number: int) -> memoryview:
        return memoryview(self.data)[(number - 1) * self.size : number * self.size]

    def save(self) -> None:
        self.path.write_bytes(self.data)


def leaf_pointer(page: memoryview, index: int) -> memoryview:
    """Where an inner page has the number of its child with this index."""
    at = int.from_bytes(page[12 + 2 * index : 14 + 2 * index], "big")
    return page[at : at + 4]


def swap_leaves_of_different_parts(path: Path) -> None:
    """The first leaves below the first and below the last cut page change places: each part is in order by itself."""
    first, *_, last = cut_of(path, "two")
    data = Bytes(path)
    one, other = (leaf_pointer(data.page(page), 1) for page in (first, last))
    one[:], other[:] = bytes(other), bytes(one)
    data.save()


def exchange_cut_pages(path: Path) -> None:
    """Two inner pages far from each other change their contents: the keys of whole parts are out of order."""
    cut = cut_of(path, "two")
    data = Bytes(path)
    one, other = data.page(cut[1]), data.page(cut[-3])
    one[:], other[:] = bytes(other), bytes(one)
    data.save()


def use_leaf_twice(path: Path) -> None:
    """A leaf is below two inner pages of different parts, and another one below none."""
    first, *_, last = cut_of(path, "two")
    data = Bytes(path)
    leaf_pointer(data.page(first), 1)[:] = bytes(leaf_pointer(data.page(last), 1))
    data.save()


def use_leaf_of_other_table(path: Path) -> None:
    data = Bytes(path)
    leaf_pointer(data.page(cut_of(path, "two")[2]), 0)[:] = bytes(leaf_pointer(data.page(cut_of(path, "one")[2]), 0))
    data.save()


def lead_in_a_circle(path: Path) -> None:
    root = root_of(path, "two")
    data = Bytes(path)
    leaf_pointer(data.page(root), 0)[:] = root.to_bytes(4, "big")
    data.save()


def exchange_ends_of_parts(path: Path) -> None:
    """The last inner page of a part and the first one of a later part change their contents: both are in order."""
    with path.open("rb") as file:
        tree = table_tree(database_pages(file.fileno()), root_of(path, "two"))
        one, _, other, *_ = tree.parts(1 << 14, None, 1 << 13)
    data = Bytes(path)
    last, first = data.page(one.pages[-1].number), data.page(other.pages[0].number)
    last[:], first[:] = bytes(first), bytes(last)
    data.save()


def free_page_in_use(path: Path) -> None:
    """The free list names a leaf of a table."""
    data = Bytes(path)
    trunk = data.page(int.from_bytes(data.page(1)[32:36], "big"))
    trunk[8:12] = bytes(leaf_pointer(data.page(cut_of(path, "two")[0]), 0))
    data.save()


def lose_a_page(path: Path) -> None:
    """The free list has one page less: it is in no tree, and not free."""
    data = Bytes(path)
    first = data.page(1)
    trunk = data.page(int.from_bytes(first[32:36], "big"))
    trunk[4:8] = (int.from_bytes(trunk[4:8], "big") - 1).to_bytes(4, "big")
    first[36:40] = (int.from_bytes(first[36:40], "big") - 1).to_bytes(4, "big")
    data.save()


def free(data: Bytes, page: int) -> None:
    """Add a page that is in no tree any more to the free list, as if all were well."""
    first = data.page(1)
    trunk = data.page(int.from_bytes(first[32:36], "big"))
    while (leaves := int.from_bytes(trunk[4:8], "big")) >= data.size // 4 - 8:  # it is full
        trunk = data.page(int.from_bytes(trunk[:4], "big"))
    trunk[8 + 4 * leaves : 12 + 4 * leaves] = page.to_bytes(4, "big")
    trunk[4:8] = (leaves + 1).to_bytes(4, "big")
    first[36:40] = (int.from_bytes(first[36:40], "big") + 1).to_bytes(4, "big")


def share_overflow_page(path: Path) -> None:
    """Two large rows of different parts have the same overflow page; the other one is free."""
    with closing(apsw.Connection(str(path))) as connection:
        rows = connection.execute("SELECT pageno FROM dbstat WHERE name = 'two' AND pagetype = 'overflow'").fetchall()
    data = Bytes(path)
    pages = sorted(int(str(page)) for (page,) in rows)
    following = {int.from_bytes(data.page(page)[:4], "big"): page for page in pages}
    ends = [page for page in pages if not any(data.page(page)[:4]) and page in following]
    data.page(following[ends[0]])[:4] = ends[-1].to_bytes(4, "big")
    free(data, ends[0])
    data.save()


def with_index_as_before(path: Path, name: str, *statements: str) -> None:
    """Execute these, but leave the index `name` as it was: only its tree, not the schema, differs afterwards."""
    root = root_of(path, name)
    with closing(apsw.Connection(str(path))) as connection:
        execute(connection, "PRAGMA synchronous = OFF", "PRAGMA writable_schema = ON")
        (row,) = connection.execute("SELECT * FROM sqlite_schema WHERE name = ?", (name,)).fetchall()
        execute(connection, f"DELETE FROM sqlite_schema WHERE name = '{name}'")
    with closing(apsw.Connection(str(path))) as connection:
        execute(connection, *statements)
    with closing(apsw.Connection(str(path))) as connection:
        execute(connection, "PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)
    assert root_of(path, name) == root


def forget_index_entry(path: Path) -> None:
    with_index_as_before(path, "unresolved", "INSERT INTO one VALUES (90000, 1, x'00', 10, NULL, NULL)")


def invent_index_entry(path: Path) -> None:
    """There is a row less than the index has entries. No row lacks its entry."""
    with_index_as_before(path, "by_state", "DELETE FROM one WHERE id = 50")


def vacuum_in_steps_but_not_at_all(path: Path) -> None:
    """The header says that auto-vacuum works in steps, and that there is none."""
    data = Bytes(path)
    data.page(1)[67] = 1
    data.save()


def null_where_none_may_be(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        execute(connection, "PRAGMA writable_schema = ON")
        execute(connection, "UPDATE sqlite_schema SET sql = replace(sql, 'own INTEGER', 'own INTEGER NOT NULL')")


DAMAGES = [
    swap_leaves_of_different_parts,
    exchange_cut_pages,
    use_leaf_twice,
    use_leaf_of_other_table,
    lead_in_a_circle,
    exchange_ends_of_parts,
    free_page_in_use,
    lose_a_page,
    share_overflow_page,
    forget_index_entry,
    invent_index_entry,
    vacuum_in_steps_but_not_at_all,
    null_where_none_may_be,
]


def at_random(path: Path, seed: int) -> None:
    """Change a few bytes of the database, mostly where the trees are held together."""
    rng = random.Random(seed)
    data = Bytes(path)
    inner = [number for number in range(2, len(data.data) // PAGE + 1) if data.page(number)[0] in (2, 5)]
    for _ in range(rng.choice((1, 1, 2))):
        page = data.page(rng.choice(inner) if rng.random() < 0.6 else rng.randrange(1, len(data.data) // PAGE + 1))
        start = rng.randrange(12) if rng.random() < 0.4 else rng.randrange(PAGE - 4)
        size = rng.choice((1, 2, 4))
        page[start : start + size] = rng.randbytes(size)
    data.save()
