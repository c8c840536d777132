"""The event bus on RabbitMQ: the only package that knows AMQP.

It uses aio-pika's public API throughout. The one exception is `publish_encoder`, a faster way to publish, which is used
only with the versions of the libraries that it was proven with.
"""

from libs.bus.rabbit.broker_check import Broker, examine_broker
from libs.bus.rabbit.bus import RabbitBus
from libs.bus.rabbit.connection import parse_amqp_urls, split_amqp_urls
from libs.bus.rabbit.dead_letters import open_pool_queues

__all__ = ["Broker", "RabbitBus", "examine_broker", "open_pool_queues", "parse_amqp_urls", "split_amqp_urls"]
