"""The SQL for one table of objects. Values are sent apart from it, texts as UTF-8."""

from dataclasses import dataclass

from backends.storage.postgres.connection import Statement

_TABLE = (
    'CREATE TABLE IF NOT EXISTS {table} (key text COLLATE "C" PRIMARY KEY, data bytea NOT NULL, version text NOT NULL, '
    "modified timestamptz NOT NULL DEFAULT clock_timestamp())"
)

_BATCH_BYTES = 4 << 20

AFTER_ALL = "~"
"""Sorts after every character of a key."""


@dataclass(frozen=True, slots=True)
class Table:
    """Statements for the table `objects` in this schema."""

    schema: str

    @property
    def _name(self) -> str:
        return f'"{self.schema}".objects'

    def insert(self, key: str, data: bytes, version: str) -> Statement:
        """Make a row unless there is one. A statement that changes no row has found one."""
        sql = f"INSERT INTO {self._name} (key, data, version) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
        return Statement(sql, (key.encode(), data, version.encode()))

    def update(self, key: str, data: bytes, version: str, before: str) -> Statement:
        """Replace a row's content if it has the version `before`."""
        sql = (
            f"UPDATE {self._name} SET data = $2, version = $3, modified = clock_timestamp() "
            "WHERE key = $1 AND version = $4"
        )
        return Statement(sql, (key.encode(), data, version.encode(), before.encode()))

    def version(self, key: str) -> Statement:
        """The version of a row."""
        return Statement(f"SELECT version FROM {self._name} WHERE key = $1", (key.encode(),))

    def whole(self, key: str) -> Statement:
        """Content and version of a row."""
        return Statement(f"SELECT data, version FROM {self._name} WHERE key = $1", (key.encode(),))

    def part(self, key: str, offset: int, length: int) -> Statement:
        """Bytes of a row's content."""
        return Statement(
            f"SELECT substring(data FROM $2::text::int FOR $3::text::int) FROM {self._name} WHERE key = $1",
            (key.encode(), str(offset + 1).encode(), str(length).encode()),
        )

    def several(self, keys: list[str]) -> Statement:
        """The contents of the first of these rows, as many as have a few megabytes together, in this order.

        NULL for a row that does not exist.
        """
        sql = (
            "SELECT data FROM (SELECT o.data, w.number, sum(coalesce(octet_length(o.data), 0)) "
            "OVER (ORDER BY w.number) - coalesce(octet_length(o.data), 0) AS before "
            "FROM unnest(string_to_array($1::text, E'\\n')) "
            f'WITH ORDINALITY AS w (key, number) LEFT JOIN {self._name} o ON o.key = w.key COLLATE "C") AS found '
            f"WHERE before < {_BATCH_BYTES} ORDER BY number"
        )
        return Statement(sql, ("\n".join(keys).encode(),))

    def page(self, prefix: str, after: str, count: int) -> Statement:
        """Key, size and time of up to `count` rows whose keys begin with `prefix` and come after `after`."""
        sql = (
            f"SELECT key, octet_length(data)::text, extract(epoch FROM modified)::text FROM {self._name} "
            "WHERE key >= $1 AND key < $2 AND key > $3 ORDER BY key LIMIT $4::text::int"
        )
        return Statement(sql, (prefix.encode(), (prefix + AFTER_ALL).encode(), after.encode(), str(count).encode()))

    def next_component(self, prefix: str, after: str) -> Statement:
        """The next component of the first longer path that begins with `prefix` and sorts after `after`."""
        sql = (
            f"SELECT split_part(substr(key, length($1) + 1), '/', 1) FROM {self._name} "
            "WHERE key >= $1 AND key < $2 AND key > $3 AND strpos(substr(key, length($1) + 1), '/') > 0 "
            "ORDER BY key LIMIT 1"
        )
        return Statement(sql, (prefix.encode(), (prefix + AFTER_ALL).encode(), after.encode()))

    def delete(self, keys: list[str]) -> Statement:
        """Delete rows, as far as they exist."""
        return Statement(
            f"DELETE FROM {self._name} WHERE key = ANY (string_to_array($1::text, E'\\n'))", ("\n".join(keys).encode(),)
        )

    def has_schema(self) -> Statement:
        """One row if the schema exists."""
        return Statement("SELECT 1::text FROM pg_namespace WHERE nspname = $1::text", (self.schema.encode(),))

    def make_schema(self) -> Statement:
        """Make the schema."""
        return Statement(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')

    def make(self) -> Statement:
        """Make the table if there is none. Its contents are compressed or random already."""
        table = _TABLE.format(table=self._name)
        return Statement(f"DO $do$ BEGIN {table}; ALTER TABLE {self._name} ALTER data SET STORAGE EXTERNAL; END $do$")

    def rights(self) -> Statement:
        """Whether the schema may be used, tables made in it, and the table (if it exists) be written."""
        may = "has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND "
        may += "has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')"
        return Statement(
            "SELECT has_schema_privilege(n.oid, 'USAGE')::text, has_schema_privilege(n.oid, 'CREATE')::text, "
            f"coalesce((SELECT {may} FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'objects')::text, "
            "'none'), current_user::text FROM pg_namespace n WHERE n.nspname = $1::text",
            (self.schema.encode(),),
        )
