"""``edgeinfer models``: what there is, what is here, and whether it is whole."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import click

from edgeinfer.cli.flags import Group
from edgeinfer.cli.options import debug_flag, json_flag
from edgeinfer.cli.pulling import download_progress, size
from edgeinfer.cli.table import print_table
from edgeinfer.errors import EdgeInferError, FormatError, ModelNotFound, UsageError
from edgeinfer.text.printable import printable

if TYPE_CHECKING:
    from edgeinfer.catalog import Card, LocalModel
    from edgeinfer.core import ModelInfo

__all__ = ["command", "download_progress"]

_CONTEXTS = (2048, 4096, 8192, 16384, 32768)


@click.group("models", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List, pull, show, verify and remove models.

    A model is named by the catalogue (see list), by the path of a GGUF file or of an ONNX package, or as
    hf:owner/repo[:quant].
    """


def _emit(data: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(data))


# ---- list


@command.command("list")
@json_flag
@debug_flag
def list_models(as_json: bool) -> None:
    """The catalogue, and what of it is on this machine."""
    import sys

    from edgeinfer import catalog

    folder = catalog.models_dir()
    rows = [_card_row(card) for card in catalog.cards().values()]
    known = {card.file for card in catalog.cards().values()}
    if folder.is_dir():
        others = sorted(path for path in folder.glob("*.gguf") if path.name not in known and path.is_file())
        rows += [{"name": str(path), "bytes": path.stat().st_size, "here": True, "state": "here"} for path in others]
        packages = catalog.packages()
        rows += [
            {"name": str(path), "quant": "onnx", "bytes": catalog.size_bytes(path), "here": True, "state": "here"}
            for path in packages
        ]
    if as_json:
        _emit({"folder": str(folder), "models": rows})
        return
    table = [
        (row["name"], row.get("quant", ""), size(row["bytes"]), row["state"], row.get("description", ""))
        for row in rows
    ]
    print_table(("model", "quant", "size", "state", "description"), table, boxed=sys.stdout.isatty())
    click.echo(f"models folder: {printable(str(folder))}", err=True)


def _card_row(card: Card) -> dict[str, Any]:
    from edgeinfer import catalog

    path = catalog.models_dir() / card.file
    here = path.is_file()
    whole = here and path.stat().st_size == card.bytes
    partial = catalog.partial_bytes(card)
    if here:
        state = "here" if whole else "damaged"
    else:
        state = f"partly here ({100 * partial // card.bytes} %)" if partial else "not here"
    facts = {
        key: getattr(card, key)
        for key in ("name", "quant", "bytes", "licence", "architecture", "parameters", "context")
    }
    facts |= {"memory_bytes": card.memory_bytes, "draft": card.draft, "chat": card.template.format != "none"}
    return facts | {"here": whole, "state": state, "path": str(path) if here else None, "description": card.description}


# ---- pull


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--from", "source", type=click.Choice(["pip", "hf"]), help="Take it from this kind of source only.")
@json_flag
@debug_flag
def pull(names: tuple[str, ...], source: str | None, as_json: bool) -> None:
    """Fetch models. Interrupted pulls are resumed; a file gets its name only when its hash is right."""
    from edgeinfer import catalog

    pulled = []
    for name in names:
        with download_progress(printable(name)) as progress:
            model = catalog.pull(name, source=source, progress=progress)
        pulled.append({"name": model.name, "path": str(model.path), "bytes": model.path.stat().st_size})
        if not as_json:
            click.echo(printable(str(model.path)))
    if as_json:
        _emit({"models": pulled})


# ---- show


