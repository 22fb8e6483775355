"""Object stores that are reached over HTTP: S3 and what speaks its protocol, Google's and Microsoft's.

`store.py` is what a backup needs of a bucket, and settles what is in doubt; `client.py` makes the requests through
obstore; `faults.py` says what an answer means; `probe.py` finds out whether a store keeps its promises; `bucket.py` and
`credentials.py` say where the bucket is and as whom it is used.

Nothing here is imported unless a URL names a bucket: obstore is an extra.
"""
