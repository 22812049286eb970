"""The decoder's passes for the compiler (numba, cached on disk): from the bytes of pages to patterns in their places, the interpreter released.

All of them are in this one file, because the compiler's cache looks at no other one: what is compiled here calls nothing that is compiled elsewhere. How
they are called, and what their twins are, is told in ``unpack.py`` (the pages of pcodec) and ``inverse.py`` (residuals to patterns).
"""

from __future__ import annotations

import numpy as np

from weightlapse.store.codecs.kernels import _compiled
from weightlapse.store.codecs.predict import DAMPED, LAST, LINEAR, MOMENTUM, NONE, SLOPE

HISTORY = 3  # rows that a predictor looks back
BATCH = 256  # numbers that pcodec writes together
BARE = 16  # more than any logarithm: of histograms whose bins have one value each
MOST_BITS = 14  # of a tANS table
COLUMNS = 2048  # restored at a time through a whole tile: few enough for the fastest cache
_u = np.uint64  # arithmetic with signed numbers beside it would be that of floats


@_compiled
def _word(data, at):  # type: ignore[no-untyped-def]
    """Eight bytes from ``at`` on: one load."""
    low = _u(data[at]) | _u(data[at + _u(1)]) << _u(8) | _u(data[at + _u(2)]) << _u(16) | _u(data[at + _u(3)]) << _u(24)
    high = _u(data[at + _u(4)]) | _u(data[at + _u(5)]) << _u(8)
    high |= _u(data[at + _u(6)]) << _u(16) | _u(data[at + _u(7)]) << _u(24)
    return low | high << _u(32)


@_compiled
def _bits(data, at, count):  # type: ignore[no-untyped-def]
    """The number in the ``count`` (at most 57) bits from bit ``at`` on."""
    return (_word(data, at >> _u(3)) >> (at & _u(7))) & ((_u(1) << _u(count)) - _u(1))


@_compiled
def _table(data, start, stop, bits, nodes):  # type: ignore[no-untyped-def]
    """The states of the histogram in the bytes ``start`` to ``stop``: for each its bin's lower bound (32 bits), bits of an offset in it (8),
    bits that lead to the next state (8), and the first of these (16). Returns the logarithm of their number, BARE more where no bin has
    offsets, -1 for one that this is not for.

    Eight bytes behind ``stop`` must be there.
    """
    widest = 6 if bits == 32 else 5
    at, end = _u(start) * _u(8), _u(stop) * _u(8)
    if at + _u(27) > end or _bits(data, at, 8) != 0:
        return -1
    log, count = np.int64(_bits(data, at + _u(8), 4)), np.int64(_bits(data, at + _u(12), 15))
    at += _u(27)
    size = 1 << log
    if log > MOST_BITS or size > len(nodes) or count < 1 or count > size or (count == 1 and log > 0):
        return -1
    if at + _u(count * (log + bits + widest)) > end:
        return -1
    weight, lower, offset = np.empty(count, np.int64), np.empty(count, np.uint64), np.empty(count, np.uint64)
    total, most = 0, _u(0)
    for k in range(count):
        weight[k] = np.int64(_bits(data, at, log)) + 1
        lower[k] = _bits(data, at + _u(log), bits)
        offset[k] = _bits(data, at + _u(log + bits), widest)
        at += _u(log + bits + widest)
        total += weight[k]
        most = max(most, offset[k])
    if most > bits:
        return -1
    if total != size or end - at >= _u(8) or _bits(data, at, end - at) != 0:
        return -1
    stride, at_state = 3 * size // 5 | 1, np.int64(0)
    for k in range(count):
        for _ in range(weight[k]):
            nodes[at_state & (size - 1)] = k
            at_state += stride
    for s in range(size):
        b = np.int64(nodes[s])
        x, more = weight[b], 0
        while x << more < size:
            more += 1
        weight[b] += 1
        nodes[s] = lower[b] << _u(32) | offset[b] << _u(24) | _u(more) << _u(16) | _u((x << more) - size)
    return log if most else log + BARE


@_compiled
def _tables(data, spans, bits, nodes, begins, logs):  # type: ignore[no-untyped-def]
    """The states of each histogram (from ``spans[i, 0]`` to ``spans[i, 1]``) into ``nodes`` from ``begins[i]`` on, as in ``_table``; False when one is not for this."""
    for i in range(len(spans)):
        logs[i] = _table(data, spans[i, 0], spans[i, 1], bits, nodes[begins[i] : begins[i + 1]])
        if logs[i] < 0:
            return False
    return True


