"""From logits to a token: processors, samplers, grammar constraints, and the `Sampler` that composes them for one
request."""

from edgeinfer.sampling.sampler import Constraint, Sampled, Sampler

__all__ = ["Constraint", "Sampled", "Sampler"]
