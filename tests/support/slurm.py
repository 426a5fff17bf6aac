"""A real Slurm on this machine: two nodes, and nothing of the system's own services."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import surroundings
from tests.support.mirrors import until
from tests.support.publishing import free_ports

NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ['PATH']}:/usr/sbin"
"""Daemons lie where the path of an ordinary user does not lead."""

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdTimeout=5
KillWait=5
MailProg=/bin/true
{nodes}
PartitionName=main Nodes=ALL Default=YES State=UP
PartitionName=transfer Nodes=ALL State=UP
"""


def missing() -> list[str]:
    """Return the daemons that are not installed here."""
    return [daemon for daemon in DAEMONS if shutil.which(daemon, path=PATH) is None]


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Slurm tells of it, or one task of an array."""

    id: str
    name: str
    state: str
    node: str


class Cluster:
    """Slurm with its own munge, all of whose files lie in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        # As an administrator's account starts it; a job gets what the submitting command has.
        self.environment = surroundings({"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH})

    def start(self) -> None:
        self._configure()
        key, files = self._folder / "munge.key", ("socket", "pid", "seed")
        key.touch(0o600)
        key.write_bytes(os.urandom(64))
        options = [f"--{name}-file={self._folder}/munge.{name}" for name in files[1:]]
        options += [f"--socket={self._folder}/munge.socket", f"--key-file={key}"]
        self._start("munged", "--foreground", f"--log-file={self._folder}/munge.log", *options)
        until((self._folder / "munge.socket").exists)
        self._start("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        until(lambda: self.ask("sinfo", "--noheader", "--format=%t %D") == "idle 2", pause=0.2)

    def stop(self) -> None:
        for job in self.ask("squeue", "--noheader", "--format=%i").split():
            self.ask("scancel", job)
        with suppress(AssertionError):
            until(lambda: not self._processes(), pause=0.2)
        for node in NODES:
            self._kill_processes(node)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            daemon.wait(20)

    def submit(self, script: str, *options: str) -> str:
        """Submit a script by standard input, as `schedule slurm | sbatch` does; return its id."""
        return self.ask("sbatch", "--parsable", *options, script=script)

    def ask(self, *command: str, script: str | None = None) -> str:
        """Return the output of one of Slurm's commands."""
        ended = subprocess.run(
            command,
            env=self.environment,
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, (command, ended.stderr)
        return ended.stdout.strip()

    def jobs(self) -> list[Job]:
        """Return all jobs, in the order of submission, an array's tasks one by one."""
        told = self.ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%j|%T|%N")
        found = [Job(*line.split("|")) for line in told.splitlines()]
        return sorted(found, key=lambda job: [int(part) for part in job.id.split("_")])

    def state(self, job_id: str) -> str:
        return next(job.state for job in self.jobs() if job.id == job_id)

    def task(self, number: int) -> Job:
        """Return that task of the newest array."""
        return [job for job in self.jobs() if job.id.endswith(f"_{number}")][-1]

    def collection(self) -> Job:
        """Return the newest job that collects what an array did."""
        return [job for job in self.jobs() if job.name.endswith("-fetch") and "_" not in job.id][-1]

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and all of its jobs' processes at once, as a power cut does.

        Slurm by itself would notice after half a minute, and requeue after two more.
        """
        lost = [job.id for job in self.jobs() if job.node == node and job.state == "RUNNING"]
        self._daemons[node].kill()
        self._kill_processes(node)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power")
        for job in self.jobs():
            if job.id in lost and job.state == "PENDING":
                self.ask("scontrol", "update", f"JobId={job.id}", "StartTime=now")

    def _kill_processes(self, node: str) -> None:
        for process in self._processes(node):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _processes(self, node: str | None = None) -> list[int]:
        """Return the processes of jobs on a node or all, each after Slurm's own that guards it."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (path / "environ").read_bytes().split(b"\0")
                if f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() not in words:
                    continue
                if b"SLURM_JOB_ID" not in [word.partition(b"=")[0] for word in words]:
                    continue
                if node is None or f"SLURMD_NODENAME={node}".encode() in words:
                    parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    if (path.parent / str(parent) / "comm").read_text() == "slurmstepd\n":
                        found.append(parent)
                    found.append(int(path.name))
        return found

    def _start(self, program: str, *options: str, name: str | None = None) -> None:
        log = self._folder / f"{name or program}.log"
        with log.open("wb") as file:
            self._daemons[name or program] = subprocess.Popen(
                [str(shutil.which(program, path=PATH)), *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        controller, *ports = free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            "CPUs=32 RealMemory=64000"
            for node, port in zip(NODES, ports, strict=True)
        )
        text = _CONFIGURATION.format(
            folder=self._folder,
            host=host,
            port=controller,
            user=pwd.getpwuid(os.geteuid()).pw_name,
            nodes=nodes,
        )
        (self._folder / "slurm.conf").write_text(text)
        for name in ("state", *NODES):
            (self._folder / name).mkdir()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Yield a cluster that runs; its folder's short path has room for sockets."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        # munged refuses a socket that others cannot reach.
        folder.chmod(0o711)
        running = Cluster(folder)
        stack.callback(running.stop)
        running.start()
        yield running
