"""What makes a process a worker: its number, and the descriptors that it has from the parent."""

import socket
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Membership:
    """A worker's place among the others; the value of the option `--worker`, which only the parent uses."""

    number: int
    """From 1."""
    workers: int
    channel: int
    """Descriptor of its end of the channel to the parent."""
    sockets: tuple[int, ...]
    """Descriptors of the listening sockets, in the order of the workers."""

    def __str__(self) -> str:
        return f"{self.number}/{self.workers}:{self.channel}:{','.join(map(str, self.sockets))}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The membership of this text. Raises ValueError."""
        place, channel, sockets = text.split(":")
        number, _, workers = place.partition("/")
        return cls(int(number), int(workers), int(channel), tuple(map(int, sockets.split(","))))

    def opened(self) -> tuple[socket.socket, list[socket.socket]]:
        """The channel's end and the listening sockets, which no child process inherits any more."""
        channel, *listeners = (socket.socket(fileno=each) for each in (self.channel, *self.sockets))
        for each in (channel, *listeners):
            each.set_inheritable(False)
        return channel, listeners
