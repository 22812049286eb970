"""Trains a tiny transformer with Hugging Face's Trainer and a WatchCallback; checks against clones taken by hand after every optimizer step."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import weightlapse as wl
from weightlapse.adapters.transformers import WatchCallback

FOLDER = Path(sys.argv[1])
torch.manual_seed(0)
TOKENS = torch.randint(0, 50, (24, 8))
DATA = [{"input_ids": row, "labels": row} for row in TOKENS]


def make():
    torch.manual_seed(1)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


class ByHand(TrainerCallback):
    def __init__(self):
        self.states = []

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.take(model)
        getattr(optimizer, "optimizer", optimizer).register_step_post_hook(lambda *_: self.take(model))

    def take(self, model):
        self.states.append({n: p.detach().clone().numpy() for n, p in model.named_parameters()})


def train(name, *callbacks, resume=None, **settings):
    model = make()
    settings = {"save_strategy": "no", "num_train_epochs": 1, **settings}
    arguments = TrainingArguments(
        output_dir=str(FOLDER / f"out-{name}"), per_device_train_batch_size=4, logging_steps=2, report_to=[],
        use_cpu=True, disable_tqdm=True, seed=3, **settings,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=DATA, eval_dataset=DATA, callbacks=list(callbacks)).train(
        resume_from_checkpoint=resume
    )
    return model


def check(path, hand, first=0):
    run = wl.load(path)
    assert run.steps.tolist() == list(range(first, len(hand.states))), run.steps
    assert set(run.names) == set(hand.states[0])
    for tensor in run.names:
        assert run[tensor][:].tobytes() == np.stack([s[tensor] for s in hand.states[first:]]).tobytes(), tensor
    return run


warnings.simplefilter("ignore")
hand = ByHand()
train("plain", WatchCallback(FOLDER / "plain"), hand)
run = check(FOLDER / "plain", hand)
assert run.frames == 7
assert run.aliases == {"transformer.wte.weight": ["lm_head.weight"]}
assert np.isfinite(run.scalars["loss"][[2, 4, 6]]).all()

hand = ByHand()
train("accumulated", WatchCallback(FOLDER / "accumulated"), hand, gradient_accumulation_steps=2)
assert check(FOLDER / "accumulated", hand).frames == 4

# given as a class, it records into the trainer's own folder
train("klass", WatchCallback)
assert wl.load(FOLDER / "out-klass" / "recording").frames == 7

try:
    train("again", WatchCallback(FOLDER / "plain"))
except wl.InvalidArgument as error:
    said = str(error)
    assert "already holds a recording" in said
else:
    raise AssertionError("not refused")
again = ByHand()
train("again", WatchCallback(FOLDER / "plain", resume=True), again)  # from the first weights again: step 0
assert list(check(FOLDER / "plain", again).branches) == ["after-0"]

whole = train("whole")
watch = WatchCallback(FOLDER / "broken")


class Saboteur(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            watch.recorder._source.copy = lambda *_: 1 / 0


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    broken = train("broken", watch, Saboteur())
assert sum("could not be recorded" in str(w.message) for w in caught) == 1
assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters()))
assert wl.load(FOLDER / "broken").frames == 3
assert [gap[:2] for gap in wl.load(FOLDER / "broken").gaps] == [(3, 6)]


# a crash after an odd number of steps, resumed from older checkpoints, into the same folder and a new one
class Crash(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise InterruptedError("crash")


for more in ({}, {"gradient_accumulation_steps": 2, "num_train_epochs": 2}):
    whole = ByHand()
    train("uninterrupted", whole, **more)
    assert len(whole.states) == 7
    for at in (2, 4):
        name = f"crash-{at}-{len(more)}"
        kept = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 5}
        try:
            train(name, WatchCallback(FOLDER / name), Crash(), **kept, **more)
        except InterruptedError:
            pass
        else:
            raise AssertionError("did not crash")
        checkpoint = str(FOLDER / f"out-{name}" / f"checkpoint-{at}")
        train(
            "resumed", WatchCallback(FOLDER / name), resume=checkpoint, **more
        )  # closes the recorder that the crash left open
        run = check(FOLDER / name, whole)
        assert run.branches[f"after-{at}"].steps.tolist() == list(range(at + 1, 6))
        train("resumed", WatchCallback(FOLDER / f"{name}-new"), resume=checkpoint, **more)
        assert not check(FOLDER / f"{name}-new", whole, at).branches

# the best model is put back at the end: that is no step
train(
    "best", WatchCallback(FOLDER / "best"), eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
    load_best_model_at_end=True, learning_rate=10.0,
)  # fmt: skip
assert wl.load(FOLDER / "best").steps.tolist() == list(range(7))
print("checked")
