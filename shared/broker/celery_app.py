"""Celery and Redis: wake-ups only. Losing one, or all, costs latency and nothing else."""

from __future__ import annotations

import ssl

import structlog
from celery import Celery
from kombu.exceptions import KombuError
from kombu.pools import connections, producers
from redis import Redis
from redis.exceptions import RedisError

from shared.broker import redis_transport
from shared.environment import hide_from_libraries
from shared.settings import CommonSettings

ANALYSIS_QUEUE, WEBHOOK_QUEUE, SWEEP_QUEUE = "analysis", "webhooks", "sweep"
ANALYZE, DELIVER, SWEEP = "worker.analyze", "worker.deliver", "worker.sweep"

_SOCKET_SECONDS = 2.0
#: Longer than any task should take; a redelivered wake-up does no harm.
_VISIBILITY_SECONDS = 900
#: A wake-up that waited so long has nothing to say: sweeps and idle workers have looked since.
_WAKE_UP_LIFETIME_SECONDS = 60

#: What a Redis that does not answer shows itself as; in time also as a pool of connections that are all waiting.
_AWAY = (KombuError, RedisError, OSError)

_log = structlog.get_logger(__name__)


def make_celery(settings: CommonSettings) -> Celery:
    """Return the Celery application of every process, publisher or worker."""
    redis_transport.install()
    hide_from_libraries()  # `CELERY_BROKER_URL` would take precedence, and we would empty the queues of another program
    app = Celery("distildire", broker=settings.redis_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        accept_content=["json"],  # never pickle: a message must not be able to run code
        task_serializer="json",
        task_ignore_result=True,  # results are rows; a result backend would be a second truth
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,  # a killed worker's wake-up comes again
        worker_prefetch_multiplier=1,  # a busy worker must not sit on wake-ups that an idle one could take
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # nobody who can write to Redis may tell workers to end
        worker_hijack_root_logger=False,  # our own log format
        worker_cancel_long_running_tasks_on_connection_loss=False,  # jobs go on while Redis is away
        task_default_queue=ANALYSIS_QUEUE,
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: jobs are found by SQL meanwhile
        broker_channel_error_retry=True,  # a Redis that refuses to write, its disk full, would end the worker
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_SECONDS,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 5,
            "socket_timeout": _SOCKET_SECONDS,
            "socket_connect_timeout": _SOCKET_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        broker_use_ssl=_verified_tls(settings.redis_url.get_secret_value()),
        visibility_timeout=_VISIBILITY_SECONDS,
        redis_socket_timeout=_SOCKET_SECONDS,
        redis_socket_connect_timeout=_SOCKET_SECONDS,
    )
    return app


def _verified_tls(url: str) -> dict[str, ssl.VerifyMode] | None:
    """Have the server's certificate verified, which kombu does not do unasked; None where there is no TLS."""
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss://") else None


class Broker:
    """Tells workers that there is work, and how many wake-ups still wait in Redis."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        # Workers try for ever to reach Redis; who publishes tries once: 6 s became 1 ms with Redis away.
        self._connection = app.connection_for_write(transport_options={"max_retries": 0})

    def wake(self, queue: str, task: str, reference: str | None = None) -> bool:
        """Publish one wake-up; return whether Redis took it. `reference`, a job's id, is for tracing alone."""
        try:
            with producers[self._connection].acquire(block=True, timeout=_SOCKET_SECONDS) as producer:
                self._app.send_task(
                    task,
                    kwargs={"reference": reference},
                    producer=producer,
                    queue=queue,  # alone: an undeclared exchange or routing key would drop the message silently
                    expires=_WAKE_UP_LIFETIME_SECONDS,
                    retry=False,  # the sweep makes up for it; the caller must not wait
                )
        except _AWAY as error:
            #: Redis did not take a wake-up. Jobs go on, some seconds later each: workers look for work every
            #: `POLL_SECONDS`. Look at Redis.
            _log.warning("wake_up_not_sent", queue=queue, reference=reference, cause=type(error).__name__)
            return False
        return True

    def waiting(self, queue: str) -> int | None:
        """Return how many wake-ups wait in `queue`; None where Redis does not answer."""
        try:
            with connections[self._connection].acquire(block=True, timeout=_SOCKET_SECONDS) as connection:
                client: Redis = connection.default_channel.client
                return int(client.llen(queue))
        except _AWAY as error:
            #: Redis did not say how many wake-ups wait. Jobs go on all the same. Look at Redis.
            _log.warning("redis_not_answering", queue=queue, cause=type(error).__name__)
            return None
