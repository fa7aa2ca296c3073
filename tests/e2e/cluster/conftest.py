"""A SLURM of the test's own: a controller and two nodes, each in a network namespace on a bridge, with their own munge.

Nothing of it touches a SLURM that the machine may have: configuration, sockets, spool folders and addresses lie in one
folder and one private network, and all ends with the test.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "ip", "nsenter", "unshare")
NODES = ("n1", "n2")
BRIDGE = "twbr0"
CONTROLLER = "10.213.77.1"
ADDRESSES = {"n1": "10.213.77.11", "n2": "10.213.77.12"}

CONFIGURATION = """
ClusterName=twice
SlurmctldHost={host}({controller})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued waits until the credentials of its last start are void.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=20
SlurmdTimeout=15
MessageTimeout=5
KillWait=10
MinJobAge=600
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeAddr={n1} NodeHostname=n1 Sockets=1 CoresPerSocket={cores} State=UNKNOWN
NodeName=n2 NodeAddr={n2} NodeHostname=n2 Sockets=1 CoresPerSocket={cores} State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=60
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


def missing() -> str:
    """What this machine lacks to start the cluster; nothing where it lacks nothing."""
    if os.geteuid() != 0:
        return "it needs root: network namespaces, and daemons that start other users' jobs"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if absent := [name for name in NEEDED if shutil.which(name, path=path) is None]:
        return f"it lacks {', '.join(absent)} (Debian: apt-get install slurm-wlm munge iproute2 util-linux)"
    probe = subprocess.run(["ip", "netns", "add", "twice-probe"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", "twice-probe"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else f"its kernel makes no network namespaces: {probe.stderr.strip()}"


class Cluster:
    """The daemons, and what may befall them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Where the commands of this cluster find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

    def start(self) -> None:
        """Start network, munge, controller and nodes, and wait until both nodes are idle."""
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        host = os.uname().nodename.split(".")[0]
        values = ADDRESSES | {"host": host, "controller": CONTROLLER, "folder": str(self.folder)}
        # Nodes share the processors of this machine: a rank of each node runs on its own as far as there are any.
        text = CONFIGURATION.format(cores=os.cpu_count(), **values)
        (self.folder / "slurm.conf").write_text(text, "utf-8")
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n", "utf-8")  # which answers at once: nobody
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", "utf-8")
        self._network()
        key, socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")]
        self._daemon("munged", "munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}", *files)
        self._until(socket.exists)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def stop(self) -> None:
        """End every daemon, every job and the network."""
        self.run("scancel", "--signal=KILL", "--user=root")
        for node in NODES:
            self.kill_node(node)
        for name in list(self._daemons):
            self._end(name)
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False)
        for node in NODES:
            subprocess.run(["ip", "link", "delete", f"tw-{node}"], check=False)
            subprocess.run(["ip", "netns", "delete", f"twice-{node}"], check=False)

    def run(self, *command: str) -> str:
        """What one of SLURM's commands prints; nothing where it fails."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    def start_controller(self) -> None:
        """Start the controller, with the state that the last one left."""
        self._daemon("slurmctld", "slurmctld", "-D", "-i")
        self._until(lambda: "UP" in self.run("scontrol", "ping"))

    def stop_controller(self) -> None:
        """End the controller; jobs go on."""
        self._end("slurmctld")

    def start_node(self, node: str) -> None:
        """Start a node's daemon, with its link up."""
        subprocess.run(["ip", "link", "set", f"tw-{node}", "up"], check=True)
        # A host of its own: network, name, and the names of others. No control groups are used, yet slurmd 22.05 wants
        # to see where they would be.
        space = ["nsenter", f"--net=/run/netns/twice-{node}", "unshare", "--uts", "--mount"]
        script = (
            f"mount -t tmpfs none /sys/fs/cgroup && mount --bind {self.folder}/hosts-{node} /etc/hosts && "
            f"mount --bind {self.folder}/resolv.conf /etc/resolv.conf && hostname {node} && exec slurmd -D"
        )
        self._daemon(node, *space, "sh", "-c", script)

    def kill_node(self, node: str) -> None:
        """What a power cut does: its link is down and no process is left."""
        subprocess.run(["ip", "link", "set", f"tw-{node}", "down"], check=False)
        for _ in range(20):
            listed = subprocess.run(["ip", "netns", "pids", f"twice-{node}"], capture_output=True, check=False)
            for process in map(int, listed.stdout.split()):
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not listed.stdout.strip():
                break
            time.sleep(0.1)
        if node in self._daemons:
            self._daemons.pop(node).wait()

    def wait_for_nodes(self) -> None:
        """Wait until both nodes may take jobs."""
        for node in NODES:
            self._until(lambda node=node: self._node_state(node) in ("idle", "mixed", "allocated"))

    def misname(self, node: str, name: str) -> Callable[[], None]:
        """Have a node look for a host at an address that nobody has. Returns what mends it."""
        hosts = self.folder / f"hosts-{node}"
        before = hosts.read_text("utf-8")
        hosts.write_text(before.replace(f"{ADDRESSES[name]} {name}\n", f"10.213.77.99 {name}\n"), "utf-8")
        return lambda: hosts.write_text(before, "utf-8") and None

    def job_state(self, number: str) -> str:
        """State of a job, as squeue has it."""
        return self.run("squeue", "--noheader", f"--jobs={number}", "--states=all", "--format=%T").strip()

    def _node_state(self, node: str) -> str:
        return self.run("sinfo", "--noheader", f"--nodes={node}", "--partition=low", "--format=%T").strip()

    def _network(self) -> None:
        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True)

        ip("link", "add", BRIDGE, "type", "bridge")
        ip("address", "add", f"{CONTROLLER}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        hosts = "127.0.0.1 localhost\n" + "".join(f"{address} {node}\n" for node, address in ADDRESSES.items())
        for node, address in ADDRESSES.items():
            space = f"twice-{node}"
            (self.folder / f"hosts-{node}").write_text(hosts, "utf-8")
            ip("netns", "add", space)
            ip("link", "add", f"tw-{node}", "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", f"tw-{node}", "master", BRIDGE, "up")
            ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "route", "add", "default", "via", CONTROLLER)

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                command, env=os.environ | self.environment, stdout=output, stderr=output, start_new_session=True
            )

    def _end(self, name: str) -> None:
        process = self._daemons.pop(name)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = "".join(path.read_text("utf-8", "replace")[-2000:] for path in self.folder.glob("*.log"))
                raise AssertionError(f"the cluster did not come up:\n{logs}")
            time.sleep(0.2)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster, started once. It fails where none can be started: `make test-cluster` asks `missing` first."""
    if reason := missing():
        pytest.fail(f"no SLURM can be started here: {reason}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
