"""The engine: batches that change no image, cancellation, failures that stay alone, bounds, draining."""

from __future__ import annotations

import pytest
import torch
from folders import write_tiny_model
from served import MODEL, Gate, make_job, make_task, running_engine, until

import smalti
from smalti.editing.selection import Selection
from smalti.editing.source import open_source
from smalti.errors import SmaltiError
from smalti.serving.errors import ApiError
from smalti.serving.queueing import Queue
from smalti.serving.steps import Orders
from smalti.serving.tasks import EditTask, Piece
from smalti.serving.worker import Worker

PROMPTS = ["a red circle", "a blue square", "two dogs", "a cat"]


@pytest.fixture(scope="module")
def pipe():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        yield smalti.load(write_tiny_model(Path(folder) / "tiny"))


class GatedWorker(Worker):
    """A worker whose first batch waits after its first step, and which fails where it is told to."""

    def __init__(self, pipelines, gate=None, poison=None) -> None:
        super().__init__(pipelines)
        self.gate, self.poison, self.batches = gate, poison, []

    def draw(self, pieces, watch) -> None:
        self.batches.append([piece.task.prompt for piece in pieces])
        if self.poison in self.batches[-1]:
            raise ValueError("poisoned /srv/secret/path")
        if self.gate is not None:
            inner, gate = watch.after, self.gate
            watch.after = lambda seen: (gate.pass_through(), inner(seen))[1]
        super().draw(pieces, watch)


def alone(pipe, task, index=0):
    found = []

    class Taking:
        def orders(self):
            return Orders()

        def after(self, seen):
            pass

        def finished(self, image, drawn):
            found.append(drawn)

    worker = Worker({MODEL: pipe})
    edit = worker.prepare(task) if task.edit else None
    worker.draw([Piece(task, index, edit)], Taking())
    return found[0]


def test_an_image_in_a_batch_is_the_image_drawn_alone(pipe) -> None:
    gate = Gate()
    worker = GatedWorker({MODEL: pipe}, gate)
    with running_engine(worker) as (engine, collected):
        engine.start()
        first = make_job(pipe, "a green star")
        engine.submit(first)
        gate.reached.wait(20)
        jobs = [make_job(pipe, "a red circle", seeds=range(seed, seed + 2)) for seed in (3, 9, 27)]
        for job in jobs:
            engine.submit(job)
        gate.open.set()
        until(lambda: all(job.state == "completed" for job in jobs))
    assert worker.batches[1] == ["a red circle"] * 6
    for job in jobs:
        for index in range(2):
            assert torch.equal(collected.tokens[job.id, index], alone(pipe, job.task, index).tokens)


def test_edits_and_drawings_share_a_batch(pipe) -> None:
    scene = pipe("a red circle", seed=5)
    source = open_source(pipe.components, scene.images[0], pipe.settings.size, reuse=True)
    edit = EditTask(source, Selection(strength=0.4))
    settings = {"num_inference_steps": 4}
    gate = Gate()
    worker = GatedWorker({MODEL: pipe}, gate)
    with running_engine(worker) as (engine, collected):
        engine.start()
        engine.submit(make_job(pipe, "a green star"))
        gate.reached.wait(20)
        edited = make_job(pipe, "two dogs", (1, 2), edit, operation="edit", **settings)
        drawn = make_job(pipe, "two dogs", (8,), **settings)
        engine.submit(edited)
        engine.submit(drawn)
        gate.open.set()
        until(lambda: edited.finished and drawn.finished)
    assert worker.batches[1] == ["two dogs"] * 3
    want = pipe.edit(
        scene.images[0], "two dogs", strength=0.4, seed=[1, 2], num_images_per_prompt=2, **settings
    )
    for index in range(2):
        assert torch.equal(collected.tokens[edited.id, index], want.tokens[index])
    assert torch.equal(collected.tokens[drawn.id, 0], alone(pipe, drawn.task).tokens)


