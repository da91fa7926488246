"""Faults of Redis, and of the ways to it: none may stop deciding, so all count from the strike."""

import os
import signal
import time
from contextlib import suppress
from typing import Any

import redis

from tests.chaos.faults.fault import Fault
from tests.chaos.relay import MISDIRECTED

EVENTS_FORGED = 8


class OfRedis(Fault):
    lasts = (0.3, 2.0)

    def draw(self) -> set[str]:
        return {"redis"}


class RedisKilled(OfRedis):
    name = "Redis killed"
    meaning = "SIGKILL, away for a moment, and back without its data"

    def strike(self) -> None:
        self.service.valkey.stop(crash=True)

    def heal(self) -> None:
        self.service.valkey.start()
        self.service.valkey.wait_ready()


class RedisRestarted(RedisKilled):
    name = "Redis restarted"
    meaning = "SIGTERM, and started at once without its data"
    lasts = (0.0, 0.0)

    def strike(self) -> None:
        self.service.valkey.stop()


class RedisFlushed(OfRedis):
    name = "Redis flushed"
    meaning = "FLUSHALL"
    lasts = (0.0, 0.0)

    def strike(self) -> None:
        with self.service.redis() as client:
            client.flushall()


class RedisReadOnly(OfRedis):
    name = "Redis read-only"
    meaning = "REPLICAOF a server that is not there"

    def strike(self) -> None:
        with self.service.redis() as client:
            client.replicaof("127.0.0.1", "9")

    def heal(self) -> None:
        with self.service.redis() as client:
            client.replicaof("NO", "ONE")


class RedisFull(OfRedis):
    name = "Redis full"
    meaning = "no memory is left, and nothing is evicted"

    def strike(self) -> None:
        with self.service.redis() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")

    def heal(self) -> None:
        with self.service.redis() as client:
            client.config_set("maxmemory", "0")


class RedisHung(OfRedis):
    name = "Redis hung"
    meaning = "SIGSTOP, then SIGCONT"

    def strike(self) -> None:
        os.kill(self.service.valkey.pid, signal.SIGSTOP)

    def heal(self) -> None:
        os.kill(self.service.valkey.pid, signal.SIGCONT)


class OfWay(OfRedis):
    """A fault of the ways of some programs to Redis."""

    def draw(self) -> set[str]:
        names = self.service.programs
        self.names = self.chance.choice((names, [self.chance.choice(names)]))
        return {"redis"} if self.names == names else {f"{name}/redis" for name in self.names}

    def heal(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/redis", "pass")


class RedisUnreachable(OfWay):
    name = "Redis unreachable"
    meaning = "for one program or all: connections are cut, and new ones refused"

    def strike(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/redis", "refuse")


class RedisBlackHole(OfWay):
    name = "Redis a black hole"
    meaning = "for one program or all: nothing passes, either way, and no connection ends"

    def strike(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/redis", "hold")


class RedisSlow(OfWay):
    name = "Redis slow"
    meaning = "for one program or all: everything takes 20 to 200 ms longer"

    def strike(self) -> None:
        seconds = self.chance.uniform(0.02, 0.2)
        for name in self.names:
            self.service.relays.change(f"{name}/redis", "pass", seconds)


class OfMessages(OfRedis):
    """A fault of the wake messages: all that are sent while it lasts come to the harness instead."""

    lasts = (0.5, 2.0)
    needs = "Redis as broker"
    ROUND_SECONDS = 0.01

    def strike(self) -> None:
        self.kept: list[tuple[str, bytes]] = []
        until = time.monotonic() + self.seconds
        self.seconds = 0.0
        for name in self.service.apis:
            self.service.relays.change(f"{name}/redis", "misdirect")
        with self.service.redis() as client, suppress(redis.RedisError):
            while time.monotonic() < until:
                for queue, message in self.taken(client):
                    self.send(queue, message)
                time.sleep(self.ROUND_SECONDS)

    def heal(self) -> None:
        for name in self.service.apis:
            self.service.relays.change(f"{name}/redis", "pass")
        with self.service.redis() as client, suppress(redis.RedisError):
            self.kept += self.taken(client)
            self.end(client)

    def taken(self, client: "redis.Redis") -> list[tuple[str, bytes]]:
        """Take all messages out of the wrong queues; return each with the name of its own."""
        found: list[tuple[str, bytes]] = []
        for queue, other in MISDIRECTED.items():
            names: list[Any] = client.keys(other.decode() + "*")
            for name in names:
                messages: list[Any] = client.lrange(name, 0, -1)
                client.delete(name)
                own = (queue + name.removeprefix(other)).decode()
                found += [(own, message) for message in messages]
        return found

    def send(self, queue: str, message: bytes) -> None:
        """Do what the fault does with a message."""

    def end(self, client: "redis.Redis") -> None:
        """Send what was kept."""


class MessagesLost(OfMessages):
    name = "messages lost"
    meaning = "for a moment, no message arrives"


class MessagesDoubled(OfMessages):
    name = "messages doubled"
    meaning = "for a moment, each message arrives ten times"

    def send(self, queue: str, message: bytes) -> None:
        with self.service.redis() as client:
            client.lpush(queue, *[message] * 10)


class MessagesReordered(OfMessages):
    name = "messages reordered"
    meaning = "all messages of a moment arrive late, shuffled, some in another event's queue"

    def send(self, queue: str, message: bytes) -> None:
        self.kept.append((queue, message))

    def end(self, client: "redis.Redis") -> None:
        queues = [queue for queue, _ in self.kept]
        for queue, message in self.chance.sample(self.kept, len(self.kept)):
            client.lpush(self.chance.choice((queue, self.chance.choice(queues))), message)


class MessagesForged(OfRedis):
    name = "messages forged"
    meaning = "the queues of events and workers get garbage"
    lasts = (0.0, 0.0)
    needs = "Redis as broker"
    GARBAGE = (b"\x00", b"\xff\xfe", b"7", b"{}", b"[" * 10_000, b'{"properties": {}}', b"A" * 100_000)

    def strike(self) -> None:
        events = [f"event.{id_}" for id_ in list(self.workload.history.events)[-EVENTS_FORGED:]]
        with self.service.redis() as client, suppress(redis.RedisError):
            for queue in [*events, *client.keys("worker.*")]:
                client.lpush(queue, *self.GARBAGE)


FAULTS: list[type[Fault]] = [
    RedisKilled,
    RedisRestarted,
    RedisFlushed,
    RedisReadOnly,
    RedisFull,
    RedisHung,
    RedisUnreachable,
    RedisBlackHole,
    RedisSlow,
    MessagesLost,
    MessagesDoubled,
    MessagesReordered,
    MessagesForged,
]
