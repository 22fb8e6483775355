"""Objects as rows of a table in PostgreSQL.

`store.PostgresStore` is what `backends.storage.objects` needs. `cluster` finds the server among the URL's hosts that
may be written to, and refuses one that could lose what it confirms; `connection` is one connection, with deadlines of
its own, that never cancels anything.
"""
