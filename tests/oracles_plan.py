"""The slow twin of ``capture/flow.py``: training, ring, disk, codec and network in small steps of time, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

from weightlapse.capture.flow import Flow


@dataclass
class Outcome:
    training_seconds: float  # until the last frame is in the ring
    left_out: int  # frames that found the ring full, where they are left out
    most_nbytes: float  # that were on the disk at once
    closes_in: float  # seconds after the last step
    mirrored_in: float


def simulate(flow: Flow, frames: int, *, stretch: bool = False) -> Outcome:
    """Everything happens once a tick: training may put a frame into the ring, the disk and the codec move what they can of a tick."""
    tick = min(flow.period, flow.frame_nbytes / flow.disk) / 20
    now, worked, made, left_out = 0.0, 0.0, 0, 0
    ring = log = encoded = blocks = sent = most = 0.0  # bytes; encoded: what the disk has yet to write of blocks
    behind = 2 * flow.frame_nbytes / flow.ratio  # the system holds so much of it, and lets the codec wait beyond
    while made + left_out < frames:
        now += tick
        room = ring <= (flow.ring - 1) * flow.frame_nbytes
        if worked + tick < flow.period or room or stretch:
            worked += tick
        if worked >= flow.period:
            if room:
                worked -= flow.period
                ring += flow.frame_nbytes
                made += 1
            elif stretch:
                worked -= flow.period
                left_out += 1
        budget = flow.disk * tick
        moved = min(ring, budget)
        ring, log, budget = ring - moved, log + moved, budget - moved
        done = min(log, flow.encode * tick, (behind - encoded) * flow.ratio)
        log, encoded = log - done, encoded + done / flow.ratio
        moved = min(encoded, budget)
        encoded, blocks = encoded - moved, blocks + moved
        sent += min(blocks - sent, flow.network * tick)
        most = max(most, log + encoded + blocks)
    training, kept, closed, mirrored = now, made * flow.frame_nbytes, 0.0, 0.0
    tick = max(tick / 10, (ring + log) / flow.encode_all / 4000)
    while closed == 0 or mirrored == 0:
        now += tick
        moved = min(ring, flow.disk * tick)
        ring, log, budget = ring - moved, log + moved, flow.disk * tick - moved
        if ring <= 0:
            done = min(log, flow.encode_all * tick, (behind - encoded) * flow.ratio)
            log, encoded = log - done, encoded + done / flow.ratio
        moved = min(encoded, budget)
        encoded, blocks = encoded - moved, blocks + moved
        sent += min(blocks - sent, flow.network * tick)
        most = max(most, log + encoded + blocks)
        if closed == 0 and ring <= 0 and log + encoded <= 1e-6 * kept:
            closed = now - training
        if mirrored == 0 and closed and sent >= (1 - 1e-6) * kept / flow.ratio:
            mirrored = now - training
    return Outcome(training, left_out, most, closed, mirrored)
