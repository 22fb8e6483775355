"""A directory on an NFS server, reached over the protocol itself: no mount, no root, nothing to install.

`storage.py` is what the record log sees. Below it: `channel.py` keeps a connection up, `version3.py` and `version41.py`
speak the two versions of the protocol (RFC 1813, RFC 8881), `rpc.py` carries calls (RFC 5531), `xdr.py` packs them.
"""
