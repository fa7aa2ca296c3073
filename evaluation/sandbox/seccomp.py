"""The system calls that a sandboxed program may make, as a seccomp filter: an allow-list, so new calls are refused.

A program is one process: it may start threads, but no other process and no other program. Hence what bounds a process
(memory, processor time) bounds the program, and nothing survives it. It may send signals to itself alone. Refused
calls fail with EPERM, as for a user without the right; `clone3` fails with ENOSYS, so that the C library falls back to
`clone`, whose flags a filter can read.
"""

import errno
import platform
import struct
from collections.abc import Mapping, Sequence

# name:number on x86-64:number on arm64 (from the kernel's asm/unistd_64.h and asm-generic/unistd.h). Left out on
# purpose: new processes and programs, sockets other than pairs, ptrace and other processes' memory, new namespaces and
# mounts, keys, System V shared memory and queues, memfd (it escapes the memory limit), io_uring, bpf, perf, signals
# with data, and whatever needs rights.
_ALLOWED = """
 read:0:63 write:1:64 open:2:- close:3:57 stat:4:- fstat:5:80 lstat:6:- poll:7:- lseek:8:62 mmap:9:222 mprotect:10:226
munmap:11:215 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 pread64:17:67 pwrite64:18:68
readv:19:65 writev:20:66 access:21:- pipe:22:- select:23:- sched_yield:24:124 mremap:25:216 msync:26:227
mincore:27:232 madvise:28:233 dup:32:23 dup2:33:- pause:34:- nanosleep:35:101 getitimer:36:102 alarm:37:-
setitimer:38:103 getpid:39:172 sendfile:40:71 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212
shutdown:48:210 getsockname:51:204 getpeername:52:205 getsockopt:55:209 exit:60:93 wait4:61:260 uname:63:160
fsync:74:82 fdatasync:75:83 getdents:78:- getcwd:79:17 chdir:80:49 fchdir:81:50 readlink:89:- umask:95:166
gettimeofday:96:169 getrlimit:97:163 getrusage:98:165 sysinfo:99:179 times:100:153 getuid:102:174 getgid:104:176
geteuid:107:175 getegid:108:177 getppid:110:173 getpgrp:111:- getgroups:115:158 getresuid:118:148 getresgid:120:150
getpgid:121:155 getsid:124:156 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132
statfs:137:43 fstatfs:138:44 getpriority:140:141 sched_getparam:143:121 sched_getscheduler:145:120
sched_get_priority_max:146:125 sched_get_priority_min:147:126 arch_prctl:158:- setrlimit:160:164 gettid:186:178
time:201:- futex:202:98 sched_getaffinity:204:123 epoll_create:213:- getdents64:217:61 set_tid_address:218:96
restart_syscall:219:128 fadvise64:221:223 timer_create:222:107 timer_settime:223:110 timer_gettime:224:108
timer_getoverrun:225:109 timer_delete:226:111 clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115
exit_group:231:94 epoll_wait:232:- epoll_ctl:233:21 waitid:247:95 openat:257:56 newfstatat:262:79 readlinkat:267:78
faccessat:269:48 pselect6:270:72 ppoll:271:73 set_robust_list:273:99 get_robust_list:274:100 splice:275:76
epoll_pwait:281:22 signalfd:282:- timerfd_create:283:85 eventfd:284:- timerfd_settime:286:86 timerfd_gettime:287:87
signalfd4:289:74 eventfd2:290:19 epoll_create1:291:20 dup3:292:24 pipe2:293:59 preadv:295:69 pwritev:296:70
getcpu:309:168 getrandom:318:278 membarrier:324:283 copy_file_range:326:285 preadv2:327:286 pwritev2:328:287
statx:332:291 rseq:334:293 close_range:436:436 faccessat2:439:439
"""
# What makes, changes or removes files: only where the program has a folder of its own.
_ON_FILES = """
truncate:76:45 ftruncate:77:46 rename:82:- mkdir:83:- rmdir:84:- creat:85:- link:86:- unlink:87:- symlink:88:-
chmod:90:- fchmod:91:52 utime:132:- utimes:235:- mkdirat:258:34 futimesat:261:- unlinkat:263:35 renameat:264:38
linkat:265:37 symlinkat:266:36 fchmodat:268:53 utimensat:280:88 fallocate:285:47 renameat2:316:276
"""
# What is allowed for some arguments only.
_CONDITIONAL = """
ioctl:16:29 socketpair:53:199 clone:56:220 kill:62:129 fcntl:72:25 flock:73:32 prctl:157:167 tgkill:234:131
prlimit64:302:261 clone3:435:435
"""
_THREAD = 0x00010000
"""CLONE_THREAD: the kernel then demands that memory and signal handlers are shared, so it is no new process."""
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_TERMINAL_AND_PIPE = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""ioctl: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Not: TIOCSTI, FIOASYNC, FIOSETOWN."""
_SIGNALLING = (8, 10, 15, 1024, 1026)
"""fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY would have the kernel signal a process."""
_LOCKS = (6, 7, 37, 38)
"""fcntl: F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW. Like flock they say that they succeed and do nothing: a program
is alone with its files, but /dev/null and the library are the same files in every sandbox."""
_NAMING = (15, 16, 0x53564D41)
"""prctl: PR_SET_NAME, PR_GET_NAME, PR_SET_VMA. Not: PR_SET_PDEATHSIG, which ends the program with its server."""
_STREAM, _TYPE = 1, 0xF
"""socketpair: SOCK_STREAM and the bits of its type. A datagram socket could send to any other by its path."""
OWN = 0xFFFFFFF7
"""Stands in the filter for the process that installs it, whose id is known there only."""
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine name: column of the tables, and the kernel's AUDIT_ARCH number."""

