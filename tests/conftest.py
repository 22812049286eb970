"""One thread for every library while tests run side by side, and recorders that raise instead of warning."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WEIGHTLAPSE_STRICT", "1")