def test_cancelling_one_leaves_its_batch_mates(pipe) -> None:
    gate = Gate()
    worker = GatedWorker({MODEL: pipe}, gate)
    with running_engine(worker) as (engine, collected):
        jobs = [make_job(pipe, "a red circle", (seed,)) for seed in range(3)]
        for job in jobs:
            engine.submit(job)
        engine.start()
        gate.reached.wait(20)
        engine.cancel(jobs[1])
        engine.cancel(jobs[1])
        gate.open.set()
        until(lambda: all(job.finished for job in jobs))
    assert len(worker.batches[0]) == 3
    assert [job.state for job in jobs] == ["completed", "cancelled", "completed"]
    for job in (jobs[0], jobs[2]):
        assert torch.equal(collected.tokens[job.id, 0], alone(pipe, job.task).tokens)
    assert (jobs[1].id, 0) not in collected.tokens


def test_clients_take_turns(pipe) -> None:
    queue = Queue(20, 10)
    waiting = {}
    for number, client in enumerate("aaaabbca"):
        job = make_job(pipe, f"{number} dogs", client=client, num_inference_steps=number + 1)
        queue.put(job, 1)
        waiting[job.id] = f"{client}{number}"
    assert [waiting[job.id] for job in queue.jobs()] == ["a0", "b4", "c6", "a1", "b5", "a2", "a3", "a7"]
    taken = queue.take(8)
    assert taken is not None and [waiting[job.id] for job, _ in taken] == ["a0"]
    queue.remove(queue.jobs()[0])
    for number, client in enumerate("ac", start=8):
        job = make_job(pipe, f"{number} dogs", client=client, num_inference_steps=number + 1)
        queue.put(job, 1)
        waiting[job.id] = f"{client}{number}"
    assert [waiting[job.id] for job in queue.jobs()] == ["c6", "a1", "b5", "a2", "c9", "a3", "a7", "a8"]


def test_cancelling_a_waiting_job_leaves_the_running_one(pipe) -> None:
    gate = Gate()
    with running_engine(GatedWorker({MODEL: pipe}, gate)) as (engine, _):
        engine.start()
        running, waiting = make_job(pipe, "a red circle"), make_job(pipe, "two dogs")
        engine.submit(running)
        gate.reached.wait(20)
        engine.submit(waiting)
        assert engine.queue.position(waiting) == 0
        engine.cancel(waiting)
        assert engine.queue.position(waiting) is None
        gate.open.set()
        until(lambda: running.finished)
    assert (running.state, waiting.state) == ("completed", "cancelled")


def test_a_fault_fails_its_job_alone_and_says_nothing_of_the_server(pipe, caplog) -> None:
    worker = GatedWorker({MODEL: pipe}, poison="a blue square")
    with running_engine(worker) as (engine, _):
        jobs = [make_job(pipe, prompt) for prompt in ("a red circle", "a blue square", "a green star")]
        lengths = {job.task.lengths for job in jobs}
        for job in jobs:
            engine.submit(job)
        engine.start()
        until(lambda: all(job.finished for job in jobs))
    assert len(lengths) > 1 or len(worker.batches[0]) == 3
    assert [job.state for job in jobs] == ["completed", "failed", "completed"]
    assert jobs[1].error.status == 500 and "secret" not in jobs[1].error.message


def test_an_edit_that_cannot_be_prepared_fails_alone(pipe) -> None:
    scene = pipe("a red circle", seed=5)
    source = open_source(pipe.components, scene.images[0], pipe.settings.size, reuse=True)
    bad = EditTask(source, Selection(mask=torch.zeros(8, 8, dtype=torch.bool)))
    with running_engine(Worker({MODEL: pipe})) as (engine, _):
        jobs = [make_job(pipe, "two dogs", (1,), bad, operation="edit"), make_job(pipe, "two dogs")]
        for job in jobs:
            engine.submit(job)
        engine.start()
        until(lambda: all(job.finished for job in jobs))
    assert [job.state for job in jobs] == ["failed", "completed"]
    assert jobs[0].error.body()["error"]["param"] == "mask"


def test_cancelling_need_not_wait_for_a_selection(pipe) -> None:
    scene = pipe("a red circle", seed=5)
    source = open_source(pipe.components, scene.images[0], pipe.settings.size, reuse=True)
    gate = Gate()

    class Selecting(Worker):
        def prepare(self, task):
            gate.pass_through()
            return super().prepare(task)

    with running_engine(Selecting({MODEL: pipe})) as (engine, collected):
        job = make_job(pipe, "two dogs", (1,), EditTask(source, Selection(strength=0.4)), operation="edit")
        engine.submit(job)
        engine.start()
        gate.reached.wait(20)
        engine.cancel(job)
        assert job.state == "cancelled"
        gate.open.set()
    assert not collected.tokens