# Offsets in the data that the kernel hands to a filter (struct seccomp_data), little-endian. The arguments that are
# looked at are 32 bits wide in the kernel, so their low words say all.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
# Instructions of classic BPF.
_LOAD, _EQUAL, _ANY_BIT, _MASK, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_KILL, _ALLOW, _FAIL = 0x80000000, 0x7FFF0000, 0x00050000
_REFUSE = _FAIL | errno.EPERM
_DONE = _FAIL
"""The call is not made, and says that it succeeded."""

Instruction = tuple[int, int, int, int]


def numbers(table: str, column: int) -> dict[str, int]:
    """System calls of a table by name, for column 0 (x86-64) or 1 (arm64)."""
    rows = (entry.split(":") for entry in table.split())
    return {row[0]: int(row[column + 1]) for row in rows if row[column + 1] != "-"}


def allowed(column: int, files: bool = True) -> list[int]:
    """Numbers of the system calls that are allowed whatever their arguments, sorted."""
    return sorted(numbers(_ALLOWED + (_ON_FILES if files else ""), column).values())


def seccomp_filter(machine: str | None = None, files: bool = True) -> bytes | None:
    """The filter as bytes of BPF for a machine (none means this one); none where its system calls are not known.

    `files`: whether the program has a folder of its own. Every word `OWN` has to become the id of the process that
    installs the filter.
    """
    known = _ARCHITECTURES.get(machine or platform.machine())
    if known is None:
        return None
    column, architecture = known
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        # Another architecture's calls (32-bit ones, say) have other numbers.
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for number in allowed(column, files):
        program += _when(number, [(_RETURN, 0, 0, _ALLOW)])
    call = numbers(_CONDITIONAL, column)
    program += _when(call["clone3"], [(_RETURN, 0, 0, _FAIL | errno.ENOSYS)])
    # The flags are the first argument on both architectures.
    clone = [_argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), (_RETURN, 0, 0, _REFUSE), (_ANY_BIT, 0, 1, _THREAD)]
    program += _when(call["clone"], [*clone, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)])
    program += _when(call["kill"], _one_of(0, [OWN]))
    program += _when(call["tgkill"], _one_of(0, [OWN]))
    # Limits of this process only, which 0 says.
    program += _when(call["prlimit64"], _one_of(0, [0]))
    program += _when(call["prctl"], _one_of(0, _NAMING))
    program += _when(call["ioctl"], _one_of(1, _TERMINAL_AND_PIPE))
    program += _when(call["flock"], [(_RETURN, 0, 0, _DONE)])
    wishes = dict.fromkeys(_SIGNALLING, _REFUSE) | dict.fromkeys(_LOCKS, _DONE)
    program += _when(call["fcntl"], _answers(1, wishes, otherwise=_ALLOW))
    kind = [_argument(1), (_MASK, 0, 0, _TYPE), (_EQUAL, 0, 1, _STREAM)]
    program += _when(call["socketpair"], [*kind, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)])
    program.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _argument(index: int) -> Instruction:
    return _LOAD, 0, 0, _ARGUMENTS + 8 * index


def _when(number: int, block: list[Instruction]) -> list[Instruction]:
    """The block for one system call; it has to end with a return."""
    return [(_EQUAL, 0, len(block), number), *block]


def _one_of(index: int, values: Sequence[int]) -> list[Instruction]:
    """Allow the call where an argument is among the values."""
    return _answers(index, dict.fromkeys(values, _ALLOW), otherwise=_REFUSE)


def _answers(index: int, answers: Mapping[int, int], otherwise: int) -> list[Instruction]:
    """An answer for each value of an argument, and one for all other values."""
    tests = [step for value, answer in answers.items() for step in ((_EQUAL, 0, 1, value), (_RETURN, 0, 0, answer))]
    return [_argument(index), *tests, (_RETURN, 0, 0, otherwise)]
