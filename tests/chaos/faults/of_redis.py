"""Faults of Redis, and of the ways to it: none may stop deciding, so all count from the strike."""

import os
import signal
import time
from contextlib import suppress

import redis

from tests.chaos.faults.fault import Fault


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
        return {"redis"}

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
    """A fault of the wake messages, again and again while it lasts."""

    lasts = (0.2, 0.2)
    ROUNDS, ROUND_SECONDS = 40, 0.025

    def strike(self) -> None:
        with self.service.redis() as client:
            for _ in range(self.ROUNDS):
                with suppress(redis.RedisError):
                    for queue in client.keys("event.*") + client.keys("worker.*"):
                        self.spoil(client, queue)
                time.sleep(self.ROUND_SECONDS)

    def spoil(self, client: "redis.Redis", queue: bytes) -> None:
        raise NotImplementedError


class MessagesLost(OfMessages):
    name = "messages lost"
    meaning = "for a second, each message that no worker has read yet is deleted"

    def spoil(self, client: "redis.Redis", queue: bytes) -> None:
        client.delete(queue)


class MessagesDoubled(OfMessages):
    name = "messages doubled"
    meaning = "for a second, each message that no worker has read yet is there ten times more"

    def spoil(self, client: "redis.Redis", queue: bytes) -> None:
        for message in client.lrange(queue, 0, 5):
            client.lpush(queue, *[message] * 10)


class MessagesReordered(OfMessages):
    name = "messages reordered"
    meaning = "for a second, the messages of each queue are shuffled, and some put into others"

    def spoil(self, client: "redis.Redis", queue: bytes) -> None:
        messages = client.lrange(queue, 0, -1)
        client.delete(queue)
        queues = client.keys("event.*") or [queue]
        for message in self.chance.sample(messages, len(messages)):
            client.lpush(self.chance.choice([queue, *queues]), message)


class MessagesForged(OfMessages):
    name = "messages forged"
    meaning = "for a second, queues get garbage"
    ROUNDS = 10
    GARBAGE = (b"\x00", b"\xff\xfe", b"7", b"{}", b"[" * 10_000, b'{"properties": {}}', b"A" * 100_000)

    def spoil(self, client: "redis.Redis", queue: bytes) -> None:
        client.lpush(queue, self.chance.choice(self.GARBAGE))

    def strike(self) -> None:
        with self.service.redis() as client, suppress(redis.RedisError):
            for _ in range(self.ROUNDS):
                for event in list(self.workload.history.events.values())[-4:]:
                    self.spoil(client, f"event.{event.id}".encode())
                time.sleep(self.ROUND_SECONDS)


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