@_compiled
def _symbols(data, at, nodes, states, held, count):  # type: ignore[no-untyped-def]
    """The states that ``count`` numbers were in, and where their bits end; ``count`` is a multiple of four."""
    one, byte, half = _u(1), _u(0xFF), _u(0xFFFF)
    s0, s1, s2, s3 = states[0], states[1], states[2], states[3]
    for i in range(_u(0), _u(count), _u(4)):
        w, p = _word(data, at >> _u(3)), at & _u(7)
        n0, n1, n2, n3 = nodes[s0], nodes[s1], nodes[s2], nodes[s3]
        b0, b1, b2, b3 = n0 >> _u(16) & byte, n1 >> _u(16) & byte, n2 >> _u(16) & byte, n3 >> _u(16) & byte
        held[i], held[i + _u(1)], held[i + _u(2)], held[i + _u(3)] = n0, n1, n2, n3
        s0 = (n0 & half) + (w >> p & (one << b0) - one)
        p += b0
        s1 = (n1 & half) + (w >> p & (one << b1) - one)
        p += b1
        s2 = (n2 & half) + (w >> p & (one << b2) - one)
        p += b2
        s3 = (n3 & half) + (w >> p & (one << b3) - one)
        at += b0 + b1 + b2 + b3
    states[0], states[1], states[2], states[3] = s0, s1, s2, s3
    return at


@_compiled
def _offsets(data, at, held, out, first, count):  # type: ignore[no-untyped-def]
    """The first ``count`` numbers of the states ``held`` into ``out`` from ``first`` on, each its lower bound and the bits from ``at`` on; where these end."""
    one, byte = _u(1), _u(0xFF)
    for i in range(_u(0), _u(count)):
        node = held[i]
        b = node >> _u(24) & byte
        w = _word(data, at >> _u(3)) >> (at & _u(7))
        out[first + i] = np.uint32(node >> _u(32)) + np.uint32(w & (one << b) - one)
        at += b
    return at


@_compiled
def unpack(data, start, stop, nodes, log, total, out, held, states):  # type: ignore[no-untyped-def]
    """The first numbers of the page of ``total`` in the bytes ``start`` to ``stop`` of ``data`` into ``out``; False when it ends before them.

    SLACK bytes behind ``stop`` must be there. ``held`` (BATCH,) and ``states`` (4,), uint64, are work space.
    """
    n, at, end = len(out), _u(start) * _u(8), _u(stop) * _u(8)
    bare, log = log >= BARE, log % BARE
    for j in range(_u(4)):
        states[j] = _bits(data, at + j * _u(log), log)
    at += _u(4 * log)
    if _bits(data, at, -at & _u(7)) != 0:
        return False
    at += -at & _u(7)
    if log == 0:
        for i in range(BATCH):
            held[i] = nodes[0]
    for first in range(0, n, BATCH):
        if at > end:
            return False
        count = min(BATCH, total - first)
        if log > 0:
            whole = count & ~3
            at = _symbols(data, at, nodes, states, held, whole)
            for i in range(whole, count):  # each of the states once at the most
                node = nodes[states[i - whole]]
                held[i] = node
                at += node >> _u(16) & _u(0xFF)
        some = min(count, n - first)
        if bare:
            part = out[first : first + some]
            for i in range(some):
                part[i] = held[i] >> _u(32)
        else:
            at = _offsets(data, at, held, out, _u(first), some)
    return at <= end and (n < total or _bits(data, at, -at & _u(7)) == 0)


@_compiled
def _times(a, b):  # type: ignore[no-untyped-def]
    """Product of two polynomials modulo that of CRC-32, the coefficient of x^0 in the highest bit."""
    found, bit = np.uint32(0), np.uint32(1 << 31)
    while bit:
        if a & bit:
            found ^= b
        bit >>= np.uint32(1)
        b = b >> np.uint32(1) ^ (np.uint32(0xEDB88320) if b & np.uint32(1) else np.uint32(0))
    return found


@_compiled
def _shift(size):  # type: ignore[no-untyped-def]
    """x to the power of the bits in ``size`` bytes, modulo the polynomial of CRC-32."""
    power, shift, left = np.uint32(1 << 23), np.uint32(1 << 31), size  # x^8 and x^0
    while left:
        if left & 1:
            shift = _times(power, shift)
        power = _times(power, power)
        left >>= 1
    return shift


