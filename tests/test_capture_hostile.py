"""Checkpoint files that lie: each is refused with one sentence, in little time and memory, and reads nothing but itself."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import weightlapse as wl
from tests.framework_presence import require
from tests.test_capture_imports import safetensors_bytes
from weightlapse.adapters.checkpoints import read_checkpoint
from weightlapse.capture.imports import import_checkpoints

require("torch", "h5py")

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def npy(shape: tuple[int, ...], data: bytes, descr: str = "<f4", fortran: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return file.getvalue() + data


def archive(path: Path, members: list[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", how) as file:
        for name, content in members:
            file.writestr(name, content)


def bomb(path: Path, member: str, head: bytes, zeros: int) -> None:
    """A zip member of ``zeros`` bytes in a thousandth of the room."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open(member, "w", force_zip64=True) as inside,
    ):
        inside.write(head)
        for _ in range(zeros >> 20):
            inside.write(bytes(1 << 20))


def npz_bomb(path: Path) -> None:
    bomb(path, "w.npy", npy((300 << 18,), b""), 300 << 20)


def npz_of_many(path: Path) -> None:
    """Each member is small enough; together they are not."""
    part = npy((1 << 24,), bytes(4 << 24))
    archive(path, [(f"w{k}.npy", part) for k in range(5)])


def npz_claim(path: Path) -> None:
    archive(path, [("w.npy", npy((1 << 40,), bytes(8)))])


def npz_negative(path: Path) -> None:
    archive(path, [("w.npy", npy((-1,), bytes(8)))])


def npz_longer(path: Path) -> None:
    archive(path, [("w.npy", npy((2,), bytes(80)))])


def npz_lying_size(path: Path) -> None:
    """The directory says that there are 30 bytes."""
    archive(path, [("w.npy", npy((1 << 22,), bytes(4 << 22)))])
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (30).to_bytes(4, "little")
    path.write_bytes(data)


def npz_twice(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(path, [("w.npy", npy((2,), bytes(8))), ("w.npy", npy((2,), bytes(8)))])


def npz_wrong_crc(path: Path) -> None:
    archive(path, [("w.npy", npy((2,), b"12345678"))], zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"12345678", b"12345679"))


def npz_encrypted(path: Path) -> None:
    archive(path, [("w.npy", npy((2,), bytes(8)))])
    data = bytearray(path.read_bytes())
    for magic, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + flag] |= 1
    path.write_bytes(data)


def npz_odd_compression(path: Path) -> None:
    archive(path, [("w.npy", npy((2,), bytes(8)))])
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(magic) + at] = 97
    path.write_bytes(data)


def npz_objects(path: Path) -> None:
    archive(path, [("w.npy", npy((2,), bytes(16), "|O"))])


def npz_deep_header(path: Path) -> None:
    text = b"(" * 5000
    archive(path, [("w.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)])


def torch_bomb(path: Path) -> None:
    file = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, file)
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for member in whole.infolist():
            content = whole.read(member)
            out.writestr(member.filename, bytes(300 << 20) if member.filename.endswith("data/0") else content)


def torch_endless_view(path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(1 << 32)}, path)


def torch_sparse(path: Path) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, path)


def torch_meta(path: Path) -> None:
    torch.save({"w": torch.empty(3, device="meta")}, path)


def torch_damaged(path: Path) -> None:
    torch.save({"w": torch.zeros(400)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(b"ctorch")  # inside of the pickle
    data[at : at + 6] = b"(((((("
    path.write_bytes(data)


def h5_bomb(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (1 << 34,), "f4", chunks=(1 << 20,), compression="gzip")


def h5_elsewhere(path: Path) -> None:
    (path.parent / "secret").write_bytes(b"12345678")
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (2,), "f4", external=[(str(path.parent / "secret"), 0, 8)])


def h5_virtual(path: Path) -> None:
    with h5py.File(path.parent / "other.h5", "w") as file:
        file["w"] = np.ones(2, "f4")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource(str(path.parent / "other.h5"), "w", (2,))
        file.create_virtual_dataset("w", layout)


def keras_bomb(path: Path) -> None:
    bomb(path, "model.weights.h5", b"", 300 << 20)


def tensors(path: Path, header: dict[str, object], data: bytes = bytes(8)) -> None:
    path.write_bytes(safetensors_bytes(header, data))


def text_header(path: Path, text: bytes) -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))


