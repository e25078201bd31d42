"""System calls of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl) that a program may not make."""

from __future__ import annotations

LAST_KNOWN = 450  # later ones do not exist for the program

CLONE, CLONE3, TGKILL, PRLIMIT64, OPEN, OPENAT, OPENAT2 = 56, 435, 234, 302, 2, 257, 437

NETWORK = {"socket": 41, "io_uring_setup": 425}  # socketpair stays: it joins threads of one process
PROCESSES = {"fork": 57, "vfork": 58, "execve": 59, "execveat": 322}
OTHER_PROCESSES = {
    **{"kill": 62, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297},
    **{"pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "kcmp": 312},
    **{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440},
    **{"process_mrelease": 448, "migrate_pages": 256, "move_pages": 279, "setpriority": 141},
    **{"ioprio_set": 251, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203},
    **{"sched_setattr": 314},
}
# Landlock does not cover these.
ATTRIBUTES_OF_FILES = {
    **{"chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260},
    **{"utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280, "truncate": 76},
    **{"setxattr": 188, "lsetxattr": 189, "fsetxattr": 190},
    **{"removexattr": 197, "lremovexattr": 198, "fremovexattr": 199},
}
# It would outlive the process, or the limit of its address space does not count it.
MEMORY_WITHOUT_LIMIT = {
    **{"shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240},
    **{"memfd_create": 319, "memfd_secret": 447},
}
THE_SYSTEM = {
    **{"mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308},
    **{"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433},
    **{"mount_setattr": 442, "mknod": 133, "mknodat": 259, "open_by_handle_at": 304},
    **{"swapon": 167, "swapoff": 168, "quotactl": 179, "quotactl_fd": 443, "acct": 163, "syslog": 103},
    **{"reboot": 169, "kexec_load": 246, "kexec_file_load": 320, "sethostname": 170, "setdomainname": 171},
    **{"init_module": 175, "finit_module": 313, "delete_module": 176, "iopl": 172, "ioperm": 173},
    **{"settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305, "setrlimit": 160},
    **{"add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298},
    **{"userfaultfd": 323},
}
REFUSED = {
    **NETWORK,
    **PROCESSES,
    **OTHER_PROCESSES,
    **ATTRIBUTES_OF_FILES,
    **MEMORY_WITHOUT_LIMIT,
    **THE_SYSTEM,
}
WRITES_BY_PATH = {
    **{"rename": 82, "renameat": 264, "renameat2": 316, "link": 86, "linkat": 265, "symlink": 88},
    **{
        "symlinkat": 266,
        "unlink": 87,
        "unlinkat": 263,
        "mkdir": 83,
        "mkdirat": 258,
        "rmdir": 84,
        "creat": 85,
    },
}
