"""A tree of revisions of one model, as training leaves it or a hub publishes it: which checkpoints there are, of which steps, in which files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from weightlapse.adapters.checkpoint_files import READERS, SHARD, missing_shards
from weightlapse.adapters.checkpoints import Checkpoint, read_checkpoint
from weightlapse.adapters.step_names import Unclear, step_in, unfinished
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.store.remote import file_system, is_url

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors")
_NOT_WEIGHTS = re.compile(r"(^|/)(optimizer|scheduler|rng_state|training_args|scaler|.*optim_states)[^/]*$")
_PARALLEL = re.compile(
    r"(?:(?:bf16_|fp16_)?zero_pp_rank_\d+_)?mp_rank_\d+.*model_states\.pt|layer_\d+.*model_states\.pt|mp_rank_\d+"
)
_UNFINISHED = "its name says that it was not finished"
_MAX_INDEX = 100 << 20


@dataclass(frozen=True)
class Revision:
    """One checkpoint: ``files`` by path below the root, with their sizes. ``fault``: why it cannot be read, "" where nothing is known against it."""

    step: int
    name: str
    files: dict[str, int]
    fault: str = ""


class Tree:
    """The revisions below a folder or fsspec URL. ``ignored``: entries that are none, with the reason."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._files: Any = None
        if is_url(root):
            self._files, self._base = file_system(
                root, purpose=f"reading {root}", refused=lambda why: InvalidArgument(f"{root} cannot be opened: {why}")
            )
            if not self._files.isdir(self._base):
                raise InvalidArgument(f"{root} is no folder that can be listed")
        elif not Path(root).is_dir():
            raise InvalidArgument(f"{root} is no folder of checkpoints")
        self.ignored: dict[str, str] = {}
        found = sorted(self._found(), key=lambda r: (r.step, r.name))
        finished = {r.step for r in found if r.fault != _UNFINISHED}
        self.revisions = [r for r in found if r.fault != _UNFINISHED or r.step not in finished]
        self.ignored |= {r.name: _UNFINISHED for r in found if r.fault == _UNFINISHED and r.step in finished}

    # ---- looking ---------------------------------------------------------------------------------------------------

    def _list(self, below: str) -> dict[str, int | None]:
        """The entries of a folder: name and bytes, None for a folder."""
        if self._files is None:
            entries = sorted((Path(self.root) / below).iterdir())
            return {e.name: None if e.is_dir() else e.stat().st_size for e in entries if e.exists()}
        found = self._files.ls(f"{self._base}/{below}".rstrip("/"), detail=True)
        kinds = {
            PurePosixPath(e["name"]).name: None if e["type"] == "directory" else int(e["size"] or 0) for e in found
        }
        return dict(sorted(kinds.items()))

    def _read(self, file: str) -> bytes:
        if self._files is None:
            return (Path(self.root) / file).read_bytes()
        return bytes(self._files.cat_file(f"{self._base}/{file}"))

    def _found(self) -> Iterator[Revision]:
        top = self._list("")
        if "refs" in top and "snapshots" in top:  # the cache of the Hugging Face hub: refs name snapshots
            for name, size in self._list("refs").items():
                if size is None:
                    continue
                where = f"snapshots/{self._read(f'refs/{name}').decode('utf-8', 'replace').strip()}"
                yield from self._revision(name, where, None)
            return
        for name, size in top.items():
            yield from self._revision(name, name, size)

    def _revision(self, name: str, where: str, size: int | None) -> Iterator[Revision]:
        if size is not None and not (name.endswith(tuple(READERS)) and not _NOT_WEIGHTS.search(name)):
            if not unfinished(name) or (step := self._step(name)) is None:
                if not name.startswith("."):
                    self.ignored[name] = "no checkpoint"
                return
            yield Revision(step, name, {}, _UNFINISHED)
            return
        if _PARALLEL.fullmatch(name) or SHARD.fullmatch(name):
            self.ignored[name] = "a part of one checkpoint, not a checkpoint"
            return
        step = self._step(name)
        if unfinished(name):
            if step is not None:
                yield Revision(step, name, {}, _UNFINISHED)
            elif not name.startswith("."):
                self.ignored[name] = _UNFINISHED
            return
        if step is None:
            self.ignored.setdefault(name, "its name holds no step")
            return
        if size is not None:
            yield Revision(step, name, {where: size}, "" if size else "it is empty")
            return
        try:
            files = self._weights(where)
        except (FileNotFoundError, CannotRecord) as error:
            yield Revision(step, name, {}, str(error) if isinstance(error, CannotRecord) else "it is not there")
            return
        empty = [file for file, nbytes in files.items() if not nbytes]
        yield Revision(step, name, files, f"{empty[0]} is empty" if empty else "")

    def _step(self, name: str) -> int | None:
        """The step of an entry, None where its name tells none; raises where a word says that there is one, and it cannot be read."""
        try:
            return step_in(name)
        except Unclear as error:
            if error.sure:
                raise
            self.ignored[name] = f"its name tells no step: {error.why}"
            return None

    def _weights(self, folder: str) -> dict[str, int]:
        """The files of a checkpoint's folder that hold its weights (and the index that names them)."""
        everything = self._list(folder)
        entries = {name: size for name, size in everything.items() if size is not None}
        for index in _INDEXES:
            if index in entries:
                named = self._named(f"{folder}/{index}", entries[index])
                absent = sorted(set(named) - set(entries))
                if absent:
                    raise CannotRecord(
                        f"{len(absent)} of the {len(named)} files that {index} names are missing, {absent[0]} first"
                    )
                _all_shards(index, named, list(entries))
                return {f"{folder}/{name}": entries[name] for name in [index, *named]}
        if part := [name for name in everything if _PARALLEL.fullmatch(name)]:
            return {f"{folder}/{name}": entries[name] for name in _one_part(part, entries)}
        for name in _WHOLE:
            if name in entries:
                return {f"{folder}/{name}": entries[name]}
        fit = [name for name in entries if name.endswith(tuple(READERS)) and not _NOT_WEIGHTS.search(name)]
        if fit and all(SHARD.fullmatch(name) for name in fit) and (short := missing_shards(fit)):
            raise CannotRecord(short)
        if fit and all(name.endswith(".safetensors") for name in fit):
            return {f"{folder}/{name}": entries[name] for name in fit}
        if len(fit) == 1:
            return {f"{folder}/{fit[0]}": entries[fit[0]]}
        if not fit:
            begun = [name for name in entries if unfinished(name)]
            raise CannotRecord(f"it holds no weights{f', only {begun[0]}' if begun else ''}")
        raise CannotRecord(
            f"it holds several files, and which of them are the weights is unknown: {', '.join(fit[:4])}"
        )

    def _named(self, index: str, size: int) -> list[str]:
        try:
            if size > _MAX_INDEX:
                raise ValueError(f"it has {size:,} bytes")
            named = sorted(set(json.loads(self._read(index))["weight_map"].values()))
            if not named or any(PurePosixPath(name).name != name or "\\" in name for name in named):
                raise ValueError("it names no files, or such outside of its folder")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CannotRecord(f"{PurePosixPath(index).name} is no index of a sharded checkpoint ({error})") from None
        return named

    # ---- reading ---------------------------------------------------------------------------------------------------

    @contextmanager
    def opened(self, revision: Revision, room: Path) -> Iterator[Checkpoint]:
        """The arrays of a revision, as long as the context lasts; one from elsewhere lies in ``room`` until then.

        Raises :class:`CannotRecord` for what is not whole.
        """
        if revision.fault:
            raise CannotRecord(revision.fault)
        if self._files is None:
            yield _read_files([Path(self.root) / file for file in revision.files])
            return
        with TemporaryDirectory(prefix=".import-", dir=room) as folder:
            paths = []
            for file, size in revision.files.items():
                path = Path(folder) / PurePosixPath(file).name
                try:
                    self._files.get_file(f"{self._base}/{file}", str(path))
                except FileNotFoundError:
                    raise CannotRecord(f"{file} is gone") from None
                if path.stat().st_size != size:
                    raise CannotRecord(f"{path.stat().st_size:,} of the {size:,} bytes of {file} arrived")
                paths.append(path)
            yield _read_files(paths)


