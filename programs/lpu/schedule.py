"""The scheduler: puts rigid patterns of instructions at the first cycle at which everything is free.

A method places one pattern, reserves what it uses, remembers when its results can be read and emits
its instructions. Here are the vector operations, with and without the matrix planes; patterns.py has
the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emulator.chip import ChipError
from emulator.lpu.geometry import MXM_ABC
from isa.opcodes import ALU_BASE, F16, NO_STREAM, S8
from programs.lpu import chain as vxm
from programs.lpu.board import BOTH, EAST, WEST, Alternative, Use
from programs.lpu.chain import Leaf, Op
from programs.lpu.core import ALL_QUADS, Core, Dst, Mat, Mem, memory_word, stream_field, word

TRIES = 6  # ALU assignments looked at before the best is taken


class Scheduler(Core):
    """One block under construction."""

    def vop(self, outs: Sequence[tuple[Op, Sequence[Dst]]], n: int = 1, d: int = 1, after: int = 0,
            fold: str = "", period: int = 0, own_half: int = -1, quads: frozenset[int] = ALL_QUADS) -> int:
        """Compute expressions for n vectors, d cycles apart, and store the results. Gives the start cycle.

        outs: (operation, where its result goes). Leaves are Mem and Mat; a pattern has one Mat at most
        a plane. `after`: not before this cycle. fold: the n values of the one operation are combined
        by this instruction (ADD, MAX, MIN, ...), and only the result is stored, in one hemisphere. period:
        cycles from one tile to the next, where tiles follow each other: results then travel in the
        gaps between the tiles' weights. own_half: activations keep to the lower (0) or upper (1) half
        of the streams, with whose plane they are in step; -1: any stream. quads: those for the results.
        """
        if fold and n == 1:
            fold = ""
        if fold:
            d = max(d, self.g.op)
        mats = [leaf for op, _ in outs for leaf in _leaves(op) if isinstance(leaf, Mat)]
        if any(leaf.type == F16 for leaf in mats) and n > 1:
            d = max(d, self.g.f16_feed)
        longest = self.g.latency + abs(self.g.column[self.g.mxm_queue(0, MXM_ABC)])  # feed to result
        if mats and n * d > longest:  # longer runs would meet their own activations
            count, times = longest // d, []
            for first in range(0, n, count):
                known: dict[int, Any] = {}
                part = [(later_vectors(op, first, known),
                         [Dst(x.buffer, x.start + x.step * first, x.step) for x in dsts]) for op, dsts in outs]
                times.append(self.vop(part, min(count, n - first), d, after, "", period, own_half, quads))
            return times[0]
        split: list[tuple[Op, list[Dst], int]] = []
        for op, dsts in outs:
            for direction in (EAST, WEST):
                mine = [x for x in dsts if x.buffer.side == (1 if direction == EAST else 0)]
                if mine:
                    split.append((op, mine, direction))
        span = (n - 1) * d + 1
        chain, later = self._legalise(split, n, d, fold)
        out_n, out_delay = n, 0
        if fold:
            vxm.add_fold(self.g, chain, fold)
            out_n, out_delay = 1, (n - 1) * d
        out_span = (out_n - 1) * d + 1
        fixed: list[Use] = []
        bound = after
        rc = self.g.result_column
        leaf_offsets: list[Any] = []
        for leaf, sampled in chain.leaves:
            if isinstance(leaf, Mem):
                last = leaf.start + leaf.step * (n - 1)
                offsets = self.read_offsets(leaf.buffer, 0, sampled)
                fixed += self.read_uses(leaf.buffer, leaf.start, last, offsets, span)
                bound = max(bound, self.ready_bound(leaf.buffer, leaf.start, leaf.step, n, d, offsets))
                leaf_offsets.append(offsets)
            else:
                leaf_offsets.append(None)
        out_offsets: list[list[list[int]]] = []
        for number, (_, dsts, _direction) in enumerate(split):
            appears = next(s.result for s in chain.steps if s.out == number) + out_delay
            rows = []
            for dst in dsts:
                offsets = [appears + abs(c) - rc for c in self.columns(dst.buffer)]
                last = dst.start + dst.step * (out_n - 1)
                fixed += self.write_uses(dst.buffer, dst.start, last, offsets, out_span)
                bound = max(bound, self.write_bound(dst.buffer, dst.start, dst.step, out_n, d, offsets))
                rows.append(offsets)
            out_offsets.append(rows)

        best = None
        ways = vxm.assignments(self.g, chain.signature)
        if not ways:
            large = ",".join(map(str, sorted(self.g.large_alus)))
            words = " ".join(s.op.name for s in chain.steps)
            raise ChipError(f"{self.g.chip}.vxm.large_alus = {large}: too few for the chain {words} of a compiled "
                            "program")
        slacks = self._slacks(chain, n, d, period)
        self.half, self.quads = own_half, quads
        tries = 0
        for attempt in range(len(ways)):
            if tries == TRIES:
                break
            alus = ways[(attempt + self.hint) % len(ways)]
            found = self._try(chain, alus, split, out_offsets, fixed, leaf_offsets, bound, span, n, d, slacks,
                              None if best is None else best[0].time - 1)
            tries += found is not None or best is not None
            if found is not None:
                best = found
                if found[0].time <= found[5]:
                    break
        if best is None:
            raise ValueError("no place found for a vector operation")
        self.half, self.quads = -1, ALL_QUADS
        self._commit(chain, split, out_offsets, fixed, leaf_offsets, n, d, best)
        self.hint += 1
        for source, dst in later:
            self.move(source, [dst], out_n)
            self.memory.release(source.buffer)
        self.memory.release(*self.temporaries)
        self.temporaries.clear()
        return best[0].time

    def _legalise(self, split: list[tuple[Op, list[Dst], int]], n: int, d: int,
                  fold: str) -> tuple[vxm.Chain, list[tuple[Mem, Dst]]]:
        """Give every operand and result slices of its own where accesses would meet.

        Results without a place get one; operands that meet are copied elsewhere first; a result that
        meets an operand goes to a scratch place, and the copies to make afterwards are returned.
        """
        span = (n - 1) * d + 1
        leaves = {id(leaf): leaf for op, _, _ in split for leaf in _leaves(op) if isinstance(leaf, Mem)}
        taken = {x for leaf in leaves.values() for x in leaf.buffer.slices}
        for _, dsts, _ in split:
            taken |= {x for dst in dsts for x in dst.buffer.slices}
        for _, dsts, _ in split:
            for dst in dsts:
                if not dst.buffer.settled:
                    self.settle(dst.buffer, () if n == 1 and dst.buffer.groups else taken)
                    taken |= set(dst.buffer.slices)
        chain = vxm.arrange(self.g, [s[0] for s in split], self._leaf_direction)
        reads: list[tuple[int, int, int]] = []  # slice, issue, bank
        for number, (leaf, sampled) in enumerate(chain.leaves):
            if not isinstance(leaf, Mem):
                continue
            offsets = self.read_offsets(leaf.buffer, 0, sampled)
            mine = list(zip(leaf.buffer.slices, offsets, strict=True))
            banks = self._banks(leaf, n)
            if any(x == y and abs(a - o) < span for x, a, _ in reads for y, o in mine):
                count = 1 if leaf.step == 0 else n
                temporary = self.memory.later(leaf.buffer.size, count, leaf.buffer.side).named(leaf.buffer.name)
                self.settle(temporary, taken)
                taken |= set(temporary.slices)
                self.temporaries.append(temporary)
                self.move(Mem(leaf.buffer, leaf.start, leaf.step), [Dst(temporary)], count)
                leaf = Mem(temporary, 0, min(leaf.step, 1))
                chain.leaves[number] = (leaf, sampled)
                mine = list(zip(temporary.slices, self.read_offsets(temporary, 0, sampled), strict=True))
                banks = self._banks(leaf, n)
            reads += [(x, o, bank) for (x, o), bank in zip(mine, banks, strict=True)]
        later: list[tuple[Mem, Dst]] = []
        for number, (_, dsts, _) in enumerate(split):
            appears = next(s.result for s in chain.steps if s.out == number) + (span - 1 if fold else 0)
            for k, dst in enumerate(dsts):
                offsets = [appears + abs(c) - self.g.result_column for c in self.columns(dst.buffer)]
                width, banks = 1 if fold else span, self._banks(dst, 1 if fold else n)
                writes = list(zip(dst.buffer.slices, offsets, banks, strict=True))
                if any(x == y and (a == o or a < o + width and o < a + span and (bank == other or -1 in (bank, other)))
                       for x, a, bank in reads for y, o, other in writes):
                    count = 1 if fold else n
                    temporary = self.memory.later(dst.buffer.size, count, dst.buffer.side).named(dst.buffer.name)
                    self.settle(temporary, taken)
                    taken |= set(temporary.slices)
                    later.append((Mem(temporary), dst))
                    dsts[k] = Dst(temporary)
        return chain, later

    def _leaf_direction(self, leaf: Leaf) -> int:
        if isinstance(leaf, Mem):
            return self.inward(leaf.buffer.slices[0])
        assert isinstance(leaf, Mat)
        return EAST if leaf.plane < self.g.planes // 2 else WEST

    def _slacks(self, chain: vxm.Chain, n: int, d: int, period: int) -> list[int]:
        """Cycles a result may wait in the accumulator before its ACC, the best ones first.

        Weights leave one cycle free a tile, in which the tile's activation arrives at the plane. What
        the VXM sends out should be in such a gap too: its invariant differs by whole periods.
        """
        mats = [(leaf, at) for leaf, at in chain.leaves if isinstance(leaf, Mat)]
        if not mats:
            return [0]
        if n > 1:
            return list(range(min(d, 8)))
        slacks = list(range(8))
        if period:
            leaf, sampled = mats[0]
            mxm = abs(self.g.column[self.g.mxm_queue(leaf.plane, MXM_ABC)])
            fed = sampled - mxm - self.g.abc_delay(2 if leaf.type == F16 else 1)
            appears = next(s.result for s in chain.steps if s.out == 0)
            best = (fed - mxm - (appears - self.g.result_column)) % period
            if best < period - 1:
                slacks = [best, *(x for x in slacks if x != best)]
        return slacks

    def _try(self, chain: vxm.Chain, alus: tuple[int, ...], split: list[Any], out_offsets: list[Any],
             fixed: list[Use], leaf_offsets: list[Any], bound: int, span: int, n: int, d: int, slacks: list[int],
             limit: int | None) -> Any:
        key = (self.quads, chain.signature, tuple((p.issue, p.result) for p in chain.steps), alus, span, d, chain.fold,
               tuple((leaf.buffer.slices, self._banks(leaf, n), at) if isinstance(leaf, Mem) else (
                   isinstance(leaf, Mat) and leaf.plane, at) for leaf, at in chain.leaves),
               tuple((x[2], x[0].result_bytes, *((y.buffer.slices, self._banks(y, n)) for y in x[1])) for x in split))
        built = self.memo.get(key)
        if built is None:
            built = self.memo[key] = self._build(chain, alus, split, fixed, leaf_offsets, span)
        own, choices, info = built
        if not all(choices):
            return None

        def agree(chosen: list[int]) -> bool:
            k = len(chosen) - 1
            users, direction = info[k]
            quad = choices[k][chosen[k]].tag[0]
            return not any(users & info[j][0] and info[j][1] != direction and choices[j][chosen[j]].tag[0] == quad
                           for j in range(k))

        best = None
        for slack in slacks:
            feeds, low, extra = self._feeds(chain, slack, n, d, span)
            found = self.board.find(own + extra, choices + feeds, max(bound, low), limit=limit, agree=(
                lambda c: True if len(c) > len(info) else agree(c)), checked=True)
            if found is not None:
                best = (found, alus, choices + feeds, own + extra, slack, max(bound, low))
                limit = found.time - 1
                if found.time <= max(bound, low):
                    break
        return best

    def _banks(self, place: Mem | Dst, n: int) -> tuple[int, ...]:
        last = place.start + place.step * (n - 1)
        return tuple(self.bank(place.buffer, byte, place.start, last) for byte in range(len(place.buffer.slices)))

    def _build(self, chain: vxm.Chain, alus: tuple[int, ...], split: list[Any], fixed: list[Use],
               leaf_offsets: list[Any], span: int) -> tuple[list[Use], list[list[Alternative]], list[Any]]:
        """Uses of a pattern on given ALUs: fixed ones, stream choices of operands and results, and for each
        choice the steps that use its quad, with its direction."""
        g, r = self.g, self.resources
        own = list(fixed)
        for step, alu in zip(chain.steps, alus, strict=True):
            execute = step.issue + g.entry if step.streams else step.issue
            own += r.alu(alu, step.issue, execute, span)
            own += r.finish(alu, step.result, span)
        choices: list[list[Alternative]] = []
        info: list[tuple[frozenset[int], int]] = []  # steps that use the choice's quad, direction
        for number, (leaf, sampled) in enumerate(chain.leaves):
            users = frozenset(k for k, s in enumerate(chain.steps) if ("L", number) in s.operands)
            quads = [q for q in g.reach(alus[min(users)]) if all(q in g.reach(alus[u]) for u in users)]
            direction = self._leaf_direction(leaf)
            alternatives = []
            for q in quads:
                if isinstance(leaf, Mem):
                    size = leaf.bytes()
                    for base in range(4 * q, 4 * q + 4, size if size < 4 else 4):
                        streams = list(range(base, base + size))
                        alternatives.append(Alternative(
                            self.flows(leaf.buffer, direction, streams, 0, leaf_offsets[number], span), (q, base)))
                else:
                    assert isinstance(leaf, Mat)
                    start = g.column[g.mxm_queue(leaf.plane, MXM_ABC)]
                    uses: list[Use] = []
                    for s in range(4 * q, 4 * q + 4):
                        uses += r.flow(direction, s, start, 0, sampled - abs(start), span)
                    alternatives.append(Alternative(uses, (q, 4 * q)))
            choices.append(alternatives)
            info.append((users, direction))
        rc = g.result_column
        for number, (op, dsts, direction) in enumerate(split):
            k = next(k for k, s in enumerate(chain.steps) if s.out == number)
            appears = chain.steps[k].result + (span - 1 if chain.fold else 0)
            out_span = 1 if chain.fold else span
            far = max(abs(c) for dst in dsts for c in self.columns(dst.buffer))
            sign = 1 if direction == EAST else -1
            alternatives = []
            size = op.result_bytes
            for q in g.reach(alus[k]):
                if q not in self.quads:
                    continue
                for base in range(4 * q, 4 * q + 4, size if size < 4 else 4):
                    uses = []
                    for s in range(base, base + size):
                        uses += r.flow(direction, s, sign * rc, sign * far, appears, out_span)
                    alternatives.append(Alternative(uses, (q, base)))
            choices.append(alternatives)
            info.append((frozenset(), direction))
        if self.board.clash(own) is not None:
            raise AssertionError("a vector operation clashes with itself")
        return own, choices, info

    def _feeds(self, chain: vxm.Chain, slack: int, n: int, d: int, span: int) -> tuple[list[Any], int, list[Use]]:
        """(stream choices, earliest start, fixed uses) of the activations of a pattern's Mat leaves."""
        g = self.g
        feeds: list[list[Alternative]] = []
        low = -(1 << 60)
        extra: list[Use] = []
        for leaf, sampled in chain.leaves:
            if not isinstance(leaf, Mat):
                continue
            _, abc_queue, acc_queue = self.resources.matrix_queues(leaf.plane)
            mxm = g.column[abc_queue]
            accumulate = sampled - abs(mxm)
            land = g.abc_delay(2 if leaf.type == F16 else 1)
            abc = accumulate - slack - land
            cycles = g.f16_feed if leaf.type == F16 else 1
            plane = self.planes[leaf.plane]
            low = max(low, plane.installed - abc, plane.fed + 1 - abc, plane.accumulated + 1 - (abc + land))
            offsets = self.read_offsets(leaf.act, mxm, abc)
            low = max(low, self.ready_bound(leaf.act, leaf.start, leaf.step, n, d, offsets))
            key = ("feed", self.half, leaf.plane, abc, accumulate, span, cycles, leaf.act.slices, self._banks(
                Mem(leaf.act, leaf.start, leaf.step), n))
            made = self.memo.get(key)
            if made is None:
                last = leaf.start + leaf.step * (n - 1)
                uses = [(self.resources.queue0 + abc_queue, abc, span + cycles - 1, BOTH),
                        self.resources.queue(acc_queue, accumulate, span),
                        *self.read_uses(leaf.act, leaf.start, last, offsets, span)]
                size = len(leaf.act.slices)
                direction = EAST if mxm > 0 else WEST
                streams = [Alternative(self.flows(leaf.act, direction, range(b, b + size), mxm, offsets, span), (-1, b))
                           for b in self.groups(size) if self.half < 0 or 2 * b // self.g.streams == self.half]
                made = self.memo[key] = (uses, streams)
            extra += made[0]
            feeds.append(made[1])
        return feeds, low, extra

    def _commit(self, chain: vxm.Chain, split: list[Any], out_offsets: list[Any], fixed: list[Use],
                leaf_offsets: list[Any], n: int, d: int, best: Any) -> None:
        g = self.g
        place, alus, choices, own, slack, _ = best
        t, reason = place.time, place.reason
        self.board.mark(own, t)
        for choice, index in zip(choices, place.chosen, strict=True):
            self.board.mark(choice[index].uses, t)
        bases = [choice[index].tag[1] for choice, index in zip(choices, place.chosen, strict=True)]
        feed = len(chain.leaves) + len(split)
        for number, (leaf, sampled) in enumerate(chain.leaves):
            if isinstance(leaf, Mem):
                offsets = leaf_offsets[number]
                direction = self._leaf_direction(leaf)
                streams = range(bases[number], bases[number] + leaf.bytes())
                self.emit_reads(leaf.buffer, leaf.start, leaf.step, n, d, offsets, t, direction, streams, reason)
                self.note_read(leaf.buffer, leaf.start, leaf.step, n, d, t + max(offsets))
                continue
            assert isinstance(leaf, Mat)
            _, abc_queue, acc_queue = self.resources.matrix_queues(leaf.plane)
            mxm = g.column[abc_queue]
            size = 2 if leaf.type == F16 else 1
            land = g.abc_delay(size)
            abc = sampled - abs(mxm) - slack - land
            offsets = self.read_offsets(leaf.act, mxm, abc)
            direction = EAST if mxm > 0 else WEST
            streams = range(bases[feed], bases[feed] + len(leaf.act.slices))
            self.emit_reads(leaf.act, leaf.start, leaf.step, n, d, offsets, t, direction, streams, reason)
            self.note_read(leaf.act, leaf.start, leaf.step, n, d, t + max(offsets))
            self.emit(abc_queue, t + abc, word("ABC", leaf.type, stream_field(direction, bases[feed])), land, n, d,
                      reason=reason)
            back = WEST if mxm > 0 else EAST
            accumulate = t + sampled - abs(mxm)
            self.emit(acc_queue, accumulate, word("ACC", stream_field(back, bases[number])), 1, n, d, reason=reason)
            plane = self.planes[leaf.plane]
            cycles = g.f16_feed if leaf.type == F16 else 1
            plane.fed = t + abc + (n - 1) * d + cycles - 1
            plane.accumulated = accumulate + (n - 1) * d
            if leaf.type == F16:
                other = self.planes[leaf.plane + 1]
                other.fed = plane.fed
            feed += 1
        for k, (step, alu) in enumerate(zip(chain.steps, alus, strict=True)):
            operands = []
            for kind, number in step.operands:
                if kind == "A":
                    operands.append(ALU_BASE + alus[number])
                else:
                    operands.append(stream_field(self._leaf_direction(chain.leaves[number][0]), bases[number]))
            dst = NO_STREAM
            if step.out >= 0:
                dst = stream_field(split[step.out][2], bases[len(chain.leaves) + step.out])
            queue, delay = g.vxm_queue(alu), step.result - step.issue
            if chain.fold and k == len(chain.steps) - 1:
                first = vxm.vxm_word("ADDI", "s32", None, NO_STREAM, (operands[0],), 0)
                again = vxm.vxm_word(step.op.name, step.op.type, None, NO_STREAM, tuple(operands), None)
                final = vxm.vxm_word(step.op.name, step.op.type, None, dst, tuple(operands), None)
                self.emit(queue, t + step.issue, first, delay, reason=reason)
                if n > 2:
                    self.emit(queue, t + step.issue + d, again, delay, n - 2, d, reason=reason)
                self.emit(queue, t + step.issue + (n - 1) * d, final, delay, reason=reason)
                continue
            code = vxm.vxm_word(step.op.name, step.op.type, step.op.from_type, dst, tuple(operands), step.op.imm)
            self.emit(queue, t + step.issue, code, delay, n, d, reason=reason)
        for number, (op, dsts, direction) in enumerate(split):
            base = bases[len(chain.leaves) + number]
            out_n = 1 if chain.fold else n
            for dst, offsets in zip(dsts, out_offsets[number], strict=True):
                self.emit_writes(dst.buffer, dst.start, dst.step, out_n, d, offsets, t, direction,
                                  range(base, base + op.result_bytes), reason)
                self.note_write(dst.buffer, dst.start, dst.step, out_n, d, t + max(offsets))


def later_vectors(value: Any, first: int, known: dict[int, Any]) -> Any:
    """The same expression over the vectors from iteration `first` on."""
    if id(value) not in known:
        if isinstance(value, Op):
            args = tuple(later_vectors(a, first, known) for a in value.args)
            known[id(value)] = Op(value.name, value.type, args, value.imm, value.from_type)
        elif isinstance(value, Mat):
            known[id(value)] = Mat(value.plane, value.type, value.act, value.start + value.step * first, value.step)
        else:
            known[id(value)] = Mem(value.buffer, value.start + value.step * first, value.step)
    return known[id(value)]


def _leaves(op: Op) -> list[Leaf]:
    found: list[Leaf] = []
    for a in op.args:
        found += _leaves(a) if isinstance(a, Op) else [a]
    return found


__all__ = ["F16", "S8", "Dst", "Mat", "Mem", "Scheduler", "memory_word", "stream_field", "word"]
