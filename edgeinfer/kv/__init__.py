"""Reuse of computed KV: nothing is computed twice."""

from edgeinfer.kv.pool import Lease, SequencePool

__all__ = ["Lease", "SequencePool"]
