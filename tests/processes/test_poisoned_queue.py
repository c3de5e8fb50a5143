"""Whoever can write to Redis can wake workers and nothing else: only JSON is read, and it decides nothing."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
from pathlib import Path
from typing import Any

from shared.broker.celery_app import ANALYZE, WEBHOOK_QUEUE, Broker
from tests.processes.worker_processes import Workplace, wait_until
from tests.support.bad_images import photograph, saved


class Exploit:
    """Makes a file where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def _message(body: bytes, content_type: str, task: str = ANALYZE, **headers: object) -> str:
    """A message as Redis holds it: kombu's envelope around a body."""
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary",
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": "1", "root_id": "1", "argsrepr": "()", **headers},
            "properties": {
                "delivery_info": {"exchange": "", "routing_key": WEBHOOK_QUEUE},
                "delivery_tag": "1",
                "delivery_mode": 2,
                "body_encoding": "base64",
                "correlation_id": "1",
            },
        }
    )


def test_messages_that_are_no_wake_ups_are_refused_and_the_worker_lives_on(place: Workplace, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    pickled = pickle.dumps(((Exploit(proof),), {}, {}))
    yaml = f"!!python/object/apply:os.mkdir ['{proof}']".encode()
    worker, queue = place.start("worker", "-Q", "webhooks,sweep"), place.redis()
    poison = {
        "pickle": _message(pickled, "application/x-python-serialize"),
        "yaml": _message(yaml, "application/x-yaml"),
        "msgpack": _message(b"\x93", "application/x-msgpack"),
        "pickle said to be json": _message(pickled, "application/json"),
        "no type": _message(pickled, ""),
        "unknown task": _message(b"[[], {}, {}]", "application/json", task="os.mkdir"),
        "no json at all": "\\x80garbage",
        "no message": "[1, 2]",
        "nothing": "",
        "a bomb": _message(b"[[], {}, {}]", "application/json", compression="application/x-gzip"),
        "strange arguments": _message(b'[["a", "b", "c"], {"d": 1}, {}]', "application/json", task="worker.deliver"),
    }
    for message in poison.values():
        queue.lpush(WEBHOOK_QUEUE, message)
    # Once for what is no wake-up, once for what is no JSON: the log does not repeat itself.
    wait_until(lambda: worker.said().count("message_refused") >= 2 and not queue.llen(WEBHOOK_QUEUE), 30, worker.said)
    assert f'"queue": "{WEBHOOK_QUEUE}", "event": "message_refused"' in worker.said()
    assert worker.said().count("Received unregistered task") == 1  # of all, only the unknown task came to Celery
    assert place.app.control.ping(timeout=2) == []  # nor does it obey commands, "shutdown" among them
    job_id = place.submit(saved(photograph(), "PNG"), wake=False)
    assert Broker(place.app).wake(WEBHOOK_QUEUE, "worker.deliver")
    wait_until(lambda: queue.llen(WEBHOOK_QUEUE) == 0, 30, worker.said)
    assert worker.process.poll() is None, worker.said()
    assert "proof" not in worker.said()  # what is refused is not repeated either
    assert not proof.exists()
    assert place.job(job_id).state == "queued"
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_the_exploit_would_work_where_a_pickle_is_read(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Exploit(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()