@_compiled
def _joined(crcs, sizes):  # type: ignore[no-untyped-def]
    """The CRC-32 of all pages one after the other, from their own: as in zlib's ``crc32_combine``."""
    found = np.uint32(0)
    for i in range(len(crcs)):
        found = _times(_shift(sizes[i]), found) ^ crcs[i]
    return found


@_compiled
def _counted(label, strip, classes, widths):  # type: ignore[no-untyped-def]
    """How many columns each group (strip, class) has, into ``widths``; False when a label is no class."""
    found = np.zeros((4, 256), np.int64)  # four, because neighbours of one class would wait for each other
    for k in range(-(-len(label) // strip)):
        found[:] = 0
        mine = label[k * strip : (k + 1) * strip]
        whole = len(mine) & ~3
        for j in range(0, whole, 4):
            for i in range(4):
                found[i, mine[j + i]] += 1
        for j in range(whole, len(mine)):
            found[0, mine[j]] += 1
        for c in range(256):
            total = found[0, c] + found[1, c] + found[2, c] + found[3, c]
            if c < classes:
                widths[k * classes + c] = total
            elif total:
                return False
    return True


@_compiled
def _row(r, one, two, three, one_f, two_f, now, kind, factor, p, bits, q, signed):  # type: ignore[no-untyped-def]
    """A row from its residuals ``r`` and the rows one, two and three before it; ``kind`` is the rule that holds in this row."""
    n = len(r)
    if kind == NONE:
        for j in range(n):
            now[j] = r[j]
    elif kind == LAST:
        for j in range(n):
            now[j] = r[j] + one[j]
    elif kind == LINEAR:
        for j in range(n):
            now[j] = r[j] + one[j] + one[j] - two[j]
    elif kind == MOMENTUM:
        for j in range(n):
            p[j] = (one_f[j] - two_f[j]) * factor + one_f[j]
        for j in range(n):
            now[j] = r[j] + bits[j]
    elif kind == DAMPED:
        for j in range(n):
            q[j] = one[j] - two[j]
        for j in range(n):
            q[j] = signed[j] - (signed[j] >> 4)
        for j in range(n):
            now[j] = r[j] + one[j] + q[j]
    else:
        for j in range(n):
            q[j] = one[j] - three[j]
        for j in range(n):
            q[j] = (signed[j] + (1 if signed[j] < 0 else 0)) >> 1
        for j in range(n):
            now[j] = r[j] + one[j] + q[j]


@_compiled
def _tile(flat, widths, top, bottom, rule, factor, tail, order, strip, height, keep, low, high, step, out, pitch, place, compare, work):  # type: ignore[no-untyped-def]  # fmt: skip
    """One tile of the strip that begins at column ``strip``: ``flat`` has its residuals class by class, ``tail`` (3, columns) the rows before it,
    in stored order; it becomes the last ``keep`` rows. The
    pages have ``height`` rows. Rows ``low:high:step`` go by ``order`` to ``out``, where the first of them begins at
    ``place`` and each next one ``pitch`` later; with ``compare`` they are held against what is there instead, and the number of differences is
    returned. ``work``: a ring of four rows, and one row of each kind.
    """
    h, hf, p, bits, q, signed = work
    begin, first, wrong = 0, strip, 0
    for width in widths:
        for a in range(0, width, COLUMNS):
            n = min(COLUMNS, width - a)
            at = first + a
            for back in range(1, 4):
                if top >= back:
                    before, kept = h[(top - back) & 3], tail[3 - back]
                    for j in range(n):
                        before[j] = kept[at + j]
            for t in range(top, bottom):
                kind = LAST if rule != NONE and (t == 1 or (rule == SLOPE and t == 2)) else rule
                r = flat[begin + (t - top) * width + a : begin + (t - top) * width + a + n]
                i, one, two = t & 3, (t - 1) & 3, (t - 2) & 3
                _row(r, h[one], h[two], h[(t - 3) & 3], hf[one], hf[two], h[i], kind, factor, p, bits, q, signed)
                if low <= t < high and (t - low) % step == 0:
                    now, to = h[i], place + (t - low) // step * pitch
                    if compare:
                        for j in range(n):
                            wrong += out[to + order[at + j]] != now[j]
                    else:
                        for j in range(n):
                            out[to + order[at + j]] = now[j]
            for back in range(1, keep + 1):
                if bottom >= back:
                    before, kept = h[(bottom - back) & 3], tail[3 - back]
                    for j in range(n):
                        kept[at + j] = before[j]
        begin += width * height
        first += width
    return wrong


@_compiled
def _merge(label, starts, row, out):  # type: ignore[no-untyped-def]
    """See ``inverse.merge``."""
    at = starts.copy()
    for j in range(len(label)):
        c = label[j]
        out[j] = row[at[c]]
        at[c] += 1


@_compiled
def _strips(bytes_, pages, tables, layout, span, state, rows, target, ahead, begins, flat, rule, factor, work, unpacking):  # type: ignore[no-untyped-def]  # fmt: skip
    """Several strips of a chunk, from their pages to rows in ``target``: what :class:`Run` does page by page, with one call.

    ``bytes_``: their pages, and where these begin in the chunk; ``pages``: where each of the chunk's begins, and the first of each strip; ``span``:
    the strips, the tiles and whether more of these follow; ``begins``: row 0 is among them. With ``ahead`` one row is wanted, whose columns are put in
    order at the end. Returns the number of differences (see ``_tile``), or -1 - the number of the page that cannot be unpacked.
    """
    data, base = bytes_
    ends, firsts = pages
    nodes, from_, logs, cells = tables
    edges, widths, starts, label, count = layout
    first_strip, last_strip, spans, more = span
    tail, order = state
    low, high, _ = rows
    out, pitch, place, compare = target
    held, states = unpacking
    wrong = 0
    for k in range(first_strip, last_strip):
        first, end, page = edges[k], edges[k + 1], firsts[k]
        mine = widths[k * count : (k + 1) * count]
        present = 0
        for c in range(count):
            present += mine[c] > 0
        if begins:
            key = tail[HISTORY - 1, first:end]
            a, b = ends[page] - base, ends[page + 1] - base
            if not unpack(data, a, b, nodes[: from_[1]], logs[0], end - first, key, held, states):  # fmt: skip
                return -1 - page
            if low == 0 and not ahead:
                for j in range(first, end):
                    if compare:
                        wrong += out[place + order[j]] != key[j - first]
                    else:
                        out[place + order[j]] = key[j - first]
        for s in range(len(spans)):
            i, top, bottom = spans[s]
            stop = min(bottom, high) if ahead else bottom
            number, at = page + 1 + i * present, 0
            for c in range(count):
                if mine[c] == 0:
                    continue
                h = 1 + np.int64(cells[i, c])
                table, total = nodes[from_[h] : from_[h + 1]], (bottom - top) * mine[c]
                some = flat[at : at + (stop - top) * mine[c]]
                a, b = ends[number] - base, ends[number + 1] - base
                if not unpack(data, a, b, table, logs[h], total, some, held, states):  # fmt: skip
                    return -1 - number
                number, at = number + 1, at + total
            keep = HISTORY if s + 1 < len(spans) or more else 1 if ahead else 0
            to = (0, 0, 1) if ahead else rows
            own = (top, stop, rule, factor, tail, order, first, bottom - top, keep)
            wrong += _tile(flat, mine, *own, to[0], to[1], to[2], out, pitch, place, compare, work)  # fmt: skip
        if ahead and not more:
            _merge(label[first:end], starts[k * count : (k + 1) * count], tail[HISTORY - 1], out[place + first : place + end])  # fmt: skip
    return wrong


@_compiled
def _grid_values(codes, columns, steps, out, bits):  # type: ignore[no-untyped-def]
    """What grid codes stand for: code x step in float64, rounded once; of step 0 the code is the pattern itself. ``bits`` are those of ``out``."""
    at = np.int64(0)
    for i in range(len(columns)):
        stop = at + columns[i]
        step = steps[i]
        if step == 0:
            for j in range(at, stop):
                bits[j] = codes[j]
        else:
            for j in range(at, stop):
                out[j] = np.float32(np.float64(np.int32(codes[j])) * step)
        at = stop


@_compiled
def _opened(data, end, size, numbers, label, nodes, begins, logs, cells, widths, starts, firsts, ends, crcs, columns, step_bits, held, states):  # type: ignore[no-untyped-def]  # fmt: skip
    """The parts of a chunk's head, which ends at ``end`` of ``data``; ``size`` is that of the chunk. False for whatever is not as usual.

    ``numbers``: columns, strip width, tiles, classes, grid entries, bytes of the class map, histograms of residuals. The others are filled.
    """
    n, strip, tiles, count, entries, mapped, streams = numbers
    strips = -(-n // strip)
    groups = strips * count
    if entries > len(columns) or streams + 2 > len(begins) or tiles > len(cells) or groups + 1 > len(starts):
        return False
    at = np.int64(50)
    if at + 20 * entries + 2 > end:
        return False
    for g in range(entries):
        columns[g] = np.int64(_bits(data, _u(8 * at), 32))
        step_bits[g] = _word(data, _u(at + 4))
        at += 20
    kind = np.int64(_bits(data, _u(8 * at), 16))
    if kind < 1 or data[at + 2] != 4:  # of pcodec's format: as in ``unpack.py``
        return False
    at += 2 + kind
    if at + mapped + tiles * count > end:
        return False
    if count > 1:
        own = np.int64(_bits(data, _u(8 * at), 16))
        if mapped < 2 + own:
            return False
        log = _table(data, at + 2, at + 2 + own, 16, nodes)
        if log < 0 or not unpack(data, at + 2 + own, at + mapped, nodes, log, n, label[:n], held, states):
            return False
    else:
        label[:n] = 0
    at += mapped
    for i in range(tiles):
        for c in range(count):
            cells[i, c] = data[at]
            if data[at] >= streams:
                return False
            at += 1
    begins[0] = 0
    for h in range(1 + streams):
        if at + 2 > end:
            return False
        own = np.int64(_bits(data, _u(8 * at), 16))
        at += 2
        if at + own > end or own < 2:
            return False
        stop = begins[h] + (1 << np.int64(data[at + 1] & 15))
        if stop > len(nodes):
            return False
        logs[h] = _table(data, at, at + own, 32, nodes[begins[h] : stop])
        if logs[h] < 0:
            return False
        begins[h + 1] = stop
        at += own
    widths[:groups] = 0
    if not _counted(label[:n], strip, count, widths):
        return False
    starts[0] = 0
    for g in range(groups):
        starts[g + 1] = starts[g] + widths[g]
    pages = 0
    for k in range(strips):
        firsts[k] = pages
        present = 0
        for c in range(count):
            present += widths[k * count + c] > 0
        pages += 1 + present * tiles
    firsts[strips] = pages
    if pages + 1 > len(ends) or at + 8 * pages != end:
        return False
    ends[0] = end
    for i in range(pages):
        ends[i + 1] = ends[i] + np.int64(_bits(data, _u(8 * at), 32))
        crcs[i] = np.uint32(_bits(data, _u(8 * at + 32), 32))
        at += 8
    return ends[pages] == size


@_compiled
def _wanted_pages(firsts, strips, tiles, spans, found):  # type: ignore[no-untyped-def]
    """For each strip its first page and the one behind those of its first ``spans`` tiles."""
    for k in range(strips):
        present = (firsts[k + 1] - firsts[k] - 1) // max(tiles, 1)
        found[k, 0], found[k, 1] = firsts[k], firsts[k] + 1 + present * spans


@_compiled
def _chunk_row(data, bases, wanted, crc, crcs, spans, row, pages, tables, layout, state, out, codes, grid, flat, rule, factor, work, unpacking):  # type: ignore[no-untyped-def]  # fmt: skip
    """One row of a chunk whose head was opened, into ``out``; False for whatever is not as it should be.

    ``data``: the pages ``wanted`` (strips, 2), those of strip k as if page bytes were counted from ``bases[k]`` on; ``crc``: of all of them together.
    ``grid``: columns and steps, none where the numbers are the patterns; else the numbers go to ``codes`` first.
    """
    found = np.uint32(0)
    ends = pages[0]
    for k in range(len(wanted)):
        for page in range(wanted[k, 0], wanted[k, 1]):
            found = _times(_shift(ends[page + 1] - ends[page]), found) ^ crcs[page]
    if found != crc:
        return False
    columns, steps = grid
    to = codes if len(columns) else out
    for k in range(len(wanted)):
        target = (to, 0, 0, False)
        span = (k, k + 1, spans, False)
        own = ((data, bases[k]), pages, tables, layout, span, state, (row, row + 1, 1), target, True, True, flat)
        if _strips(*own, rule, factor, work, unpacking) < 0:
            return False
    if len(columns):
        _grid_values(codes, columns, steps, out.view(np.float32), out)
    return True
