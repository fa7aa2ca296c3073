"""Runs programs that nobody has read, and says how each ended.

A sandbox holds one server process (`server`), which forks a process for each program. The supervisor here speaks
with that process over a channel of its own: it sends the candidate, once that is defined the tests, and once those are
through a nonce; only the nonce, returned, is a pass.

Tiers: T0, a bubblewrap container in which the program has limits, Landlock and a seccomp filter; T1, the same without
the container, for machines that offer no namespaces; T2 is `--unsafe-exec`, limits alone.
"""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from types import TracebackType
from typing import Literal, Self

from evaluation.protocols.program import Program
from evaluation.sandbox.container import ZONES, container, server, system_paths, time_zones, unused_user
from evaluation.sandbox.dialogue import Broken, Outcome, converse, ending, signal_name
from evaluation.sandbox.seccomp import OWN, seccomp_filter
from evaluation.sandbox.server import MOST_PERIODS
from specs.common.errors import UserError
from specs.schema.experiment import Limits

Tier = Literal["T0", "T1", "T2"]
Part = Literal["alone", "candidate", "tests"]

_GRACE_SECONDS = 10.0
"""How long the supervisor waits, past the wall-clock limit, for the server to report."""
_MAX_REPORT = 4096


class Sandbox:
    """One server, replaced whenever a program leaves something behind. Use it from the thread that made it.

    Raises UserError where the machine cannot isolate programs, and where root asks for no isolation.
    """

    def __init__(self, limits: Limits, tier: Tier = "T0") -> None:
        if tier == "T2" and os.geteuid() == 0:
            # One `kill(-1, SIGKILL)` would end every process of the machine.
            raise UserError("--unsafe-exec does not run as root: without isolation a program could end every process")
        self.limits, self.tier = limits, tier
        self._interrupted = False
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def run(self, program: Program) -> Outcome:
        """Run one program to its end, within the limits."""
        for _ in range(2):
            try:
                return self._attempt(program)
            except Broken:
                # Perhaps the program before it did this: a program is judged by what it does to a fresh sandbox.
                self.discard()
                if self._interrupted:
                    break
        return Outcome("crashed", "the program took its sandbox down")

    def _attempt(self, program: Program) -> Outcome:
        with self.hand("alone") as channel:
            try:
                outcome = converse(channel, program)
            except TimeoutError as error:
                raise Broken from error
        ended = self.ending()
        return outcome or ended

    def hand(self, part: Part, *links: socket.socket) -> socket.socket:
        """Have the server fork a process for a part of a program; the channel to it. `ending` has to follow.

        Raises Broken where the server is gone.
        """
        if self._control is None:
            self._start()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        ours.settimeout(self.limits.wall_seconds * MOST_PERIODS + _GRACE_SECONDS)
        with theirs:
            try:
                socket.send_fds(self._control, [part.encode()], [end.fileno() for end in (theirs, *links)])
            except OSError as error:
                ours.close()
                raise Broken from error
        return ours

    def ending(self) -> Outcome:
        """What ended the process of the last part, should it not have said so. Raises Broken where nobody knows."""
        assert self._control is not None
        try:
            report = self._control.recv(_MAX_REPORT)
        except OSError as error:
            raise Broken from error
        end = ending(report)
        if end.dirty:
            self.discard()
        return self._judge(end.code, end.seconds, end.late)

    def _judge(self, code: int, seconds: float, late: bool) -> Outcome:
        """What ended a program that did not report itself."""
        if late:
            return Outcome("timeout", f"wall-clock limit of {self.limits.wall_seconds} s")
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and seconds > self.limits.cpu_seconds):
            return Outcome("timeout", f"processor limit of {self.limits.cpu_seconds} s")
        if code == -signal.SIGSYS:
            return Outcome("blocked", "forbidden system call")
        if code < 0:
            return Outcome("crashed", f"ended by {signal_name(-code)}")
        return Outcome("crashed", f"ended before its tests did, with exit status {code}")

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(self.limits.wall_seconds * MOST_PERIODS + 2 * _GRACE_SECONDS)
        rules = seccomp_filter(files=self.tier == "T0") or b""
        plan = {
            "tier": self.tier,
            "limits": self.limits.model_dump(),
            "filter": rules.hex(),
            "own": OWN,
            "readable": ["/"] if self.tier == "T0" else system_paths(),
            "writable": ["/tmp", "/dev/null"] if self.tier == "T0" else ["/dev/null"],
            "user": unused_user() if self.tier == "T1" and os.geteuid() == 0 else None,
        }
        zones = ZONES if self.tier == "T0" else str(time_zones())
        environment = {"PYTHONHASHSEED": "0", "PYTHONTZPATH": zones}
        self._folder = tempfile.TemporaryDirectory(prefix="twice-sandbox-")
        with theirs, tempfile.TemporaryFile() as complaints:
            command = server(theirs.fileno(), plan)
            if self.tier == "T0":
                command = container(command, environment, self.limits.file_bytes)
            self._server = subprocess.Popen(
                command,
                env=environment,
                cwd="/" if self.tier == "T1" else self._folder.name,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            )
            theirs.close()
            hello = b""
            with contextlib.suppress(OSError):
                hello = self._control.recv(_MAX_REPORT)
            if not hello:
                self.discard()
                complaints.seek(0)
                raise _refused(complaints.read().decode(errors="replace"), self.tier)

    def interrupt(self) -> None:
        """End the sandbox from another thread, program and all; what `run` returns then means nothing."""
        self._interrupted = True
        if (server := self._server) is not None:
            server.kill()

    def discard(self) -> None:
        """End the server and with it every process of the sandbox; the next program gets a new one."""
        if self._server is not None:
            # A program dies with the server that forked it (T0: with process 1 of its namespace).
            self._server.kill()
            self._server.wait()
        if self._control is not None:
            self._control.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._server = self._control = self._folder = None


def _refused(complaint: str, tier: Tier) -> UserError:
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason given"
    trusted = "give --unsafe-exec to run programs that you trust with no isolation"
    if tier == "T1":
        return UserError(
            f"the sandbox cannot start here at tier T1 ({reason}): it needs seccomp and Landlock of Linux 6.2 or later "
            f"on x86-64 or arm64; use tier T0, or {trusted}"
        )
    return UserError(
        f"the sandbox cannot start here ({reason}): unprivileged user namespaces are needed (sysctl "
        "user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1, "
        "kernel.apparmor_restrict_unprivileged_userns=0; in a container, let it call unshare and mount); or give "
        f"--tier T1, which needs no namespaces but Linux 6.2 or later; or {trusted}"
    )