@command.command(short_help="What a model is, and what it needs.")
@click.argument("name")
@json_flag
@debug_flag
def show(name: str, as_json: bool) -> None:
    """Architecture, parameters, quantization, context, licence, kernels and memory of a model."""
    from edgeinfer import catalog, described
    from edgeinfer.cli import drafts
    from edgeinfer.coverage import expected_coverage, in_words

    try:
        model = catalog.resolve(name)
    except ModelNotFound:
        if name not in catalog.cards():
            raise
        _show_card(catalog.cards()[name], as_json)
        return
    file = described.read(model.path)
    info = described.info(file, name=model.name)
    needs = _memory_rows(file, info)
    covered = expected_coverage(file)
    about = drafts.about(model.card, info)
    saved = _saved(info.name)
    if as_json:
        facts = dataclasses.asdict(
            dataclasses.replace(info, licence=_licence(model, info), quant_mix=dict(info.quant_mix))
        )
        facts |= {"here": True, **about, "memory": needs, "kv_cache": saved}
        _emit(facts | {"kernels": dataclasses.asdict(covered)})
        return
    costs = [("pass costs", line) for line in drafts.costs_in_words(about)]
    draft = [("draft", drafts.partner_in_words(about))] if model.card else []
    states = f"{saved['n_states']} saved, {size(saved['bytes'])} on disk (edgeinfer cache ls)"
    rows = [*_facts(model, info), *draft, ("kernels", in_words(covered)), *costs, ("conversations", states)]
    for label, text in rows:
        click.echo(f"{label + ':':15}{printable(text)}")
    click.echo("memory:        at a context of")
    for row in needs:
        click.echo(f"{row['n_ctx']:>15,} tokens  {size(row['total_bytes']):>8}  {_VERDICTS[row['verdict']]}")


def _saved(name: str) -> dict[str, int]:
    """Saved states that were made with a model of this name."""
    from edgeinfer.kv.store import Store

    entries = []
    with contextlib.suppress(OSError):  # `doctor` says what is wrong there
        store = Store(said=lambda line: click.echo(printable(line), err=True))
        entries = [line for line in store.ls() if line.label == name]
    return {"n_states": len(entries), "bytes": sum(line.n_bytes for line in entries)}


_VERDICTS = {"fits": "fits", "pages": "will page from disk", "too_big": "does not fit here"}


def _memory_rows(file: Any, info: ModelInfo) -> list[dict[str, Any]]:
    from edgeinfer import memory
    from edgeinfer.engines.base import EngineConfig

    rows = []
    for n_ctx in sorted({n for n in _CONTEXTS if n < info.n_ctx_train} | {min(info.n_ctx_train, _CONTEXTS[-1])}):
        plan = memory.plan(file, EngineConfig(n_ctx=n_ctx))
        rows.append({"n_ctx": n_ctx, **dataclasses.asdict(plan)})
    return rows


def _licence(model: LocalModel, info: ModelInfo) -> str | None:
    return info.licence or (model.card.licence if model.card else None)


def _facts(model: LocalModel, info: ModelInfo) -> list[tuple[str, str]]:
    card = model.card
    mix = ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in info.quant_mix.items())
    heads = f"{info.n_heads} heads of {info.head_dim}, {info.n_kv_heads} for keys and values"
    template = "yes" if info.chat_template else "no (a base model: use generate)"
    rows = [
        ("name", info.name),
        ("file", info.path),
        ("size", size(info.file_bytes)),
        ("architecture", f"{info.architecture}: {info.n_layers} layers of {info.n_embd}, {heads}"),
        ("parameters", f"{info.n_params / 1e6:,.0f} million, vocabulary {info.n_vocab:,}"),
        ("quantization", f"{mix} of the bytes; {info.bits_per_weight:.2f} bits a weight"),
        ("context", f"{info.n_ctx_train:,} tokens"),
        ("chat template", template + (f". {card.template.notes}" if card and card.template.notes else "")),
        ("licence", _licence(model, info) or "not stated in the file"),
    ]
    if card is not None:
        rows.insert(1, ("about", card.description))
    return rows


def _show_card(card: Card, as_json: bool) -> None:
    """What the catalogue says of a model that is not here."""
    from edgeinfer.cli import drafts

    draft = drafts.partner_facts(card)
    if as_json:
        _emit(_card_row(card) | draft)
        return
    rows = [
        ("name", card.name),
        ("about", card.description),
        ("size", f"{size(card.bytes)}, not on this machine; get it with: edgeinfer models pull {card.name}"),
        ("architecture", card.architecture),
        ("parameters", f"{card.parameters / 1e6:,.0f} million"),
        ("quantization", card.quant),
        ("context", f"{card.context:,} tokens"),
        ("chat template", card.template.format + (f". {card.template.notes}" if card.template.notes else "")),
        ("licence", card.licence),
        ("draft", drafts.partner_in_words(draft)),
        ("memory", f"about {size(card.memory_bytes)} at a context of 4,096 tokens"),
    ]
    for label, text in rows:
        click.echo(f"{label + ':':15}{printable(text)}")


