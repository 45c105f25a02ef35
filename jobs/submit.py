"""Run a verb on a Ray cluster: `python -m jobs.submit VERB --config F [a.b=c …]`.

It wraps `ray job submit`: it checks the settings here, uploads the code, and names the job after
the run and the verb. The same line submits again what failed, and the job goes on from what is
finished.
"""

import argparse
import asyncio
import importlib
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jobs import command
from pipeline.cluster import submission
from pipeline.errors import NezhaError


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit; returns the exit status: 0, or 2 for what the user can correct."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", help="verb to run, such as pretrain")
    parser.add_argument(
        "--config",
        metavar="FILE",
        action=command.OneFile,
        help="YAML file of settings, in this folder",
    )
    parser.add_argument(
        "--address",
        help="the cluster's dashboard, or HOST:PORT of `ray start`; default: "
        f"RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or {submission.DEFAULT_ADDRESS}",
    )
    parser.add_argument("--follow", action="store_true", help="show the job's log until it ends")
    parser.add_argument("--dry-run", action="store_true", help="print the plain command instead")
    parser.add_argument(
        "--cpus", type=float, default=0, help="CPUs to reserve for the command itself (0)"
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help=f"install the pinned packages for the job, except {', '.join(submission.IN_IMAGE)}",
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="a setting and its value")
    chosen = parser.parse_intermixed_args(arguments)  # options may stand among the settings
    goes_on = ""
    try:
        job = submission.plan(
            Path.cwd(),
            chosen.verb,
            chosen.config,
            chosen.overrides,
            reads,
            cpus=chosen.cpus,
            install=chosen.install,
        )
        if chosen.dry_run:
            print(job.line(submission.address_of(chosen.address)))
            return 0
        client = submission.connected(submission.address_of(chosen.address))
        address, name = client.get_address(), submission.submit(client, job)
        use = (
            f"follow it by: {submission.ray_job(address, 'logs', '-f', name)}\n"
            f"stop it by: {submission.ray_job(address, 'stop', name)}"
        )
        goes_on = f"; {name} goes on\n{use}"
        print(f"{name} is submitted to {address}\n{use}", flush=True)
        if chosen.follow:
            asyncio.run(submission.follow(client, name, partial(print, end="", flush=True)))
    except NezhaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    return 0


def reads(verb: str, key: str) -> bool:
    """Whether a verb reads a setting."""
    return command.reads(importlib.import_module(f"jobs.{verb}").VERB, key)


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # Ray names each file that it does not upload
    sys.exit(main())