LIES: dict[str, Callable[[Path], None]] = {
    **{f"{f.__name__}.npz": f for f in (npz_bomb, npz_of_many, npz_claim, npz_negative, npz_longer, npz_lying_size, npz_twice)},
    **{f"{f.__name__}.npz": f for f in (npz_wrong_crc, npz_encrypted, npz_odd_compression, npz_objects, npz_deep_header)},
    **{f"{f.__name__}.pt": f for f in (torch_bomb, torch_endless_view, torch_sparse, torch_meta, torch_damaged)},
    **{f"{f.__name__}.weights.h5": f for f in (h5_bomb, h5_elsewhere, h5_virtual)},
    "keras_bomb.keras": keras_bomb,
    "one_region_many_times.safetensors": lambda p: tensors(p, {f"w{k}": F32 for k in range(1000)}),
    "overlap.safetensors": lambda p: tensors(p, {"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
    "infinite.safetensors": lambda p: text_header(p, b'{"w": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}'),
    "fractions.safetensors": lambda p: text_header(p, b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0.5, 8]}}'),
    "words.safetensors": lambda p: text_header(p, b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": ["a", 8]}}'),
    "three ends.safetensors": lambda p: text_header(p, b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}'),
    "list dtype.safetensors": lambda p: text_header(p, b'{"w": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}'),
    "twice.safetensors": lambda p: text_header(p, b'{"w": %s, "w": %s}' % ((json.dumps(F32).encode(),) * 2)),
    "deep.safetensors": lambda p: text_header(p, b'{"w": ' + b"[" * 100_000),
    "not text.safetensors": lambda p: text_header(p, b'{"\xff": 1}'),
    "new dtype.safetensors": lambda p: tensors(p, {"w": F32 | {"dtype": "F4_E2M1", "shape": [8]}}),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_lies_are_refused_at_once(tmp_path: Path, case: str) -> None:
    LIES[case](tmp_path / case)
    start = time.process_time()
    with pytest.raises(wl.CannotRecord) as caught:
        read_checkpoint(tmp_path / case)
    assert time.process_time() - start < 1.5
    assert case in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(wl.WeightlapseError):
        import_checkpoints([tmp_path / case], tmp_path / "run", steps=[0])
    assert not (tmp_path / "run").exists()


BOUNDED = """
import resource, sys
from weightlapse.adapters.checkpoints import read_checkpoint
from weightlapse.errors import CannotRecord
import torch, h5py
import resource
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
before = int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
for path in sys.argv[1:]:
    try:
        read_checkpoint(path)
    except CannotRecord:
        continue
    sys.exit(f"{path} was read")
after = int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
print((after - before) // 1024)
"""


def test_lies_cost_no_memory(tmp_path: Path) -> None:
    for case in LIES:
        LIES[case](tmp_path / case)
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, *(str(tmp_path / case) for case in LIES)],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parent.parent, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 150, "MiB"


def test_what_is_meant_is_still_read(tmp_path: Path) -> None:
    """Large and very regular checkpoints are no lies as long as they stay within a few hundred megabytes."""
    zeros = np.zeros((1000, 5000), np.float32)
    np.savez_compressed(
        tmp_path / "z.npz",
        w=zeros,
        scalar=np.float64(3),
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        none=np.empty((0, 4)),
    )
    assert (tmp_path / "z.npz").stat().st_size < zeros.nbytes / 500
    read = read_checkpoint(tmp_path / "z.npz")
    assert np.array_equal(read["w"], zeros)
    assert read["scalar"].shape == ()
    assert read["fortran"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["none"].shape == (0, 4)
    np.savez(tmp_path / "big-endian.npz", w=np.arange(3, dtype=">f4"), **{"v.npy": np.ones(2), "v": np.zeros(1)})
    read = read_checkpoint(tmp_path / "big-endian.npz")
    assert read["w"].tolist() == [0, 1, 2]
    assert (read["v"].tolist(), read["v.npy"].tolist()) == ([0], [1, 1])
    torch.save({"w": torch.zeros(3).expand(1000, 3), "tied": (one := torch.ones(2)), "again": one}, tmp_path / "v.pt")
    assert read_checkpoint(tmp_path / "v.pt")["w"].shape == (1000, 3)
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file.create_dataset("w", data=zeros, chunks=True, compression="gzip")
        file["empty"] = h5py.Empty("f4")
    assert list(read_checkpoint(tmp_path / "m.weights.h5")) == ["w"]


def test_names_inside_of_a_file_are_names_and_never_paths(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    archive(
        inside / "m-1.npz",
        [(name, npy((2,), bytes(8))) for name in ("../../x.npy", "/etc/y.npy", "a/b.npy", "..\\z.npy")],
    )
    import_checkpoints([inside / "m-1.npz"], inside / "run")
    run = wl.load(inside / "run")
    assert sorted(run.names) == ["../../x", "..\\z", "/etc/y", "a/b"]
    for kind in ("npz", "zarr", "safetensors", "parquet", "tensorboard"):
        run.export(kind, inside / kind)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert sorted(path.name for path in inside.iterdir()) == [
        "m-1.npz",
        "npz",
        "parquet",
        "run",
        "safetensors",
        "tensorboard",
        "zarr",
    ]
    with zipfile.ZipFile(inside / "npz") as file:
        assert not [name for name in file.namelist() if ".." in name or name.startswith("/") or "\\" in name]


def odd_things(folder: Path) -> dict[str, Path]:
    """What may lie where a checkpoint is expected."""
    found = {name: folder / f"{name}-1.npz" for name in ("dangling", "loop", "pipe", "folder", "gone", "below a file")}
    found["dangling"].symlink_to(folder / "nowhere")
    found["loop"].symlink_to(found["loop"])
    os.mkfifo(found["pipe"])
    found["folder"].mkdir()
    (folder / "file").write_text("x")
    found["below a file"] = folder / "file" / "m-1.npz"
    return found | {
        "device": Path("/dev/zero"),
        "NUL": folder / "a\0b-1.npz",
        "too long": folder / ("x" * 5000 + "-1.npz"),
    }


@pytest.mark.parametrize(
    "what", ["dangling", "loop", "pipe", "folder", "gone", "below a file", "device", "NUL", "too long"]
)
def test_no_file_at_all(tmp_path: Path, what: str) -> None:
    path = odd_things(tmp_path)[what]
    with pytest.raises(wl.InvalidArgument):
        read_checkpoint(path)
    with pytest.raises(wl.InvalidArgument):
        import_checkpoints([path], tmp_path / "run", steps=[0])
    assert not (tmp_path / "run").exists()


INDICES = {
    "a list": "[]", "no map": "{}", "no names": '{"weight_map": {"w": 3}}', "a text": '{"weight_map": "w"}', "deep": "[" * 100_000,
    "not text": b"\xff\xfe\xff", "itself": '{"weight_map": {"w": "loop"}}', "up": '{"weight_map": {"w": ".."}}', "here": '{"weight_map": {"w": "."}}',
    "nothing": '{"weight_map": {"w": ""}}', "backslash": '{"weight_map": {"w": "..\\\\x"}}', "lists": '{"weight_map": {"w": ["x"]}}',
}  # fmt: skip


@pytest.mark.parametrize("case", INDICES)
def test_hostile_indices(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    text = INDICES[case]
    (folder / "model.safetensors.index.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "loop").symlink_to(folder)
    with pytest.raises(wl.CannotRecord, match=r"model\.safetensors\.index\.json"):
        read_checkpoint(folder)


def test_shards_that_hold_the_same_tensor_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.safetensors").write_bytes(safetensors_bytes({"w": F32}, bytes(8)))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}')
    with pytest.raises(wl.CannotRecord, match="two tensors with the name 'w'"):
        read_checkpoint(folder)


def test_steps_that_no_recording_can_have(tmp_path: Path) -> None:
    np.savez(tmp_path / f"m-{10**30}.npz", w=np.ones(2))
    with pytest.raises(wl.InvalidArgument, match="give their steps"):
        import_checkpoints([tmp_path / f"m-{10**30}.npz"], tmp_path / "run")
    for steps in ([10**30], [-(10**30)]):
        with pytest.raises(wl.InvalidArgument, match="step"):
            import_checkpoints([tmp_path / f"m-{10**30}.npz"], tmp_path / "run", steps=steps)
    assert not (tmp_path / "run").exists()


def test_random_damage_of_every_kind_of_file(tmp_path: Path) -> None:
    """Whatever a damaged file does, it does not end in an error of somebody else."""
    import random

    np.savez_compressed(tmp_path / "a.npz", w=np.arange(300.0), v=np.ones((3, 4), np.float16))
    torch.save({"w": torch.arange(300.0), "v": torch.ones(3, 4)}, tmp_path / "a.pt")
    torch.save({"w": torch.arange(300.0)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file.create_dataset("w", data=np.arange(300.0), chunks=(100,), compression="gzip")
    archive(tmp_path / "a.keras", [("model.weights.h5", (tmp_path / "a.weights.h5").read_bytes())])
    (tmp_path / "a.safetensors").write_bytes(
        safetensors_bytes({"w": F32, "v": F32 | {"data_offsets": [8, 16]}}, bytes(range(16)))
    )
    draw = random.Random(5)
    tried = read = 0
    for whole in sorted(tmp_path.iterdir()):
        good = whole.read_bytes()
        bad = tmp_path / f"bad-{whole.name}"
        for _ in range(60):
            data = bytearray(good)
            if draw.random() < 0.25:
                del data[draw.randrange(len(data)) :]
            for _ in range(draw.choice([1, 1, 2, 20])):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
            bad.write_bytes(data)
            with contextlib.suppress(wl.WeightlapseError):
                read_checkpoint(bad)
                read += 1
            tried += 1
        bad.unlink()
    assert read < 0.6 * tried
