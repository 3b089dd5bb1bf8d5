"""Bytes that this process has sent and received over TCP, by the process at the other end, from the
kernel's counters.

Standard library alone: every engine's own Python reads it. Payload and the transport's own framing,
without TCP and IP headers. A connection that was closed is not counted any more: the engines here
keep theirs open.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

# struct tcp_info of linux/tcp.h
_INFO_BYTES, _RECEIVED, _SENT, _SENT_AGAIN = 216, 128, 200, 208
Traffic = dict[str, tuple[int, int]]


class Counter:
    """Counts what passes between this process and the named ones.

    Args:
        pids: name -> process at the other end, on this machine.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._start: Traffic = {}
        self.reset()

    def reset(self) -> None:
        """Count from here on."""
        self._start = self._totals()

    def read(self) -> Traffic:
        """(sent, received) by name, since `reset`."""
        now = self._totals()
        return {
            name: (now[name][0] - start[0], now[name][1] - start[1])
            for name, start in self._start.items()
        }

    def _totals(self) -> Traffic:
        ports = {name: ports_of(pid) for name, pid in self._pids.items()}
        totals = dict.fromkeys(self._pids, (0, 0))
        for remote, sent, received in own_connections():
            for name, theirs in ports.items():
                if remote in theirs:
                    totals[name] = (totals[name][0] + sent, totals[name][1] + received)
        return totals


def own_connections() -> Iterator[tuple[int, int, int]]:
    """(remote port, bytes sent, bytes received) of every TCP connection of this process."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as end:
                by_ip = end.family in (socket.AF_INET, socket.AF_INET6)
                if not by_ip or end.type != socket.SOCK_STREAM:
                    continue
                remote = end.getpeername()[1]
                info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        except OSError:  # it was closed meanwhile, or listens
            continue
        if len(info) < _INFO_BYTES:
            raise OSError("this kernel's tcp_info has no bytes_sent: Linux 4.19 or later is needed")
        [received], [sent], [again] = (
            struct.unpack_from("=Q", info, at) for at in (_RECEIVED, _SENT, _SENT_AGAIN)
        )
        yield remote, sent - again, received


def ports_of(pid: int) -> set[int]:
    """Local ports of the TCP connections of a process."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                found.add(int(fields[1].rsplit(":", 1)[1], 16))
    return found


def peak_memory_bytes(pid: int | str = "self") -> int:
    """The largest resident size a process has had (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