def test_more_images_than_a_batch_has_room_for(pipe) -> None:
    worker = GatedWorker({MODEL: pipe})
    with running_engine(worker, batch=2) as (engine, collected):
        job = make_job(pipe, "a red circle", range(5))
        engine.submit(job)
        engine.start()
        until(lambda: job.finished)
    assert [len(batch) for batch in worker.batches] == [2, 2, 1]
    assert len(collected.tokens) == 5


def test_the_queue_is_bounded(pipe) -> None:
    with running_engine(Worker({MODEL: pipe}), waiting=3, waiting_per_client=2) as (engine, _):
        for client in ("a", "a"):
            engine.submit(make_job(pipe, client=client))
        with pytest.raises(ApiError) as refused:
            engine.submit(make_job(pipe, client="a"))
        assert refused.value.status == 429 and refused.value.code == "too_many_requests"
        engine.submit(make_job(pipe, client="b"))
        with pytest.raises(ApiError) as refused:
            engine.submit(make_job(pipe, client="c"))
        assert refused.value.status == 429 and refused.value.code == "queue_full"
        assert int(refused.value.headers["retry-after"]) >= 1
        assert engine.queue.full
        engine.start()


def test_one_client_is_served_in_order(pipe) -> None:
    worker = GatedWorker({MODEL: pipe})
    with running_engine(worker, batch=1) as (engine, _):
        jobs = [make_job(pipe, "a red circle", (seed,)) for seed in range(6)]
        for job in jobs:
            engine.submit(job)
        engine.start()
        until(lambda: all(job.finished for job in jobs))
    started = [job.started for job in jobs]
    assert started == sorted(started)


def test_jobs_that_wait_or_draw_for_too_long_fail(pipe) -> None:
    with running_engine(Worker({MODEL: pipe}), wait_seconds=-1) as (engine, _):
        job = make_job(pipe)
        engine.submit(job)
        engine.start()
        until(lambda: job.finished)
    assert job.error.code == "waited_too_long" and job.error.status == 503
    with running_engine(Worker({MODEL: pipe}), draw_seconds=-1) as (engine, _):
        job = make_job(pipe)
        engine.submit(job)
        engine.start()
        until(lambda: job.finished)
    assert job.error.code == "too_slow"


def test_too_much_work_is_refused_by_the_measured_pace(pipe) -> None:
    with running_engine(Worker({MODEL: pipe}), work_seconds=1e-6) as (engine, _):
        engine.start()
        until(lambda: engine.ready)
        with pytest.raises(ApiError) as refused:
            engine.submit(make_job(pipe, "a red circle", range(4)))
    assert (refused.value.status, refused.value.param) == (400, "n")


def test_draining_finishes_what_was_accepted(pipe) -> None:
    with running_engine(Worker({MODEL: pipe}), batch=1) as (engine, _):
        engine.start()
        jobs = [make_job(pipe, "a red circle", (seed,)) for seed in range(4)]
        for job in jobs:
            engine.submit(job)
        engine.drain(20)
        assert [job.state for job in jobs] == ["completed"] * 4
        with pytest.raises(ApiError) as refused:
            engine.submit(make_job(pipe))
        assert refused.value.status == 503


def test_draining_ends_in_time(pipe) -> None:
    gate = Gate()
    worker = GatedWorker({MODEL: pipe}, gate)
    with running_engine(worker) as (engine, _):
        engine.start()
        job = make_job(pipe)
        engine.submit(job)
        gate.reached.wait(20)
        import threading

        threading.Timer(0.3, gate.open.set).start()
        engine.drain(0.1)
        assert job.state == "failed" and job.error.code == "shutting_down"


def test_tasks_have_plain_values(pipe) -> None:
    import pickle

    task = make_task(pipe)
    assert pickle.loads(pickle.dumps(task)).group == task.group


def test_bad_settings_fail_as_smalti_says(pipe) -> None:
    with pytest.raises(SmaltiError):
        make_task(pipe, top_p=2.0)
