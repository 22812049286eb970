"""A checkpoint widened without the code of its network: tensors, and a wiring that somebody wrote down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from weightlapse.adapters.checkpoints import file_or_folder
from weightlapse.errors import CannotGrow, InvalidArgument, UnknownTensor, closest, missing_extra
from weightlapse.growth.arrays import Array, grown_value
from weightlapse.growth.cells import Cells, grown_cells
from weightlapse.growth.families import chosen_families
from weightlapse.growth.module import changed_tensor
from weightlapse.growth.refusals import refuse_blocked
from weightlapse.store.portable import replace
from weightlapse.store.remove import remove_own
from weightlapse.wiring.data import Wiring

State = dict[str, torch.Tensor]


def widen_state(
    state: Mapping[str, torch.Tensor],
    wiring: Wiring,
    sizes: Mapping[str, int],
    *,
    split: str = "random",
    seed: int | None = None,
) -> tuple[State, Cells]:
    """A state dict with more units in the groups named by ``sizes``; tensors that no group touches are shared.

    There is no network to run, so the proof is another one: the new tensors, with the columns of replicas added up, are the
    old ones bit for bit. That the wiring is right is the word of whoever wrote it. Raises CannotGrow for groups whose spec
    says that they cannot be widened, UnknownTensor and InvalidArgument where checkpoint and wiring disagree.
    """
    families = chosen_families(wiring, sizes)
    refuse_blocked(wiring, families)
    cells = grown_cells(wiring, families, split=split, rng=np.random.default_rng(seed))
    stats = {m.tensor for f, _ in families for m in f.members if m.roles == {"stat"}}
    grown = dict(state)
    for tensor in cells.tensors:
        names = [name for name in wiring.names_of(tensor) if name in state]
        if not names and tensor not in stats:
            raise UnknownTensor(
                f"the checkpoint has no {tensor!r}, where units to be widened live ({closest(tensor, state)}); "
                "without it only a part of the network would be widened"
            )
        for name in names:
            grown[name] = _widened(name, state[name], tensor, wiring, cells)
    return grown, cells


def _widened(name: str, old: torch.Tensor, tensor: str, wiring: Wiring, cells: Cells) -> torch.Tensor:
    expected = wiring.shapes[tensor]
    if tuple(old.shape) != tuple(expected):
        raise InvalidArgument(
            f"{name!r} has shape {tuple(old.shape)} in the checkpoint, but the wiring says {tuple(expected)}"
        )
    maps = cells.maps_of(tensor)

    def value(_name: str, values: Array, dtype: str) -> Array:
        return grown_value(name, values, maps, dtype=dtype)

    new = changed_tensor(name, old, value)
    back = new.double() if new.is_floating_point() else new
    for axis, m in reversed(maps):
        length = int(m.source.max()) + 1
        source = torch.as_tensor(m.source, device=back.device)
        if (m.part != 1).any():
            shape = list(back.shape)
            shape[axis] = length
            back = back.new_zeros(shape).index_add(axis, source, back)
        else:
            first = np.unique(m.source, return_index=True)[1]
            back = back.index_select(axis, torch.as_tensor(first, device=back.device))
    finite = torch.isfinite(old)
    if not torch.equal(back[finite], old.to(back.dtype)[finite]):
        raise CannotGrow(f"{name!r}: the widened tensor does not add up to the old one; please report this")
    return new


def read_checkpoint(path: Path) -> tuple[State, dict[str, str]]:
    """The tensors of a ``.safetensors`` or ``.pt`` file (read with ``weights_only=True``), and its metadata."""
    if file_or_folder(path) == "folder":
        raise InvalidArgument(f"{path} is a folder; give one .safetensors or .pt file")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError:
            raise missing_extra("safetensors", extra="export", purpose="reading .safetensors files") from None
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        except SafetensorError as error:
            raise InvalidArgument(f"{path} is not a readable safetensors file: {error}") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, FileNotFoundError):
        raise
    except Exception as error:
        raise InvalidArgument(
            f"{path} cannot be read as a checkpoint of plain tensors ({type(error).__name__}); save model.state_dict()"
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise InvalidArgument(f"{path} holds no state dict (a mapping of names to tensors)")
    return dict(loaded), {}


def write_checkpoint(path: Path, state: State, metadata: Mapping[str, str]) -> None:
    """Writes a ``.safetensors`` file beside ``path`` first, and moves it there whole."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError:
        raise missing_extra("safetensors", extra="export", purpose="writing .safetensors files") from None
    seen: set[int] = set()
    apart: State = {}
    for name, tensor in state.items():
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        apart[name] = tensor.clone().contiguous() if shared else tensor.contiguous()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # no name that a user would give
    try:
        save_file(apart, part, metadata={"format": "pt", **metadata})
        replace(part, path)
    except SafetensorError as error:
        remove_own(part)
        raise InvalidArgument(f"{path} cannot be written ({error})") from None
    except OSError:
        remove_own(part)
        raise
