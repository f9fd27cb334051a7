"""A Slurm cluster of one node on this machine: its own configuration, key, ports and state, all in one folder.

    python tests/slurm_cluster.py FOLDER        starts one, says how to reach it, and stops it at the end of the input

It needs Debian's packages `slurm-wlm` and `munge`, neither a system manager nor control groups, and no rights beyond
those of the user who starts it.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
# Daemons lie where a user's PATH does not always lead.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIGURATION = """\
ClusterName=sims
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# Where there are no control groups, and less of a machine than the configuration says.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=200
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=100000
KillWait=5
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing():
    """The programs that a cluster needs and that are not here."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def free_ports(count):
    """Ports that nobody listened on a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """A running cluster; `with Cluster(folder) as cluster`."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": PATH,
        }
        self.daemons = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        control, node = free_ports(2)
        text = CONFIGURATION.format(
            folder=self.folder,
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            control=control,
            node=node,
        )
        (self.folder / "slurm.conf").write_text(text)
        munge = [f"--{name}-file={self.folder}/munged.{name}" for name in ("pid", "seed", "log")]
        # Its folder may lie below one that others may write to, such as /tmp.
        self.daemon(
            "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", f"--key-file={key}", *munge
        )
        self.wait(lambda: (self.folder / "munge.socket").exists(), "munged listens")
        self.daemon("slurmctld", "-D", "-c")
        self.daemon("slurmd", "-D")
        self.wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False), "the node is idle")

    def daemon(self, *command):
        log = (self.folder / f"{command[0]}.out").open("w")
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        log.close()
        self.daemons.append(process)

    def stop(self):
        if len(self.daemons) == 3:
            self.run("scancel", "--quiet", "--me", check=False)
        for process in reversed(self.daemons):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.daemons = []

    def run(self, *command, check=True):
        """What a command of Slurm prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
        return done.stdout

    def active(self):
        """The names of jobs that did not end, a line each."""
        return self.run("squeue", "--me", "--noheader", "--array", "--format=%T %j").splitlines()

    def wait(self, condition, what, seconds=30):
        """Waits until `condition` holds."""
        end = time.monotonic() + seconds
        while not condition():
            for process in self.daemons:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args[0]} ended: see {self.folder}/{process.args[0]}.out and .log")
            if time.monotonic() > end:
                raise RuntimeError(f"not within {seconds} s: {what}; the logs are in {self.folder}")
            time.sleep(0.05)


if __name__ == "__main__":
    if missing():
        sys.exit(f"not installed: {', '.join(missing())}; apt-get install slurm-wlm munge")
    with Cluster(sys.argv[1]) as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        sys.stdin.read()
