"""A backup's directory of files, kept as objects in a bucket or as rows in a database.

`storage.py` is the directory. What it needs of the service is `store.ObjectStore`.
"""
