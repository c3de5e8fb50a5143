"""What goes wrong inside one worker ends one job, or the worker in order; never the service."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from shared.broker.celery_app import ANALYSIS_QUEUE, ANALYZE, Broker
from shared.errors import ObjectMissingError
from shared.jobs import lifecycle
from shared.storage.object_store import artifact_key, source_key
from tests.processes.conftest import OpenWorkplace
from tests.processes.worker_processes import READY_SECONDS, Workplace, wait_until
from tests.support.bad_images import ACCEPTED, REFUSED, photograph, saved
from tests.support.tiny_model import NAME, write_model

PHOTOGRAPH = saved(photograph(), "JPEG")


def test_every_odd_image_gets_its_answer_and_the_worker_goes_on(place: Workplace):
    worker = place.start_analysis()
    refused = [(image, place.submit(image.data)) for image in REFUSED]
    accepted = [(image, place.submit(image.data)) for image in ACCEPTED]
    place.wait_all_ended(120)

    answers = {image.name: place.job(job_id) for image, job_id in refused}
    assert {name: job.error_code for name, job in answers.items()} == {image.name: image.code for image in REFUSED}
    for image, job_id in accepted:
        job = place.job(job_id)
        assert job.state == "succeeded", (image.name, job.error_code, job.error_message)
        assert job.result is not None
        assert (job.result.width, job.result.height) == image.size, image.name
        assert job.result.media_type == image.media_type, image.name
        assert set(image.caveats) <= set(job.result.caveats), image.name
    assert worker.process.poll() is None


def test_altered_or_missing_upload_is_an_error_of_the_service(place: Workplace):
    altered, missing = (place.submit(PHOTOGRAPH, wake=False) for _ in range(2))
    place.store.put(source_key(place.tenant, altered), io.BytesIO(b"GIF89a"), 6, "image/gif")
    place.store.delete(source_key(place.tenant, missing))
    place.start_analysis()
    for job_id in (altered, missing):
        job = place.wait_ended(job_id)
        assert (job.state, job.error_code, job.error_retryable) == ("failed", "internal", True)


def test_out_of_memory_in_tasks_leaves_the_worker_consuming(open_place: OpenWorkplace, tmp_path: Path):
    place = open_place(poll_seconds=600)  # from now on only tasks take jobs
    place.redis().flushall()
    fault = tmp_path / "fault"
    fault.touch()
    worker = place.start_analysis(app="tests.processes.faulty_worker", environment={"TEST_FAULT": str(fault)})
    broker = Broker(place.app)
    for number in range(2 * place.settings.slot_count):
        assert broker.wake(ANALYSIS_QUEUE, ANALYZE, reference=str(number))  # a line each: they are no repetitions
    wait_until(lambda: worker.said().count('"task_failed"') == 2 * place.settings.slot_count, 30, worker.said)
    fault.unlink()
    assert place.wait_ended(place.submit(PHOTOGRAPH)).state == "succeeded"


def test_canceled_job_leaves_its_thread_and_stays_canceled(place: Workplace, tmp_path: Path):
    gate = tmp_path / "gate"
    place.start_gated(gate)
    others = [place.submit(PHOTOGRAPH) for _ in range(place.settings.max_batch)]
    for job_id in others:
        place.wait_stage(job_id, "diffusing")
    canceled = place.submit(PHOTOGRAPH)
    place.wait_stage(canceled, "diffusing")
    with place.database.begin() as session:
        lifecycle.cancel(session, place.tenant, canceled)
    # It waits behind the pass that the gate holds, and yet ends: nothing but the cancellation can have told it.
    wait_until(lambda: '"outcome": "abandoned"' in place.said(), 10, place.said)
    gate.unlink()
    place.wait_all_ended(20)
    job = place.job(canceled)
    assert (job.state, job.result) == ("canceled", None)
    assert {place.job(job_id).state for job_id in others} == {"succeeded"}


def test_late_worker_writes_nothing(place: Workplace, tmp_path: Path):
    """A worker that was stopped for longer than its lease, and learns of nothing, comes with its result too late."""
    gate = tmp_path / "gate"
    late = place.start_gated(gate)
    job_id = place.submit(PHOTOGRAPH)
    place.wait_stage(job_id, "diffusing")
    late.signal(signal.SIGSTOP)
    (tmp_path / "silence").touch()  # its heartbeat would tell it; the fence alone must do
    gate.unlink()
    place.start_analysis()
    first = place.wait_ended(job_id)
    assert (first.state, first.attempt, first.suspect, first.deaths) == ("succeeded", 2, True, 0)
    late.signal(signal.SIGCONT)
    wait_until(lambda: '"attempt_ended"' in late.said(), 20, late.said)

    ended = next(line for line in late.said().splitlines() if '"attempt_ended"' in line)
    assert '"outcome": "succeeded"' in ended
    assert '"written": "refused"' in ended
    after = place.job(job_id)
    assert (after.attempt, after.finished_at) == (2, first.finished_at)
    assert first.result is not None
    assert after.result is not None
    assert after.result.artifacts == first.result.artifacts
    for name in after.pictures:
        with pytest.raises(ObjectMissingError):
            place.store.get(artifact_key(place.tenant, job_id, 1, name))


def test_worker_told_to_stop_finishes_what_it_carries(place: Workplace, tmp_path: Path):
    gate = tmp_path / "gate"
    worker = place.start_gated(gate)
    slots = place.settings.slot_count
    for _ in range(slots + 5):
        place.submit(PHOTOGRAPH)
    wait_until(lambda: [job.stage for job in place.jobs()].count("diffusing") == slots, 20, place.said)
    worker.signal(signal.SIGTERM)
    wait_until(lambda: not worker.ready_file.exists(), 10, place.said)
    gate.unlink()

    assert worker.wait() == 0, worker.said()
    jobs = place.jobs()
    assert sorted(job.state for job in jobs) == ["queued"] * 5 + ["succeeded"] * slots
    assert {job.deaths for job in jobs} == {0}
    assert {job.attempt for job in jobs if job.state == "queued"} == {0}


def test_worker_gives_back_in_time_what_it_cannot_finish(open_place: OpenWorkplace, tmp_path: Path):
    place = open_place(drain_seconds=1)
    place.redis().flushall()
    worker = place.start_gated(tmp_path / "gate")
    job_id = place.submit(PHOTOGRAPH)
    place.wait_stage(job_id, "diffusing")
    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 0, worker.said()
    job = place.job(job_id)
    assert (job.state, job.deaths, job.lease_until) == ("queued", 0, None)


def test_worker_that_cannot_give_back_ends_in_time_all_the_same(open_place: OpenWorkplace, tmp_path: Path):
    place = open_place(drain_seconds=1)
    place.redis().flushall()
    worker = place.start_gated(tmp_path / "gate")
    place.wait_stage(place.submit(PHOTOGRAPH), "diffusing")
    with place.database.begin() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))  # an error that nobody thought of
    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 1, worker.said()
    assert "jobs_not_given_back" in worker.said()


def test_stuck_device_ends_the_process(open_place: OpenWorkplace, tmp_path: Path):
    place = open_place(pass_seconds=1)
    place.redis().flushall()
    worker = place.start_gated(tmp_path / "gate")
    job_id = place.submit(PHOTOGRAPH)
    assert worker.wait(20) == 1
    assert "device_stuck" in worker.said()
    assert "gated_worker.py" in worker.said()  # the stack says where it hung
    job = place.job(job_id)
    assert (job.state, job.suspect, job.deaths) == ("queued", True, 1)  # told, not left to its lease


@pytest.mark.parametrize(
    ("spoil", "status", "said"),
    [
        (lambda folder: (folder / "card.toml").unlink(), 1, f"There is no model named '{NAME}'"),
        (lambda folder: (folder / "adm.safetensors").unlink(), 1, "the weights adm.safetensors are not in"),
        (lambda folder: (folder / "card.toml").write_text("name = "), os.EX_CONFIG, "cannot be read"),
        (lambda folder: _state_digest(folder / "card.toml", "0" * 64), os.EX_CONFIG, "is not the file that its card"),
    ],
    ids=["no card yet", "no weights yet", "a card that is wrong", "altered weights"],
)
def test_worker_whose_model_cannot_be_loaded_ends_at_once_and_says_whether_another_try_may_help(
    open_place: OpenWorkplace, tmp_path: Path, spoil: Callable[[Path], object], status: int, said: str
):
    spoil(write_model(tmp_path))
    place = open_place(models_dir=tmp_path, model=NAME)
    job_id = place.submit(PHOTOGRAPH, wake=False)
    worker = place.start_analysis(ready=False)
    assert worker.wait(READY_SECONDS) == status, worker.said()
    assert said in worker.said()
    assert "Traceback" not in worker.said()
    assert place.job(job_id).attempt == 0


def test_worker_whose_device_is_not_there_yet_ends_so_that_it_is_started_again(
    open_place: OpenWorkplace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    worker = open_place(device="cuda").start_analysis(ready=False)
    assert worker.wait(READY_SECONDS) == 1, worker.said()
    assert "The device 'cuda' is not there" in worker.said()


def _state_digest(card: Path, sha256: str) -> None:
    card.write_text(card.read_text().replace("[student]", f'[student]\nsha256 = "{sha256}"'))
