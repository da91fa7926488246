"""Faults of RabbitMQ as the broker, and of the ways to it: none may stop deciding."""

from tests.chaos.faults.fault import Fault
from tests.chaos.rabbitmq import RabbitMQ


class OfRabbitMQ(Fault):
    lasts = (0.3, 2.0)
    needs = "RabbitMQ"

    def draw(self) -> set[str]:
        return {"rabbitmq"}

    @property
    def server(self) -> RabbitMQ:
        assert self.service.rabbitmq is not None, "the fault needs it"
        return self.service.rabbitmq


class RabbitMQReplaced(OfRabbitMQ):
    name = "RabbitMQ restarted"
    meaning = "its virtual host ends, with all connections, and begins anew without its queues"
    lasts = (0.0, 0.0)

    def strike(self) -> None:
        self.server.replace()


class RabbitMQRefuses(OfRabbitMQ):
    name = "RabbitMQ refuses"
    meaning = "the user may do nothing: connections end, and new ones are refused by the server"

    def strike(self) -> None:
        self.server.refuse()

    def heal(self) -> None:
        self.server.allow()


class OfWay(OfRabbitMQ):
    """A fault of the ways of some programs to RabbitMQ."""

    def draw(self) -> set[str]:
        names = self.service.programs
        self.names = self.chance.choice((names, [self.chance.choice(names)]))
        return {"rabbitmq"} if self.names == names else {f"{name}/rabbitmq" for name in self.names}

    def heal(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/rabbitmq", "pass")


class RabbitMQUnreachable(OfWay):
    name = "RabbitMQ unreachable"
    meaning = "for one program or all: connections are cut, and new ones refused"

    def strike(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/rabbitmq", "refuse")


class RabbitMQCutOff(OfWay):
    name = "RabbitMQ cut off"
    meaning = "for one program or all: all connections are cut once"
    lasts = (0.0, 0.0)

    def strike(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/rabbitmq", "cut")


class RabbitMQBlackHole(OfWay):
    name = "RabbitMQ hung"
    meaning = "for one program or all: nothing passes, either way, and no connection ends"

    def strike(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/rabbitmq", "hold")


class RabbitMQSlow(OfWay):
    name = "RabbitMQ slow"
    meaning = "for one program or all: everything takes 20 to 200 ms longer"

    def strike(self) -> None:
        seconds = self.chance.uniform(0.02, 0.2)
        for name in self.names:
            self.service.relays.change(f"{name}/rabbitmq", "pass", seconds)


FAULTS: list[type[Fault]] = [
    RabbitMQReplaced,
    RabbitMQRefuses,
    RabbitMQUnreachable,
    RabbitMQCutOff,
    RabbitMQBlackHole,
    RabbitMQSlow,
]
