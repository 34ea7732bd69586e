"""A Celery worker whose task publishes in the transaction of its job's row. It only publishes; `dispatcher work` sends.

Celery tells a worker *that* there is work, and may tell it twice; what is done already stands in the row.
"""

import os
import secrets
import sys
import time

from celery import Celery
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dispatcher import prepare_sqlite, publish, register_callback

CHAPTERS = 5

app = Celery("agent", broker=os.environ.get("CELERY_BROKER_URL", "amqp://127.0.0.1"))
# A message is gone once its task has ended, not before: a worker that dies leaves its job to another one.
app.conf.task_acks_late = app.conf.task_reject_on_worker_lost = True

# The dispatcher's own setting. A worker is synchronous, so its driver is too.
url = make_url(os.environ.get("DISPATCHER_DATABASE_URL", "sqlite:///dispatcher.db"))
engine = create_engine(url.set(drivername="sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg"))
prepare_sqlite(engine)  # does nothing on PostgreSQL


class Model(DeclarativeBase):
    """Your own tables."""


class Translation(Model):
    __tablename__ = "translations"

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    chapters_done: Mapped[int] = mapped_column(default=0)


def start(webhook_url: str) -> tuple[str, str]:
    """Makes a job and hands it to the workers; its id, and the secret of its webhooks."""
    job = Translation(id=f"job_{secrets.token_hex(8)}", status="queued")
    with Session(engine, expire_on_commit=False) as session, session.begin():
        session.add(job)
        callback = register_callback(session, job_id=job.id, url=webhook_url)
        publish(session, "job.started", {"status": job.status}, job_id=job.id)
    # After the commit, or a worker may look for a row that is not there yet.
    translate.delay(job.id)
    return job.id, callback.secret


@app.task(name="translate")
def translate(job_id: str) -> None:
    """The job, from the chapter where it stands. A transaction per chapter, and none open while the agent thinks."""
    with Session(engine) as session:
        chapter = session.get_one(Translation, job_id).chapters_done
    while chapter < CHAPTERS:
        think()
        with Session(engine) as session, session.begin():
            job = session.get_one(Translation, job_id, with_for_update=True)
            if job.chapters_done > chapter:
                return  # another worker was given the same message, and is ahead
            chapter = job.chapters_done = chapter + 1
            publish(session, "job.progress", {"percentage": 100 * chapter // CHAPTERS}, job_id=job_id)
            if chapter == CHAPTERS:
                job.status = "completed"
                publish(session, "job.completed", {"status": job.status, "chapters": chapter}, job_id=job_id)


def think() -> None:
    """In the place of your model's calls."""
    time.sleep(0.05)


if __name__ == "__main__":
    Model.metadata.create_all(engine)
    job_id, secret = start(sys.argv[1])
    print(f"started {job_id}; its webhooks are signed with {secret}")
