"""When what crosses the links of one chip in one block: cycles of its SENDs and RECVs by port."""

from __future__ import annotations

from isa.opcodes import ROLE_PORT


class PortTimes:
    """SENDs and RECVs of a block, in the order of their cycles on each port.

    peers: what arrives on a local port, where that differs from what this chip sends there. stage: when
    vectors arrive from the stage before, which come on a role port, in cycles after the first one; the
    stage starts late enough for that (see programs.lpu.system).
    """

    def __init__(self, slot: int, hop: int, peers: dict[int, PortTimes] | None = None) -> None:
        self.slot, self.hop, self.peers = slot, hop, peers
        self.stage: tuple[int, ...] = ()
        self.sent: dict[int, list[int]] = {}
        self.received: dict[int, list[int]] = {}

    def last_sent(self, port: int) -> int:
        """Cycle of the last SEND on a port; a slot before cycle 0 where there is none."""
        return max(self.sent.get(port, ()), default=-self.slot)

    def last_received(self, port: int) -> int:
        """Cycle of the last RECV on a port, -1 for none."""
        return max(self.received.get(port, ()), default=-1)

    def note_sent(self, port: int, cycle: int) -> None:
        """A SEND is placed."""
        self.sent.setdefault(port, []).append(cycle)

    def note_received(self, port: int, cycle: int) -> None:
        """A RECV is placed."""
        self.received.setdefault(port, []).append(cycle)

    def arrival(self, port: int, ahead: int) -> int:
        """First cycle in which the vector `ahead` places after the next one can be received."""
        at = len(self.received.get(port, ())) + ahead
        if port >= ROLE_PORT:
            return self.stage[at]
        here = self.sent if self.peers is None else self.peers[port].sent if port in self.peers else {}
        sent = sorted(here.get(port, ()))
        if at >= len(sent):
            raise ValueError(f"port {port}: vector {at} is received, but only {len(sent)} are sent")
        return sent[at] + self.hop

    def check(self) -> None:
        """Raise AssertionError unless everything that comes on local ports was received."""
        for port in set(self.sent) | set(self.received):
            if port < ROLE_PORT:
                sender = self if self.peers is None else self.peers.get(port)
                sent = sender.sent.get(port, ()) if sender is not None else ()
                if len(sent) != len(self.received.get(port, ())):
                    raise AssertionError(f"port {port}: {len(sent)} vectors come, {len(self.received.get(port, ()))} "
                                         "are received")


__all__ = ["PortTimes"]
