"""The bus on RabbitMQ: the only package that knows AMQP.

It stands on aio-pika for connections, declarations and parked messages, and on the channel beneath it where
microseconds count: publishing writes the frames of all that waits together, consuming acknowledges neighbours together,
and deliveries are read from the socket before either sees them.
"""

from libs.bus.rabbit.bus import RabbitBus
from libs.bus.rabbit.parking import attended

__all__ = ["RabbitBus", "attended"]
