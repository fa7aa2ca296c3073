"""SLURM for tests: sbatch, srun, squeue, sacct, scontrol and scancel, told apart by the first argument.

Jobs run for real, as processes of this machine; their state lies in the folder FAKE_SLURM. `sbatch` starts a controller
that runs the script, again after a requeue. `preempt` (no command of SLURM's) does to a job what SLURM does when a
larger one takes its nodes: SIGTERM to its step, and a requeue.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["FAKE_SLURM"])


def put(job: str, **facts: object) -> None:
    for name, value in facts.items():
        temporary = HOME / f"{job}.{name}.tmp"
        temporary.write_text(str(value), "utf-8")
        temporary.rename(HOME / f"{job}.{name}")


def get(job: str, name: str) -> str:
    path = HOME / f"{job}.{name}"
    return path.read_text("utf-8") if path.exists() else ""


def control(job: str, script: str) -> None:
    output = next(line.split("=")[1] for line in Path(script).read_text("utf-8").splitlines() if "--output=" in line)
    restarts = 0
    while True:
        put(job, requeue="", state="RUNNING")
        environment = os.environ | {
            "SLURM_JOB_ID": job,
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        with Path(output.replace("%j", job)).open("a", encoding="utf-8") as log:
            code = subprocess.run(["bash", script], env=environment, stdout=log, stderr=log).returncode
        if not get(job, "requeue"):
            break
        restarts += 1
        put(job, state="PENDING", restarts=restarts)
        time.sleep(0.3)
    put(job, state="COMPLETED" if code == 0 else "FAILED", code=code)


def main(name: str, *arguments: str) -> int:
    if name == "sbatch":
        job = str(1 + len(list(HOME.glob("*.script"))))
        lines = Path(arguments[-1]).read_text("utf-8").splitlines()
        name = next(line.split("=")[1] for line in lines if "--job-name=" in line)
        put(job, name=name, script=arguments[-1], state="PENDING")
        with Path(os.devnull).open("r+", encoding="utf-8") as nothing:
            subprocess.Popen(
                [sys.executable, __file__, "control", job, arguments[-1]],
                start_new_session=True,
                stdin=nothing,
                stdout=nothing,
                stderr=nothing,
            )
        print(job)
    elif name == "control":
        control(*arguments)
    elif name == "srun":
        command = arguments[next(i for i, word in enumerate(arguments) if not word.startswith("--")) :]
        step = subprocess.Popen(command)
        put(os.environ["SLURM_JOB_ID"], step=step.pid)
        return step.wait()
    elif name == "squeue":
        if (left := int(get("squeue", "failures") or 0)) > 0:
            put("squeue", failures=left - 1)
            print("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
            return 1
        for path in HOME.glob("*.script"):
            job = path.stem
            if not get(job, "forgotten"):
                print(f"{job}|{get(job, 'state')}|{get(job, 'name')}")
    elif name == "sacct":
        job = arguments[arguments.index("--jobs") + 1]
        print(f"{get(job, 'state')}|{get(job, 'code')}:0")
    elif name == "scontrol" and arguments[0] == "show":
        print("localhost")
    elif name == "scontrol" and arguments[0] == "requeue":
        put(arguments[1], requeue="asked", asked="by the script")
    elif name == "preempt":
        put(arguments[0], requeue="preempted")
        os.kill(int(get(arguments[0], "step")), signal.SIGTERM)
    elif name == "scancel":
        put(arguments[0], requeue="")
        os.kill(int(get(arguments[0], "step")), signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
