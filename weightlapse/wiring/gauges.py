"""Sign and scale: how the units of a group may be flipped or rescaled without changing the function.

This is dimensional analysis. Every tensor that holds a group's units gets an unknown exponent: how its values change when the
units are multiplied by s. Each operator on the tape gives linear equations between them (a product adds exponents, a sum needs
equal ones, a contraction needs them to cancel). Over the rationals the solutions are the scale symmetries, over {0, 1} the sign
symmetries. What an activation allows is not looked up by its name: the operator is run alone on scaled and flipped numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from weightlapse.wiring.equations import Equations
from weightlapse.wiring.groups import Positions, walk
from weightlapse.wiring.homogeneity import Homogeneity
from weightlapse.wiring.infer import Inference, Typed
from weightlapse.wiring.members import Member
from weightlapse.wiring.products import BIASED, GROUPED, conv_iteration, matrix_iteration
from weightlapse.wiring.record import Call, Tape
from weightlapse.wiring.rules.table import RULES, is_pointwise

_MOVES = frozenset(
    "as_strided im2col col2im view _unsafe_view reshape _reshape_alias squeeze unsqueeze permute t transpose expand slice narrow select split split_with_sizes chunk "
    "unsafe_split unsafe_chunk tensor_split unbind cat stack constant_pad_nd embedding index index_select gather pixel_shuffle pixel_unshuffle "
    "channel_shuffle native_channel_shuffle repeat index_add index_put _index_put_impl _unsafe_index_put scatter scatter_add _pack_padded_sequence "
    "_pad_packed_sequence movedim roll flip cumsum".split()
)
_LINEAR = frozenset(
    "sum mean nansum avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d".split()
)
_PEAKS = frozenset(
    "amax amin max min max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool2d linalg_vector_norm".split()
)
_PRODUCTS = frozenset(
    "mm mv dot vdot inner bmm _sparse_mm _sparse_addmm addmm addmv baddbmm linear convolution _convolution _trilinear addr".split()
)
_ATTENTION = "scaled_dot_product"

Variable = tuple[int, int, int]  # (tensor, axis, which occurrence of the atom on that axis)


class Gauges:
    """Collects the equations of every atom from the tapes of one inference, and solves them for the groups."""

    def __init__(self, inf: Inference, atoms: Iterable[int]) -> None:
        self.inf, self.dims = inf, inf.dims
        self.atoms = set(atoms)
        self.scale = {a: Equations(None) for a in self.atoms}
        self.sign = {a: Equations(2) for a in self.atoms}
        self._has: dict[int, Counter[int]] = {}
        self._known: dict[tuple[int, int], list[Variable]] = {}
        self._places: dict[tuple[int, int], Positions] = {}
        self.failed: dict[int, str] = {}  # atoms whose sign and scale could not be worked out, and why
        self._homogeneity = Homogeneity()

    # ---- where an atom stands in a tensor

    def _count(self, node: int) -> Counter[int]:
        root = self.dims.find(node)
        if root not in self._has:
            found: Counter[int] = Counter()
            for leaf in self.dims.leaves(root):
                found[leaf] += 1
                if leaf in self.dims.cases:
                    for instance in self.dims.cases[leaf][1].values():
                        found.update(self._count(instance))
            self._has[root] = found
        return self._has[root]

    def _variables(self, typed: Typed, atom: int) -> list[Variable]:
        key = (id(typed), atom)
        if key not in self._known:
            self._known[key] = [
                (key[0], axis, k) for axis, n in enumerate(typed.axes) for k in range(self._count(n)[atom])
            ]
        return self._known[key]

    def _which(self, node: int, atom: int) -> Positions:
        """For each position of an axis: the number of the occurrence of ``atom`` that it lies in, or -1."""
        key = (self.dims.find(node), atom)
        if key not in self._places:
            self._places[key] = self._numbered(node, atom)
        return self._places[key]

    def _numbered(self, node: int, atom: int) -> Positions:
        out = np.full(self.dims.sizes[node], -1, dtype=np.int64)
        count = 0
        cells = list(walk(self.dims, node, np.arange(self.dims.sizes[node], dtype=np.int64)[:, None]))
        waiting = list(cells)
        while waiting:
            leaf, index = waiting.pop(0)
            if leaf == atom:
                out[index] = count
                count += 1
            if leaf in self.dims.cases:
                waiting = self._cases(leaf, index, cells) + waiting
        return out

    def _cases(
        self, leaf: int, index: Positions, cells: Sequence[tuple[int, Positions]]
    ) -> list[tuple[int, Positions]]:
        """The cases of an atom; each in its own positions when the axis that tells them apart is flattened together with it."""
        selector, instances = self.dims.cases[leaf]
        by = [i for a, i in cells if a == self.dims.find(selector)]
        found: list[tuple[int, Positions]] = []
        for position, instance in instances.items():
            rows = index
            if by and isinstance(position, int):
                rows = index[:, np.isin(index[0], np.concatenate([b[position] for b in by]))]
            if rows.size:
                found += walk(self.dims, instance, rows)
        return found

    # ---- equations

    def _both(self, atom: int, *terms: tuple[Variable, int]) -> None:
        self.scale[atom].add(terms)
        self.sign[atom].add(terms)

    def _zero(self, atom: int, variables: Iterable[Variable]) -> None:
        for v in variables:
            self._both(atom, (v, 1))

    def _equal(self, atom: int, a: Variable, b: Variable) -> None:
        if a != b:
            self._both(atom, (a, 1), (b, -1))

    def read(self, tape: Tape) -> None:
        for t in tape.written:  # ones that something is added to stay ones, whatever the units are multiplied by
            if id(t) in tape.steady and (typed := self.inf.types.get(id(t))) is not None:
                for atom in self.atoms & {a for node in typed.axes for a in self._count(node)}:
                    self._zero(atom, self._variables(typed, atom))
        for call in tape.calls:
            if not call.live:
                continue
            ins = [t for x in call.inputs if (t := self.inf.types.get(id(x))) is not None]
            outs = [t for x in call.outs if (t := self.inf.types.get(id(x))) is not None]
            present = {a for t in [*ins, *outs] for node in t.axes for a in self._count(node) if a in self.atoms}
            for atom in present - self.failed.keys():
                try:
                    self._call(call, atom)
                except Exception as error:  # noqa: BLE001  sign and scale are extras: without them the units may still be permuted
                    self.failed[atom] = f"{call.name}: {type(error).__name__}: {error}"

    def _call(self, call: Call, atom: int) -> None:
        name = call.name
        if name.endswith("_like") or name.startswith("new_") or not call.inputs:
            return  # constants, to be written to later
        ins = [self.inf.types.get(id(x)) for x in call.inputs]
        outs = [t for x in call.outs if (t := self.inf.types.get(id(x))) is not None]
        if name in ("cat", "concat", "concatenate"):
            self._joined(call, atom, outs[0] if outs else None)
        elif name == "scatter_reduce" or name == "index_reduce":
            self._scattered(call, atom, ins, outs)
        elif name in _MOVES:
            carried = [t for x, t in zip(call.inputs, ins, strict=True) if t is not None and not _counts(x)]
            if _puts_constants(call):
                self._zero(atom, [v for t in [*carried, *outs] for v in self._variables(t, atom)])
            else:
                self._moves(call, atom, carried, outs)
        elif (
            name in _LINEAR
            or name in _PEAKS
            or (name.startswith("_embedding_bag") and call["mode"] != 2)
            or name.startswith(("upsample", "_upsample"))
        ):
            self._reduces(call, atom, [t for t in ins if t is not None], outs)
        elif name in _PRODUCTS or name in GROUPED or name.startswith(("_" + _ATTENTION, _ATTENTION)):
            self._products(call, atom, ins, outs)
        elif name in ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "native_layer_norm", "_fused_rms_norm",
                      "native_group_norm", "rms_norm", "_weight_norm_interface"):  # fmt: skip
            self._norms(call, atom, outs)
        elif name not in RULES and is_pointwise(call):
            self._elementwise(call, atom, ins, outs)
        else:
            self._zero(atom, [v for t in [*ins, *outs] if t is not None for v in self._variables(t, atom)])

    def _moves(self, call: Call, atom: int, ins: Sequence[Typed], outs: Sequence[Typed]) -> None:
        """Values are carried over as they are: an axis that passes keeps its exponents."""
        for out in outs:
            for axis, node in enumerate(out.axes):
                n = self._count(node)[atom]
                if not n:
                    continue
                if not any(self._variables(t, atom) for t in ins):
                    if call.name == "constant_pad_nd" and not call["value"]:
                        continue  # zeros, whatever the exponents
                    self._zero(atom, [(id(out), axis, k) for k in range(n)])  # copies of one value (expand)
                    continue
                same = [(t, a) for t in ins for a, other in enumerate(t.axes) if other == node]
                if same:
                    for t, a in same:
                        for k in range(n):
                            self._equal(atom, (id(out), axis, k), (id(t), a, k))
                    # other inputs (parts of a cat) meet this axis under another number
                    self._singles(atom, out, axis, n, [t for t in ins if t not in [s for s, _ in same]])
                else:
                    self._singles(atom, out, axis, n, ins)

    def _joined(self, call: Call, atom: int, out: Typed | None) -> None:
        """Each part of a concatenation carries its own values over; a part of zeros is zero whatever the exponents."""
        if out is None:
            return
        parts = [t for t in call["tensors"] if not (t.ndim == 1 and t.shape[0] == 0)]
        dim, at = call["dim"] % len(out.axes), 0
        whole = self._which(out.axes[dim], atom) if self._count(out.axes[dim])[atom] else None
        for x in parts:
            here = slice(at, at + x.shape[dim])
            at = here.stop
            if id(x) in call.zeros:
                continue
            t = self.inf.types.get(id(x))
            for axis, node in enumerate(out.axes):
                for k in range(self._count(node)[atom]) if axis != dim else ():
                    self._match(atom, (id(out), axis, k), t, axis)
            if whole is None:
                continue
            own = np.full(x.shape[dim], -1) if t is None else self._which(t.axes[dim], atom)
            for k, j in np.unique(np.stack([whole[here], own]), axis=1).T:
                if k >= 0 and t is not None and j >= 0:
                    self._equal(atom, (id(out), dim, int(k)), (id(t), dim, int(j)))
                elif k >= 0:  # a constant part
                    self._zero(atom, [(id(out), dim, int(k))])

    def _match(self, atom: int, v: Variable, t: Typed | None, axis: int) -> None:
        if t is None or not self._count(t.axes[axis])[atom]:
            self._zero(atom, [v])
        elif v[2] < self._count(t.axes[axis])[atom]:
            self._equal(atom, v, (id(t), axis, v[2]))

    def _scattered(self, call: Call, atom: int, ins: Sequence[Typed | None], outs: Sequence[Typed]) -> None:
        """Sums and means are linear, the largest follows a positive factor, and nothing is said about products."""
        present = [t for t in ins if t is not None]
        every = [v for t in [*present, *outs] for v in self._variables(t, atom)]
        if call["reduce"] == "prod":
            self._zero(atom, every)
            return
        self._moves(call, atom, present, outs)
        if call["reduce"] not in ("sum", "mean"):
            for v in every:
                self.sign[atom].add([(v, 1)])

    def _singles(self, atom: int, out: Typed, axis: int, n: int, ins: Sequence[Typed]) -> None:
        """Without an axis of the same number: unambiguous when there is one occurrence on each side, else tied to one exponent."""
        mine: list[Variable] = [(id(out), axis, k) for k in range(n)]
        for t in ins:
            theirs = self._variables(t, atom)
            if not theirs:
                continue
            for v in [*mine, *theirs][1:]:
                self._equal(atom, mine[0], v)

    def _reduces(self, call: Call, atom: int, ins: Sequence[Typed], outs: Sequence[Typed]) -> None:
        for t in ins:
            for axis, node in enumerate(t.axes):
                for k in range(self._count(node)[atom]):
                    v: Variable = (id(t), axis, k)
                    found = [(id(o), a, k) for o in outs for a, other in enumerate(o.axes) if other == node]
                    if not found:  # summed away; a norm over the units does not see their signs
                        self.scale[atom].add([(v, 1)])
                        if call.name != "linalg_vector_norm":
                            self.sign[atom].add([(v, 1)])
                    for w in found:
                        if call.name in _PEAKS:
                            self.scale[atom].add([(v, 1), (w, -1)])
                            self.sign[atom].add([(w, 1)])
                            if call.name != "linalg_vector_norm":
                                self.sign[atom].add([(v, 1)])
                        else:
                            self._equal(atom, v, w)

    def _products(self, call: Call, atom: int, ins: Sequence[Typed | None], outs: Sequence[Typed]) -> None:
        out = outs[0] if outs else None
        conv = call.name in ("convolution", "_convolution")
        axes = matrix_iteration(call)
        if conv and out is not None and any(len(self._variables(t, atom)) > 1 for t in [*ins, out] if t is not None):
            held = [[bool(self._count(n)[atom]) for n in t.axes] if t is not None else [] for t in (*ins[:2], out)]
            axes = conv_iteration(call, held)
        if axes is None or out is None:
            self._presence(call, atom, ins, outs)
            return
        if any(len(self._lengths(atom, ins, spec, out, to)) > 1 for spec, to in axes):
            # blocks on one side and all channels on the other, several of them this atom's: not worked out
            self._zero(atom, [v for t in [*ins, *outs] if t is not None for v in self._variables(t, atom)])
            return
        # a zero state (or a zero constant) multiplies to zero whatever the exponents
        zeros = {i for i, x in enumerate(call.inputs) if id(x) in call.zeros}
        for spec, to in axes:
            if not any(i in zeros for i in spec):
                places: list[tuple[Typed | None, int, int]] = [(ins[i], axis, 1) for i, axis in spec.items()]
                self._aligned(atom, places if to is None else [*places, (out, to, -1)])
        bias = (call.inputs[0] if call["beta"] else None) if call.name in BIASED else None
        if conv or call.name == "linear" or call.name == "_grouped_mm":
            bias = call["bias"]
        if bias is None or id(bias) in call.zeros:
            return
        b = self.inf.types.get(id(bias))
        for axis, node in enumerate(out.axes):
            own = (0 if axis == 1 else -1) if conv else len(bias.shape) + axis - len(out.axes)
            if not self._count(node)[atom]:
                continue
            if b is not None and own >= 0 and bias.shape[own] == self.dims.sizes[node]:
                self._aligned(atom, [(b, own, 1), (out, axis, -1)])
            else:  # the same bias is added to every unit
                self._zero(atom, [(id(out), axis, k) for k in range(self._count(node)[atom])])

    def _lengths(
        self, atom: int, ins: Sequence[Typed | None], spec: Mapping[int, int], out: Typed, to: int | None
    ) -> set[int]:
        places = [(ins[i], axis) for i, axis in spec.items()] + ([] if to is None else [(out, to)])
        nodes = [t.axes[axis] for t, axis in places if t is not None]
        held = [n for n in nodes if self._count(n)[atom]]
        return {self.dims.sizes[n] for n in held} if any(self._count(n)[atom] > 1 for n in held) else set()

    def _aligned(self, atom: int, places: Sequence[tuple[Typed | None, int, int]]) -> None:
        """Along one axis the signed sum of all exponents is zero, occurrence by occurrence."""
        held = [(t, axis, sign) for t, axis, sign in places if t is not None and self._count(t.axes[axis])[atom]]
        if not held:
            return
        if all(self._count(t.axes[axis])[atom] == 1 for t, axis, _ in held):
            self._both(atom, *(((id(t), axis, 0), sign) for t, axis, sign in held))
            return
        table = np.stack([self._which(t.axes[axis], atom) for t, axis, _ in held])
        for column in np.unique(table, axis=1).T:
            self._both(
                atom,
                *(((id(t), axis, int(k)), sign) for (t, axis, sign), k in zip(held, column, strict=True) if k >= 0),
            )

    def _presence(self, call: Call, atom: int, ins: Sequence[Typed | None], outs: Sequence[Typed]) -> None:
        """Multilinear operators where each tensor holds the atom at most once: exponents of the inputs add up to the result's."""
        out, rest = outs[0], outs[1:]
        attention = _ATTENTION in call.name
        names = [a.name for a in call.func._schema.arguments]
        added = {id(call[n]) for n in ("bias", "attn_mask", "attn_bias") if n in names and call[n] is not None}
        factors = [t for x, t in zip(call.inputs, ins, strict=True) if t is not None and id(x) not in added]
        every = [v for t in [*(x for x in ins if x is not None), *outs] for v in self._variables(t, atom)]
        if any(len(self._variables(t, atom)) > 1 for t in [*factors, *outs]):
            self._zero(atom, every)
            return
        w = self._variables(out, atom)
        if attention:  # the scores must not change, and the result is linear in the values
            q, k, v = (self._variables(t, atom) if t is not None else [] for t in ins[:3])
            self._both(atom, *((x, 1) for x in [*q, *k]))
            self._both(atom, *((x, 1) for x in v), *((x, -1) for x in w))
            self._zero(
                atom, [x for t in [*rest, *(i for i in ins[3:] if i is not None)] for x in self._variables(t, atom)]
            )
            return
        self._both(atom, *((x, 1) for t in factors for x in self._variables(t, atom)), *((x, -1) for x in w))
        for x, t in zip(call.inputs, ins, strict=True):
            if id(x) in added and id(x) not in call.zeros and w:
                b = self._variables(t, atom) if t is not None else []
                if b:
                    self._equal(atom, b[0], w[0])
                else:
                    self._zero(atom, w)

    def _norms(self, call: Call, atom: int, outs: Sequence[Typed]) -> None:
        names = [a.name for a in call.func._schema.arguments]

        def of(name: str) -> list[Variable]:
            value = call[name] if name in names else None
            t = None if value is None else self.inf.types.get(id(value))
            return [] if t is None else self._variables(t, atom)

        x = self._variables(self.inf.types[id(call.inputs[0])], atom) if id(call.inputs[0]) in self.inf.types else []
        w = self._variables(outs[0], atom)
        others = [v for o in outs[1:] for v in self._variables(o, atom)]  # the statistics, which may be read as well
        gain, shift = of("weight"), of("bias")
        if max(len(x), len(w), len(gain), len(shift)) > 1:
            self._zero(atom, [*x, *w, *gain, *shift, *of("running_mean"), *of("running_var"), *others])
            return
        if call.name == "_weight_norm_interface":  # g·v/|v|: along its own axis the size of v does not matter
            along = bool(of("g"))
            self.sign[atom].add([*((v, 1) for v in of("v")), *((v, 1) for v in of("g")), *((v, 1) for v in w)])
            self.scale[atom].add([*((v, 1) for v in of("g")), *((v, -1) for v in w)])
            for norm in others:  # |v|
                self.scale[atom].add([(norm, 1), *((v, -1) for v in of("v"))])
                self.sign[atom].add([(norm, 1)])
            if not along:
                self.scale[atom].add([(v, 1) for v in of("v")])
            return
        # eps stops any rescaling of what comes in; a common sign passes where no mean over the units is taken
        self.scale[atom].add([(v, 1) for v in x])
        per_unit = "batch_norm" in call.name and bool(gain or of("running_mean") or of("running_var"))
        rms = "rms" in call.name
        means = [v for v in others if "batch_norm" in call.name and v[0] == id(self.inf.types[id(call.outs[1])])]
        self._zero(atom, [*of("running_var"), *(v for v in others if v not in means)])
        for v in [*of("running_mean"), *means]:
            self.scale[atom].add([(v, 1)])
            self.sign[atom].add([*((i, 1) for i in x), (v, 1)])
        if not (per_unit or rms):
            self.sign[atom].add([(v, 1) for v in x])
        if not gain and not per_unit and not rms:
            self._zero(atom, [*w, *shift])
            return
        self.scale[atom].add([*((v, 1) for v in gain), *((v, -1) for v in w)])
        self.sign[atom].add([*((v, 1) for v in x), *((v, 1) for v in gain), *((v, 1) for v in w)])
        has_shift = "bias" in names and call["bias"] is not None
        for v in shift:
            self._both(atom, (v, 1), *((o, -1) for o in w))
        if has_shift and not shift:
            self._zero(atom, w)

    def _elementwise(self, call: Call, atom: int, ins: Sequence[Typed | None], outs: Sequence[Typed]) -> None:
        if not outs:
            return
        out = outs[0]
        for axis, node in enumerate(out.axes):
            back = axis - len(out.axes)
            held = [
                (i, t, len(t.axes) + back)
                for i, t in enumerate(ins)
                if t is not None
                and len(t.axes) >= -back
                and self._count(t.axes[back])[atom]
                and self.dims.sizes[t.axes[back]] == self.dims.sizes[node]
            ]
            if not held and not self._count(node)[atom]:
                continue
            relation = self._homogeneity.relation(call, tuple(i for i, _, _ in held))
            places = [(t, a) for _, t, a in held] + [(out, axis)]
            for row in self._rows(atom, places):
                variables = [v for v in row[:-1] if v is not None]
                w = row[-1]
                if len(variables) < len(held):
                    relation_here = self._homogeneity.relation(
                        call, tuple(i for (i, _, _), v in zip(held, row[:-1], strict=True) if v is not None)
                    )
                else:
                    relation_here = relation
                self.scale[atom].add_all(relation_here.scale(variables, w))
                self.sign[atom].add_all(relation_here.sign(variables, w))

    def _rows(self, atom: int, places: Sequence[tuple[Typed, int]]) -> Iterator[list[Variable | None]]:
        """Which occurrences meet each other, position by position along one axis."""
        counts = [self._count(t.axes[axis])[atom] for t, axis in places]
        if all(c <= 1 for c in counts):
            yield [(id(t), axis, 0) if c else None for (t, axis), c in zip(places, counts, strict=True)]
            return
        table = np.stack([self._which(t.axes[axis], atom) for t, axis in places])
        for column in np.unique(table, axis=1).T:
            yield [None if k < 0 else (id(t), axis, int(k)) for (t, axis), k in zip(places, column, strict=True)]

    def of_member(self, m: Member, atom: int) -> list[Variable]:
        """The unknowns of one member of the atom's group."""
        return [v for v in self._variables(self.inf.params[m.tensor], atom) if v[1] == m.axis]


def _counts(x: Tensor) -> bool:
    """Whole numbers and masks say where, not how much."""
    return not (x.is_floating_point() or x.is_complex())


def _puts_constants(call: Call) -> bool:
    """Whether numbers other than zero that no unit makes come to stand among those of the units."""
    if any(id(x) in call.flat and id(x) not in call.zeros and not _counts(x) for x in call.inputs):
        return True
    names = [a.name for a in call.func._schema.arguments]
    value = call["value"] if "value" in names else None
    return isinstance(value, (int, float, complex)) and value != 0
