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

from weightlapse.adapters.checkpoint_files import READERS
from weightlapse.adapters.checkpoints import Checkpoint, read_checkpoint
from weightlapse.errors import CannotRecord, InvalidArgument
from weightlapse.store.remote import file_system, is_url

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "mp_rank_00_model_states.pt")
_NOT_WEIGHTS = re.compile(r"(^|/)(optimizer|scheduler|rng_state|training_args|scaler|.*optim_states)[^/]*$")
_STEP = re.compile(r"(?:step|iter|checkpoint|ckpt|batch|update)[a-z]*[-_=]?(\d{1,18})(?!\d)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,18}")
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
        self.revisions = sorted(self._found(), key=lambda r: (r.step, r.name))

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
        step = step_in(name)
        if size is not None and not (name.endswith(tuple(READERS)) and not _NOT_WEIGHTS.search(name)):
            if step is not None and name.endswith((".tmp", ".part", ".incomplete")):
                yield Revision(step, name, {}, "its name says that it was not finished")
            elif not name.startswith("."):
                self.ignored[name] = "no checkpoint"
            return
        if name.startswith("."):
            return
        if step is None:
            self.ignored[name] = "its name holds no step"
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

    def _weights(self, folder: str) -> dict[str, int]:
        """The files of a checkpoint's folder that hold its weights (and the index that names them)."""
        entries = {name: size for name, size in self._list(folder).items() if size is not None}
        for index in _INDEXES:
            if index in entries:
                named = self._named(f"{folder}/{index}", entries[index])
                absent = sorted(set(named) - set(entries))
                if absent:
                    raise CannotRecord(
                        f"{len(absent)} of the {len(named)} files that {index} names are missing, {absent[0]} first"
                    )
                return {f"{folder}/{name}": entries[name] for name in [index, *named]}
        for name in _WHOLE:
            if name in entries:
                return {f"{folder}/{name}": entries[name]}
        fit = [name for name in entries if name.endswith(tuple(READERS)) and not _NOT_WEIGHTS.search(name)]
        shards = [re.fullmatch(r".*-(\d+)-of-(\d+)\.safetensors", name) for name in fit]
        if fit and all(shards):
            of = {int(found[2]) for found in shards if found}
            if of != {len(fit)}:
                raise CannotRecord(f"{len(fit)} of {max(of)} shards are there")
        if fit and all(name.endswith(".safetensors") for name in fit):
            return {f"{folder}/{name}": entries[name] for name in fit}
        if len(fit) == 1:
            return {f"{folder}/{fit[0]}": entries[fit[0]]}
        if not fit:
            unfinished = [name for name in entries if name.endswith((".tmp", ".part", ".incomplete"))]
            raise CannotRecord(f"it holds no weights{f', only {unfinished[0]}' if unfinished else ''}")
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


def _read_files(paths: list[Path]) -> Checkpoint:
    found = Checkpoint()
    for path in paths:
        if path.name in _INDEXES:
            continue
        for name, values in read_checkpoint(path).items():
            if name in found:
                raise CannotRecord(f"two of its files hold a tensor {name!r}")
            found[name] = values
    return found


def step_in(name: str) -> int | None:
    """The step that the name of a revision tells: the number behind a word for it, else its last number.

    >>> step_in("step1000"), step_in("checkpoint-500"), step_in("global_step40"), step_in("epoch=3-step=1200.ckpt"), step_in("iter_0000100"), step_in("main")
    (1000, 500, 40, 1200, 100, None)
    >>> step_in("step1000-tokens4B"), step_in("model-00007.safetensors")
    (1000, 7)
    """
    for suffix in (*READERS, ".tmp", ".part", ".incomplete"):
        name = name.removesuffix(suffix)
    found = _STEP.findall(name)
    if found:
        return int(found[-1])
    numbers = _NUMBER.findall(name)
    return int(numbers[-1]) if numbers else None
