/* The least that a container needs from the kernel, without anything around it: one clone3 into
 * new mount, pid, network, ipc, uts and cgroup namespaces, a bind mount as root, /proc, /sys, /dev
 * with its nodes, devpts, shm and mqueue, masked and read-only paths, pivot_root, bounding set and
 * no_new_privs, execve. No cgroup, no overlay, no system call filter, no state, no log.
 * Usage: floor ROOT PROGRAM [ARGUMENT...] */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        _exit(125);
    }
}

static void child(const char *root, char **argv) {
    static const char *const read_only[] = {"bus", "fs", "irq", "sys", "sysrq-trigger"};
    static const char *const masked[] = {"proc/acpi", "proc/asound", "proc/interrupts",
        "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/timer_stats",
        "proc/sched_debug", "proc/scsi", "sys/firmware", "sys/devices/virtual/powercap"};
    static const struct { const char *name; int major, minor; } nodes[] = {{"null", 1, 3},
        {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    const unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    char path[64];
    struct stat stat_of;
    need(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "making mounts private");
    need(mount(root, root, NULL, MS_BIND | MS_REC, NULL), "binding the root");
    need(chdir(root), "the root");
    need(mount("proc", "proc", "proc", plain, NULL), "proc");
    need(mount("sysfs", "sys", "sysfs", plain | MS_RDONLY, NULL), "sys");
    need(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=0755,size=64k"), "dev");
    for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        snprintf(path, sizeof path, "dev/%s", nodes[i].name);
        need(mknod(path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), path);
    }
    need(mkdir("dev/pts", 0755), "dev/pts");
    need(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620"), "dev/pts");
    need(symlink("pts/ptmx", "dev/ptmx"), "dev/ptmx");
    need(mkdir("dev/shm", 01777), "dev/shm");
    need(mount("shm", "dev/shm", "tmpfs", plain, "mode=1777,size=67108864"), "dev/shm");
    need(mkdir("dev/mqueue", 0755), "dev/mqueue");
    need(mount("mqueue", "dev/mqueue", "mqueue", plain, NULL), "dev/mqueue");
    for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
        snprintf(path, sizeof path, "proc/%s", read_only[i]);
        if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) == 0)
            need(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | plain, NULL), path);
    }
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        if (stat(masked[i], &stat_of) < 0)
            continue;
        if (S_ISDIR(stat_of.st_mode))
            need(mount("tmpfs", masked[i], "tmpfs", plain | MS_RDONLY, "size=4k"), masked[i]);
        else
            need(mount("dev/null", masked[i], NULL, MS_BIND, NULL), masked[i]);
    }
    need((int)syscall(SYS_pivot_root, ".", "."), "pivot_root");
    need(umount2(".", MNT_DETACH), "leaving the old root");
    need(chdir("/"), "/");
    /* All but the default profile's 14 capabilities. */
    for (int capability = 0; capability < 41; capability++)
        if (!(0x00000000a80425fbULL >> capability & 1))
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    char *environment[] = {"PATH=/bin", NULL};
    execve(argv[0], argv, environment);
    need(-1, argv[0]);
}

int main(int argc, char **argv) {
    struct clone_args args = {.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
            | CLONE_NEWUTS | CLONE_NEWCGROUP,
        .exit_signal = SIGCHLD};
    int status = 0;
    if (argc < 3)
        return 2;
    long pid = syscall(SYS_clone3, &args, sizeof args);
    need((int)pid, "clone3");
    if (pid == 0)
        child(argv[1], argv + 2);
    need((int)waitpid((pid_t)pid, &status, 0), "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}
