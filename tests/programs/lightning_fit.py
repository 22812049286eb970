"""Fits Lightning modules with a WatchCallback and checks each recording against clones taken by hand after every optimizer step."""

from __future__ import annotations

import inspect
import sys
import warnings
from pathlib import Path

import lightning
import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import weightlapse as wl
from weightlapse.adapters.lightning import WatchCallback

FOLDER = Path(sys.argv[1])
torch.manual_seed(0)
DATA = TensorDataset(torch.randn(48, 6), torch.randint(0, 3, (48,)))


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        )
        self.hand = [self.clone()]

    def clone(self):
        return {n: t.detach().clone().numpy() for n, t in self.state_dict().items()}

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("val_loss", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        optimizer.register_step_post_hook(lambda *_: self.hand.append(self.clone()))
        return optimizer


class Two(Net):
    """Two optimizers, stepped by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        for optimizer in self.optimizers():
            loss = super().training_step(batch, index)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        both = [torch.optim.SGD(self.net[0].parameters(), 0.1), torch.optim.Adam(self.net[3].parameters(), 1e-2)]
        for optimizer in both:
            optimizer.register_step_post_hook(lambda *_: self.hand.append(self.clone()))
        return both


def trainer(*callbacks, epochs=2, **more):
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=FOLDER, callbacks=list(callbacks), **{"enable_checkpointing": False, **more},
    )  # fmt: skip


def loader():
    return DataLoader(DATA, batch_size=16)


def fit(module, *callbacks, validate=True, ckpt_path=None, **more):
    machine = trainer(*callbacks, **more)
    if (
        "weights_only" in inspect.signature(machine.fit).parameters
    ):  # from Lightning 2.6 on; before, all of a checkpoint is read
        more = {"weights_only": False}
    else:
        more = {}
    machine.fit(module, loader(), loader() if validate else None, ckpt_path=ckpt_path, **more)
    return machine


def check(name, module):
    run = wl.load(FOLDER / name)
    assert run.steps.tolist() == list(range(len(module.hand))), run.steps
    assert set(run.names) == set(module.hand[0])
    for tensor in run.names:
        assert run[tensor][:].tobytes() == np.stack([s[tensor] for s in module.hand]).tobytes(), tensor
    assert run.closed
    return run


warnings.simplefilter("ignore")
both = {"streams": ("weights", "buffers")}
module = Net()
fit(module, WatchCallback(FOLDER / "plain", **both))
run = check("plain", module)
assert run.frames == 7
assert np.isfinite(run.scalars["loss"][1:]).all()
assert np.isfinite(run.scalars["val_loss"][[3, 6]]).all()

module = Net()
fit(module, WatchCallback(FOLDER / "accumulated", **both), accumulate_grad_batches=3)
assert check("accumulated", module).frames == 3

module = Two()
fit(module, WatchCallback(FOLDER / "two", **both))
assert check("two", module).frames == 13

# a second fit: refused, or appended when asked, or when it resumes from a checkpoint of a watched fit
try:
    fit(Net(), WatchCallback(FOLDER / "plain", **both))
except wl.InvalidArgument as error:
    said = str(error)
    assert "already holds a recording" in said
else:
    raise AssertionError("not refused")
module = Net()
fit(module, WatchCallback(FOLDER / "plain", resume=True, **both))  # from the first weights again: step 0
run = check("plain", module)
assert {name: branch.steps.tolist() for name, branch in run.branches.items()} == {"after-0": [1, 2, 3, 4, 5, 6]}
module.trainer = None
fit(module, WatchCallback(FOLDER / "plain", resume=True, **both))  # from the last weights on
assert check("plain", module).frames == 13

module = Net()
machine = fit(module, WatchCallback(FOLDER / "resumed", **both), epochs=1)
machine.save_checkpoint(FOLDER / "half.ckpt")
again = Net()
again.hand = module.hand
fit(again, WatchCallback(FOLDER / "resumed", **both), ckpt_path=FOLDER / "half.ckpt")
assert check("resumed", again).frames == 7

# a recorder that breaks leaves the training as it would have been
whole, broken = Net(), Net()
fit(whole)
watch = WatchCallback(FOLDER / "broken", **both)


class Saboteur(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if index == 1:
            watch.recorder._source.copy = lambda *_: 1 / 0


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fit(broken, watch, Saboteur())
assert sum("could not be recorded" in str(w.message) for w in caught) == 1
assert all(np.array_equal(whole.clone()[n], broken.clone()[n]) for n in whole.clone())
assert wl.load(FOLDER / "broken").frames == 2
assert [gap[:2] for gap in wl.load(FOLDER / "broken").gaps] == [(2, 6)]


# a training that fails leaves a closed recording that says why
class Failing(Net):
    def training_step(self, batch, index):
        if index == 2:
            raise FloatingPointError("planted")
        return super().training_step(batch, index)


try:
    fit(Failing(), WatchCallback(FOLDER / "failed"), validate=False)
except FloatingPointError:
    run = wl.load(FOLDER / "failed")
    assert run.closed
    assert run.frames == 3
    assert run.events == [(2, "training ended with FloatingPointError: planted")]


# a crash after an odd number of steps, resumed from older checkpoints, into the same folder and a new one
class Numbered(Net):
    """What a step does depends on its number alone, so that a resumed fit can be compared with one that was never interrupted."""

    crash_at = None

    def training_step(self, batch, index):
        if self.global_step == self.crash_at:
            raise InterruptedError("crash")
        draw = torch.Generator().manual_seed(self.global_step)
        x, y = torch.randn(16, 6, generator=draw), torch.randint(0, 3, (16,), generator=draw)
        return torch.nn.functional.cross_entropy(self.net(x), y)


class NumberedTwo(Numbered):
    """Two optimizers by hand: the trainer counts both of their steps."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        for optimizer in self.optimizers():
            loss = super().training_step(batch, index)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    configure_optimizers = Two.configure_optimizers


for kind, last in ((Numbered, 9), (NumberedTwo, 18)):
    whole = kind()
    fit(whole, epochs=3, validate=False)
    assert len(whole.hand) == last + 1
    for at in (2, 4):
        name = f"{kind.__name__}-{at}"
        crashing = kind()
        crashing.crash_at = 5
        keeper = pl.callbacks.ModelCheckpoint(
            dirpath=FOLDER / f"kept-{name}", filename="{step}", every_n_train_steps=2, save_top_k=-1
        )
        try:
            fit(
                crashing,
                WatchCallback(FOLDER / name, **both),
                keeper,
                epochs=3,
                validate=False,
                enable_checkpointing=True,
            )
        except InterruptedError:
            pass
        else:
            raise AssertionError("did not crash")
        crashed = wl.load(FOLDER / name)
        assert crashed.steps.tolist() == list(range(6)), crashed.steps
        kept = FOLDER / f"kept-{name}" / f"step={at}.ckpt"
        alone = kind()  # what the trainer itself does from there, without a callback
        fit(alone, epochs=3, validate=False, ckpt_path=kept)
        truth = whole.hand[: at + 1] + alone.hand[1:]
        if tuple(map(int, lightning.__version__.split(".")[:2])) >= (
            2,
            5,
        ):  # before, it makes the last step before the checkpoint twice
            assert len(truth) == last + 1, (name, len(truth))
        for folder, first in ((name, 0), (f"{name}-new", at)):
            fit(kind(), WatchCallback(FOLDER / folder, **both), epochs=3, validate=False, ckpt_path=kept)
            run = wl.load(FOLDER / folder)
            assert run.steps.tolist() == list(range(first, len(truth))), (folder, run.steps)
            for tensor in run.names:
                assert run[tensor][:].tobytes() == np.stack([s[tensor] for s in truth[first:]]).tobytes(), (
                    folder,
                    tensor,
                )
            assert list(run.branches) == ([f"after-{at}"] if folder == name else [])
            assert not run.gaps
        both_went = zip(truth, whole.hand, strict=False)
        assert all(np.array_equal(was[n], now[n]) for was, now in both_went for n in was)
print("checked")
