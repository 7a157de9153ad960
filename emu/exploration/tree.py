"""The tree of runs: which are to be made, so that every outcome is seen once.

A node is a point of a run, its children what came of each thread's next step there. Dynamic partial order
reduction adds a child only where two steps that meet could have come in the other order; exhaustive search
adds all. Runs are made in batches, in an order that does not depend on who makes them, nor how fast.

Source: Abdulla et al., "Source Sets: A Foundation for Optimal Dynamic Partial Order Reduction", 2017; Coons,
Musuvathi, McKinley, "Bounded Partial-Order Reduction", 2013.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.exploration.choosers import Request
from emu.exploration.order import Order
from emu.process.visible import RESUME

if TYPE_CHECKING:
    from emu.exploration.data import Ran
    from emu.process.steps import Step
    from emu.process.visible import Operation


class Node:
    """A point that runs have come to.

    `tried` are the threads whose step was asked for here, in order; `sleep` those that need not be.

    `outstanding` counts the runs still to be made through here.
    """

    __slots__ = (
        "children",
        "current",
        "enabled",
        "outstanding",
        "parent",
        "pending",
        "preemptions",
        "sleep",
        "tid",
        "tried",
        "depth",
    )

    def __init__(self, parent: Node | None, tid: int, preemptions: int) -> None:
        self.parent, self.tid, self.preemptions = parent, tid, preemptions
        self.depth: int = parent.depth + 1 if parent is not None else 0
        self.enabled: tuple[int, ...] = ()
        self.current = 0
        self.pending: dict[int, Operation] = {}
        self.sleep: dict[int, Operation] = {}
        self.tried: list[int] = []
        self.children: dict[int, Node] = {}
        self.outstanding = 0

    def operation(self, tid: int) -> Operation:
        """Return what a thread is about to do here."""
        return self.pending.get(tid, RESUME)

    def preempting(self, tid: int) -> int:
        """Return how many preemptions a run has that goes on with `tid`."""
        return self.preemptions + (self.current != 0 and tid != self.current)

    def path(self) -> tuple[int, ...]:
        """Return the threads whose steps lead here."""
        tids: list[int] = []
        node = self
        while node.parent is not None:
            tids.append(node.tid)
            node = node.parent
        return tuple(reversed(tids))


class _Item(NamedTuple):
    node: Node
    tid: int


class ScheduleTree:
    """What is known of all runs.

    `reduce` is for dynamic partial order reduction, `preemptions` the most that a run may have (None: any
    number), `depth` the step from which on no other thread is tried. `pruned` counts runs that were given up,
    `beyond` those left out for their preemptions or depth, `begun` those asked for.
    """

    def __init__(self, *, reduce: bool, preemptions: int | None, depth: int | None = None) -> None:
        self._reduce, self._bound, self._depth = reduce, preemptions, depth
        self._sleeping = reduce and preemptions is None and depth is None
        self.root = Node(None, 0, 0)
        self._items: list[tuple[int, int, _Item]] = []
        """A heap: runs with the fewest preemptions come first, which are what most failures need;
        of those the one first thought of.
        """
        self._noted = 0
        self._first = True
        self.pruned = self.beyond = self.begun = 0

    @property
    def left(self) -> int:
        """How many runs are known to be left."""
        return len(self._items) + self._first

    def take(self, most: int) -> list[tuple[Request, tuple[Node, int] | None]]:
        """Take the next runs to be made, at most so many, each with what `add` wants back."""
        if self._first:
            self._first = False
            self.begun += 1
            return [(Request("guided"), None)]
        taken = [heapq.heappop(self._items)[2] for _ in range(min(most, len(self._items)))]
        self.begun += len(taken)
        return [(self._request(item), item) for item in taken]

    def _request(self, item: _Item) -> Request:
        node, tid = item
        sleep = dict(node.sleep)
        if self._sleeping:
            for earlier in node.tried[: node.tried.index(tid)]:
                sleep[earlier] = node.operation(earlier)
        return Request("guided", (*node.path(), tid), tuple(sleep.items()))

    def add(self, item: tuple[Node, int] | None, ran: Ran) -> None:
        """Take in a run that was asked for."""
        if ran.outcome is None:
            self.pruned += 1
        nodes = self._grow(ran.steps)
        fresh = len(item[0].path()) if item is not None else 0
        if self._reduce:
            self._reorder(ran.steps, nodes, fresh)
        else:
            for node in nodes[fresh:]:
                for tid in node.enabled:
                    self._try(node, tid)
        if nodes and ran.outcome is not None and ran.steps[-1].operation.name == "exit_group":
            for tid in nodes[-1].enabled:
                self._try(nodes[-1], tid)  # the end of the process meets whatever others would have done
        if item is not None:
            self._done(item[0])
        elif not self.root.outstanding:
            self.root.children.clear()

    def _grow(self, steps: tuple[Step, ...]) -> list[Node]:
        """Return the points of a run, those that are new among them."""
        node, nodes = self.root, []
        for step in steps:
            if not node.enabled:
                node.enabled, node.current = step.point.enabled, step.point.current
                node.pending = step.point.pending if len(node.enabled) > 1 else {}
            if step.tid not in node.tried:
                node.tried.append(step.tid)
            child = node.children.get(step.tid)
            if child is None:
                child = node.children[step.tid] = Node(node, step.tid, node.preempting(step.tid))
                if self._sleeping:
                    child.sleep = self._asleep(node, step)
            nodes.append(node)
            node = child
        return nodes

    def _asleep(self, node: Node, step: Step) -> dict[int, Operation]:
        sleep = dict(node.sleep)
        for earlier in node.tried[: node.tried.index(step.tid)]:
            sleep[earlier] = node.operation(earlier)
        return {
            tid: operation
            for tid, operation in sleep.items()
            if tid != step.tid and not operation.meets(step.operation)
        }

    def _reorder(self, steps: tuple[Step, ...], nodes: list[Node], fresh: int) -> None:
        order = Order(steps)
        for race in order.races:
            if race.second < fresh:
                continue
            node = nodes[race.first]
            initials = [tid for tid in order.initials(race) if tid in node.enabled]
            if not initials:
                initials = list(node.enabled)
            elif any(tid in node.tried or tid in node.sleep for tid in initials):
                if self._bound is None:
                    continue
            else:
                initials = initials[:1]
            for tid in initials:
                self._try(node, tid)
                if self._bound is not None:
                    self._try(self._block(nodes, race.first), tid)

    def _block(self, nodes: list[Node], at: int) -> Node:
        """Return the point at which the turn of the thread that made step `at` began:
        a switch there is no preemption.
        """
        while at and nodes[at].current and nodes[at].tid == nodes[at].current:
            at -= 1
        return nodes[at]

    def _try(self, node: Node, tid: int) -> None:
        if tid in node.tried or tid in node.sleep or tid not in node.enabled:
            return
        node.tried.append(tid)
        too_deep = self._depth is not None and node.depth >= self._depth
        if too_deep or self._bound is not None and node.preempting(tid) > self._bound:
            self.beyond += 1
            return
        self._noted += 1
        heapq.heappush(self._items, (node.preempting(tid), self._noted, _Item(node, tid)))
        above: Node | None = node
        while above is not None:
            above.outstanding += 1
            above = above.parent

    def _done(self, node: Node) -> None:
        """A run through `node` is over: what nobody will come through any more is forgotten."""
        above: Node | None = node
        last: Node | None = None
        while above is not None:
            above.outstanding -= 1
            if last is not None and not last.outstanding:
                last.children.clear()
            last, above = above, above.parent