# ---- verify


@command.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_flag
@debug_flag
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Read models again from disk and compare them with their hashes. Without NAME: all catalogue models that are here.

    Exit code 1 when one is damaged.
    """
    from edgeinfer import catalog

    if not names:
        here = catalog.models_dir()
        names = tuple(card.name for card in catalog.cards().values() if (here / card.file).is_file())
    results = [_verified(name) for name in names]
    damaged = [result for result in results if not result["ok"]]
    if as_json:
        _emit({"models": results})
    for result in results:
        if result["ok"] and not as_json:
            held = "" if result["pinned"] else "  (not in the catalogue: only its structure was checked)"
            click.echo(f"ok  {printable(result['name'])}  sha256 {result['sha256']}{held}")
    for result in damaged[:-1]:
        click.echo(f"edgeinfer: error: {printable(result['error'])}", err=True)
    if damaged and as_json:
        ctx.exit(FormatError.exit_code)
    if damaged:
        raise FormatError(damaged[-1]["error"])
    if not results:
        click.echo("no models are here; see: edgeinfer models list", err=True)


def _verified(name: str) -> dict[str, Any]:
    """A damaged model is a result; a missing one is an error."""
    from edgeinfer import catalog

    model = catalog.locate(name)
    if model.path.is_dir():
        return _verified_package(model)
    result: dict[str, Any] = {"name": model.name, "path": str(model.path), "pinned": model.card is not None}
    try:
        with download_progress(f"checking {printable(model.name)}") as progress:
            sha256 = catalog.verify(model, progress=progress)
    except ModelNotFound:
        raise
    except EdgeInferError as damage:
        return result | {"ok": False, "sha256": None, "error": str(damage)}
    return result | {"ok": True, "sha256": sha256, "error": None}


def _verified_package(model: LocalModel) -> dict[str, Any]:
    """An ONNX package holds the hashes of its files itself."""
    import hashlib

    from edgeinfer.onnx import package as packages

    result: dict[str, Any] = {"name": model.name, "path": str(model.path), "pinned": False}
    try:
        packages.read(model.path).check_hashes()
    except EdgeInferError as damage:
        return result | {"ok": False, "sha256": None, "error": str(damage)}
    manifest = model.path / packages.MANIFEST
    return result | {"ok": True, "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(), "error": None}


# ---- rm


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_flag
@debug_flag
def rm(names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete pulled models, and what interrupted pulls left. Files outside the models folder are never touched."""
    removed = []
    for name in names:
        n_bytes = _remove(name, yes)
        removed.append({"name": name, "bytes": n_bytes})
        if not as_json:
            click.echo(f"removed {printable(name)} ({size(n_bytes)})", err=True)
    if as_json:
        _emit({"removed": removed})


def _remove(name: str, yes: bool) -> int:
    from edgeinfer import catalog

    try:
        model = catalog.locate(name)
    except ModelNotFound:
        card = catalog.cards().get(name)
        if card is None or not catalog.partial_bytes(card):
            raise
        _ask(f"delete what was pulled so far of {name} ({size(catalog.partial_bytes(card))})?", yes)
        return catalog.abandon(card)
    catalog.check_removable(model)
    _ask(f"delete {printable(str(model.path))} ({size(catalog.size_bytes(model.path))})?", yes)
    return catalog.remove(model)


def _ask(question: str, yes: bool) -> None:
    try:
        agreed = yes or click.confirm(question, err=True)
    except click.Abort as nobody:
        raise UsageError("nothing was deleted: there was no answer; pass -y to delete without asking") from nobody
    if not agreed:
        click.echo("nothing was deleted", err=True)
        raise click.exceptions.Exit(1)
