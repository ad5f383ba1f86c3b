"""Where the nodes of a graph have come to lie, as ONNX Runtime tells it: one line for people, figures for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeinfer.engines.devices import PROVIDERS
from edgeinfer.errors import BackendUnavailable

__all__ = ["Placement", "joined", "of_session"]

_BOOKKEEPING = frozenset(
    {
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Expand",
        "Identity",
        "MemcpyFromHost",
        "MemcpyToHost",
        "Range",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Squeeze",
        "Unsqueeze",
    }
)
"""Operators that move or describe values. ONNX Runtime leaves those on the CPU that feed a shape, whatever is asked."""
_FEW = 6


@dataclass(frozen=True, slots=True)
class Placement:
    """``nodes``: how many lie on each kind of provider, by its word (``cpu``, ``openvino``, …). ``elsewhere``: of those
    that compute, the operators that the chosen provider left to others, with their count. ``n_parts``: in how many
    pieces the chosen provider has its nodes, of ``n_graphs`` graphs: one each is best."""

    provider: str
    kind: str
    nodes: Mapping[str, int]
    elsewhere: Mapping[str, int]
    n_parts: int = 1
    n_graphs: int = 1

    @property
    def n_nodes(self) -> int:
        return sum(self.nodes.values())

    @property
    def line(self) -> str:
        """``npu: 412 of 415 nodes, 3 on cpu: Gather 2, ReduceSum``"""
        rest = {word: n for word, n in self.nodes.items() if word != self.provider}
        text = f"{self.kind}: {self.nodes.get(self.provider, 0)} of {self.n_nodes} nodes"
        if self.provider not in ("cpu", self.kind):
            text = f"{self.kind} ({self.provider}): {self.nodes.get(self.provider, 0)} of {self.n_nodes} nodes"
        if self.provider != "cpu" and self.n_parts > self.n_graphs:
            text += f" in {self.n_parts} parts" + (f" of {self.n_graphs} graphs" if self.n_graphs > 1 else "")
        text += "".join(f", {n} on {word}" for word, n in sorted(rest.items()))
        if self.elsewhere:
            shown = sorted(self.elsewhere.items(), key=lambda item: (-item[1], item[0]))[:_FEW]
            text += ": " + ", ".join(name + (f" {n}" if n > 1 else "") for name, n in shown)
            text += ", …" if len(self.elsewhere) > _FEW else ""
        elif rest:
            text += ": what moves values only"
        return text

    def as_dict(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "kind": self.kind,
            "nodes": dict(self.nodes),
            "elsewhere": dict(self.elsewhere),
            "n_parts": self.n_parts,
            "n_graphs": self.n_graphs,
            "line": self.line,
        }

    def check(self, required: str) -> None:
        """Raise `BackendUnavailable` unless all that computes lies on ``required``: a kind of hardware or a provider's
        word."""
        word, _, kind = required.partition(":")
        right = word in (self.kind, self.provider) and kind in ("", self.kind)
        if not right or self.elsewhere:
            raise BackendUnavailable(f"--require {required}: not everything computes there; {self.line}")


def of_session(session: Any, provider: str, kind: str) -> Placement:
    """The placement of all nodes of a session, opened with ``session.record_ep_graph_assignment_info``."""
    words = {entry.name: word for word, entry in PROVIDERS.items()}
    nodes: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    n_parts = 0
    for part in session.get_provider_graph_assignment_info():
        word = words.get(part.ep_name, part.ep_name)
        n_parts += word == provider
        for node in part.get_nodes():
            nodes[word] += 1
            if word != provider and node.op_type not in _BOOKKEEPING:
                elsewhere[node.op_type] += 1
    return Placement(provider, kind, dict(nodes), dict(elsewhere), n_parts)


def joined(placements: Sequence[Placement]) -> Placement:
    """Of several graphs of one provider, at least one."""
    nodes: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    for placement in placements:
        nodes.update(placement.nodes)
        elsewhere.update(placement.elsewhere)
    first, n_parts = placements[0], sum(placement.n_parts for placement in placements)
    return Placement(first.provider, first.kind, dict(nodes), dict(elsewhere), n_parts, len(placements))
