"""A directory on an NFS server, reached through the protocol itself: no mount, no root, nothing to install.

The record log uses `storage.py`. Below it, `channel.py` keeps a connection up, `version3.py` and `version41.py` speak
the two versions of the protocol (RFC 1813, RFC 8881), `rpc.py` sends calls (RFC 5531), `xdr.py` encodes them.
"""
