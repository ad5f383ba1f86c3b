"""Do a token's logits depend on its company? Measured for one GGUF file, under our kernels or under stock llama.cpp.

    python tools/kernels_parity.py MODEL.gguf [--stock] [--kv-type TYPE]

The reference is one batch of 256 tokens of a text. Then the same tokens go in slices of M, with 1 and 2 threads,
beside seven other sequences at several offsets of one shared cache, into the holes that a released sequence leaves,
behind a prefix that is shared with another sequence, and after a sequence's state was saved and read back. Prints the
largest difference of any logit to the reference for each: 0 means bit for bit. How far ours are from stock is what
``edgeinfer verify MODEL.gguf MODEL.gguf@kernels=off`` says.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp as lc
import numpy as np
import numpy.typing as npt

from edgeinfer import kernels
from edgeinfer.metrics import kl_divergence

Logits = npt.NDArray[np.float32]
N_TOKENS = 256
_KV_TYPES = {"f16": lc.GGML_TYPE_F16, "q8_0": lc.GGML_TYPE_Q8_0}


_quiet = lc.llama_log_callback(lambda _level, _text, _data: None)


class Session:
    """One model and one context with 8 sequences in a shared cache."""

    def __init__(self, path: Path, kv_type: str = "f16") -> None:
        lc.llama_backend_init()
        self.model = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path} does not load")
        self.vocab = lc.llama_model_get_vocab(self.model)
        self.n_vocab = lc.llama_vocab_n_tokens(self.vocab)
        config = lc.llama_context_default_params()
        config.n_ctx = 8192
        config.n_seq_max = 8
        config.kv_unified = True
        config.n_batch = config.n_ubatch = 512
        config.n_threads = config.n_threads_batch = 2
        config.flash_attn_type = 1
        config.type_k = config.type_v = _KV_TYPES[kv_type]
        self.context = lc.llama_init_from_model(self.model, config)
        self.memory = lc.llama_get_memory(self.context)
        self.batch = lc.llama_batch_init(512, 0, 1)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        n = lc.llama_tokenize(self.vocab, data, len(data), ids, len(ids), True, False)
        return list(ids[:n])

    def forward(self, slices: Sequence[tuple[int, Sequence[int], int]]) -> Logits:
        """Logits of every token of (sequence, ids, position) in one call."""
        n = 0
        for sequence, ids, position in slices:
            for j, token in enumerate(ids):
                self.batch.token[n], self.batch.pos[n] = token, position + j
                self.batch.n_seq_id[n], self.batch.seq_id[n][0] = 1, sequence
                self.batch.logits[n] = 1
                n += 1
        self.batch.n_tokens = n
        if lc.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")
        values = np.ctypeslib.as_array(lc.llama_get_logits(self.context), shape=(n, self.n_vocab))
        return np.array(values)

    def clear(self) -> None:
        lc.llama_memory_clear(self.memory, True)

    def threads(self, n: int) -> None:
        lc.llama_set_n_threads(self.context, n, n)

    def close(self) -> None:
        lc.llama_batch_free(self.batch)
        lc.llama_free(self.context)
        lc.llama_model_free(self.model)


def sliced(session: Session, ids: Sequence[int], m: int, n: int) -> Logits:
    """The first n positions, M at a time."""
    session.clear()
    return np.concatenate([session.forward([(0, ids[i : min(i + m, n)], i)]) for i in range(0, n, m)])


def in_company(session: Session, ids: Sequence[int], n: int, before: int) -> Logits:
    """The first n positions as one of 8 sequences, decoded in step, after ``before`` cells of the others."""
    session.clear()
    others = list(range(1, 8))
    for s in others:
        session.forward([(s, ids[s : s + before + s], 0)])
    out = [session.forward([(0, ids[:5], 0)])]
    for i in range(5, n):
        step = [(s, [ids[i + s]], before + s + i - 5) for s in others]
        where = i % 8
        step.insert(where, (0, [ids[i]], i))
        out.append(session.forward(step)[where : where + 1])
    return np.concatenate(out)


def into_holes(session: Session, ids: Sequence[int], n: int) -> Logits:
    """The first n positions, whose cells come to lie before and after: a sequence in front is released on the way."""
    session.clear()
    session.forward([(1, ids[:120], 0)])
    session.forward([(2, ids[3:10], 0)])
    out = [session.forward([(0, ids[:20], 0)])]
    lc.llama_memory_seq_rm(session.memory, 1, -1, -1)
    out += [session.forward([(0, ids[i : min(i + 3, n)], i)]) for i in range(20, n, 3)]
    return np.concatenate(out)


def forked(session: Session, ids: Sequence[int], n: int) -> Logits:
    """The first n positions: 40 of them computed by another sequence that goes on differently, its cells shared."""
    session.clear()
    prefix = session.forward([(3, ids[:40], 0)])
    lc.llama_memory_seq_cp(session.memory, 3, 0, -1, -1)
    session.forward([(3, ids[7:20], 40)])
    return np.concatenate(
        [prefix, *(session.forward([(3, [ids[i]], i + 13), (0, [ids[i]], i)])[1:] for i in range(40, n))]
    )


def restored(session: Session, ids: Sequence[int], n: int) -> Logits:
    """The first n positions, saved half-way and read back as another sequence, to other cells."""
    session.clear()
    half = session.forward([(0, ids[: n // 2], 0)])
    size = lc.llama_state_seq_get_size(session.context, 0)
    state = (ctypes.c_uint8 * size)()
    written = lc.llama_state_seq_get_data(session.context, state, size, 0)
    session.clear()
    session.forward([(2, ids[:33], 0)])
    if lc.llama_state_seq_set_data(session.context, state, written, 5) == 0:
        raise SystemExit("a saved sequence was not taken back")
    return np.concatenate([half, *(session.forward([(5, [ids[i]], i)]) for i in range(n // 2, n))])


def cases(session: Session, ids: Sequence[int]) -> Iterator[tuple[str, Logits]]:
    """What is compared with the reference: a name and the logits of the first positions."""
    for threads in (2, 1):
        session.threads(threads)
        for m in (1, 2, 3, 5, 8, 16):
            yield f"M = {m}, {threads} threads", sliced(session, ids, m, 64)
        for m in (33, 100, 256):
            yield f"prefill in {m}, {threads} threads", sliced(session, ids, m, N_TOKENS)
        for before in (1, 40, 77):
            yield (
                f"8 in a batch, {before} cells of each before, {threads} threads",
                in_company(session, ids, 48, before),
            )
        yield f"cells in holes, {threads} threads", into_holes(session, ids, 64)
        yield f"a shared prefix, {threads} threads", forked(session, ids, 64)
        yield f"a saved state, {threads} threads", restored(session, ids, 64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, default=Path(__file__))
    parser.add_argument("--stock", action="store_true", help="without our kernels")
    parser.add_argument("--kv-type", choices=list(_KV_TYPES), default="f16")
    args = parser.parse_args()
    lc.llama_log_set(_quiet, ctypes.c_void_p(0))
    if not args.stock:
        report = kernels.install()
        if not report.active:
            raise SystemExit(report.why)
    session = Session(args.model, args.kv_type)
    ids = session.tokenize(args.text.read_text())[: N_TOKENS + 16]
    if len(ids) < N_TOKENS + 16:
        raise SystemExit(f"{args.text} has only {len(ids)} tokens")
    reference = session.forward([(0, ids[:N_TOKENS], 0)])
    worst = 0.0
    for name, logits in cases(session, ids):
        difference = float(np.abs(logits - reference[: len(logits)]).max())
        kl = kl_divergence(reference[: len(logits)], logits)
        worst = max(worst, difference)
        print(f"{name:55} largest difference {difference:.3g}, KL mean {kl.mean():.2e}", flush=True)
    print("bit for bit" if worst == 0 else f"not the same: up to {worst:.3g}")
    return 0 if worst == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
