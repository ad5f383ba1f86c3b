"""Reuse of computed KV: nothing is computed twice."""

from edgeinfer.kv.pool import Lease, SequencePool, common_prefix

__all__ = ["Lease", "SequencePool", "common_prefix"]
