"""A sweep started from a laptop on a remote cluster: the same command, as a job of that cluster."""

import asyncio
import shlex
from collections.abc import Sequence

from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console

from workflows.preflight import ResourceError


def submit(address: str, arguments: Sequence[str], console: Console) -> int:
    """Run `python -m workflows.sweep ARGUMENTS` on the cluster whose dashboard is at `address`; its exit status.

    This folder travels along, without what .gitignore names. Ctrl-C leaves the job running.
    Raises: `ResourceError` when no cluster answers.
    """
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise ResourceError(f"no cluster takes jobs at {address}: {error}") from None
    job = client.submit_job(
        entrypoint=shlex.join(["python", "-m", "workflows.sweep", *arguments]), runtime_env={"working_dir": "."}
    )
    try:
        asyncio.run(_follow(client, job, console))
    except KeyboardInterrupt:
        console.print(f"the sweep goes on as job {job}: `ray job logs --follow {job}`, `ray job stop {job}`")
        return 0
    status = client.get_job_status(job)
    return 0 if status == JobStatus.SUCCEEDED else 1


async def _follow(client: JobSubmissionClient, job: str, console: Console) -> None:
    async for lines in client.tail_job_logs(job):
        console.print(lines, end="", highlight=False, markup=False)