def _all_shards(index: str, named: list[str], there: list[str]) -> None:
    """Refuse an index that names only some of the shards beside it."""
    kinds = {(found[1], found[3], found[4]) for name in named if (found := SHARD.fullmatch(name))}
    others = [name for name in there if (found := SHARD.fullmatch(name)) and (found[1], found[3], found[4]) in kinds]
    unnamed = sorted(set(others) - set(named))
    short = [int(count) for _, count, _ in kinds if int(count) > len(named)]
    if unnamed or short:
        more = f"{unnamed[0]} lies beside it" if unnamed else f"by their names there are {short[0]}"
        raise CannotRecord(
            f"{index} names {len(named)} of its shards, and {more}: the index was not written to its end"
        )


def _one_part(parts: list[str], entries: dict[str, int]) -> list[str]:
    """The one file of a DeepSpeed or Megatron checkpoint that was trained in one piece; several are parts of one network."""
    if len(parts) == 1 and parts[0] == "mp_rank_00_model_states.pt" and parts[0] in entries:
        return parts
    kind = (
        "one of the layers each (pipeline parallel)" if any(p.startswith("layer_") for p in parts)
        else "shared out over the data parallel ranks (ZeRO stage 3)" if any("zero_pp_rank" in p for p in parts)
        else "a part of every matrix each (tensor parallel)"
    )  # fmt: skip
    raise CannotRecord(
        f"its weights lie in {len(parts)} parts ({', '.join(sorted(parts)[:3])}{', ...' if len(parts) > 3 else ''}), {kind}, and none of them is the network: "
        "merge them first (DeepSpeed's zero_to_fp32.py or ds_to_universal.py, Megatron's tools/checkpoint/convert.py) and import what that writes"
    )


def _read_files(paths: list[Path]) -> Checkpoint:
    found = Checkpoint()
    promised: list[str] = []
    for path in paths:
        if path.name in _INDEXES:
            promised = list(json.loads(path.read_bytes())["weight_map"])
            continue
        for name, values in read_checkpoint(path).items():
            if name in found:
                raise CannotRecord(f"two of its files hold a tensor {name!r}")
            found[name] = values
    if absent := sorted(set(promised) - set(found)):
        raise CannotRecord(
            f"{len(absent)} of the {len(promised)} tensors that its index names are in no file, {absent[0]!r} first"
        )
    return found
