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
#: Longer than any task should take. A wake-up that is delivered twice does no harm.
_VISIBILITY_SECONDS = 900
#: A wake-up that waited so long is useless: sweeps and idle workers have looked since.
_WAKE_UP_LIFETIME_SECONDS = 60

#: The errors of a Redis that does not answer; after a while also of a pool whose connections are all in use.
_AWAY = (KombuError, RedisError, OSError)

_log = structlog.get_logger(__name__)


def make_celery(settings: CommonSettings) -> Celery:
    """Return the Celery application of every process, publisher or worker."""
    redis_transport.install()
    hide_from_libraries()  # `CELERY_BROKER_URL` would take precedence: we would empty another program's queues
    app = Celery("distildire", broker=settings.redis_url.get_secret_value(), set_as_current=False)
    app.conf.update(
        accept_content=["json"],  # never pickle: a message must not be able to run code
        task_serializer="json",
        task_ignore_result=True,  # results are rows; a result backend would be a second truth
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,  # a killed worker's wake-up is delivered again
        worker_prefetch_multiplier=1,  # a busy worker must not hold wake-ups that an idle one could take
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # nobody who can write to Redis may tell workers to end
        worker_hijack_root_logger=False,  # our own log format
        worker_cancel_long_running_tasks_on_connection_loss=False,  # jobs go on while Redis is away
        task_default_queue=ANALYSIS_QUEUE,
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: jobs are found by SQL meanwhile
        broker_channel_error_retry=True,  # or a Redis that refuses writes, on a full disk, would end the worker
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
    """Return the option that makes kombu verify the server's certificate; None without TLS."""
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss://") else None


class Broker:
    """Tells workers that there is work, and how many wake-ups still wait in Redis."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        # A worker tries for ever to reach Redis, a publisher once: with Redis down that takes 1 ms instead of 6 s.
        self._connection = app.connection_for_write(transport_options={"max_retries": 0})

    def wake(self, queue: str, task: str, reference: str | None = None) -> bool:
        """Publish one wake-up; return whether Redis took it. `reference`, a job's id, is only for tracing."""
        try:
            with producers[self._connection].acquire(block=True, timeout=_SOCKET_SECONDS) as producer:
                self._app.send_task(
                    task,
                    kwargs={"reference": reference},
                    producer=producer,
                    queue=queue,  # nothing else: an undeclared exchange or routing key would drop the message silently
                    expires=_WAKE_UP_LIFETIME_SECONDS,
                    retry=False,  # the caller must not wait; a sweep finds the job without it
                )
        except _AWAY as error:
            #: Redis did not accept a wake-up. Jobs go on, each some seconds later: workers look for work every
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
