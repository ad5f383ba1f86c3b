"""Reuse of computed KV: nothing is computed twice."""

from edgeinfer.kv.pool import Lease, SequencePool, common_prefix
from edgeinfer.kv.shelf import Shelf

__all__ = ["Lease", "SequencePool", "Shelf", "common_prefix"]
