/* Faults at the steps by which a program changes a file system, for tests.
 *
 * Preloaded into a program, it counts the calls that create, write, flush, rename or remove files. At the step that
 * SIMS_FAULT_STEP numbers, from 1, the program is killed (SIMS_FAULT_KIND=kill), or from there on every call that needs
 * room on the disk fails as on a full one (SIMS_FAULT_KIND=full). Only the program that SIMS_FAULT_PROGRAM names is
 * counted. Each step adds a line to the file in SIMS_FAULT_LOG, where one is named. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long steps;
static long fault_step;
static int kills, is_counted, log_file = -1;

__attribute__((constructor)) static void start(void) {
    const char *program = getenv("SIMS_FAULT_PROGRAM"), *step = getenv("SIMS_FAULT_STEP");
    const char *kind = getenv("SIMS_FAULT_KIND"), *log = getenv("SIMS_FAULT_LOG");
    is_counted = program && strcmp(program, program_invocation_short_name) == 0;
    fault_step = step ? atol(step) : 0;
    kills = kind && strcmp(kind, "kill") == 0;
    if (is_counted && log)
        log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

/* Counts a step; tells whether it is to fail for want of room. */
static int fails(const char *what, int needs_room) {
    if (!is_counted)
        return 0;
    long step = atomic_fetch_add(&steps, 1) + 1;
    if (log_file >= 0) {
        char line[64];
        int length = snprintf(line, sizeof line, "%s\n", what);
        syscall(SYS_write, log_file, line, length);
    }
    if (fault_step == 0 || step < fault_step)
        return 0;
    if (kills) {
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        for (;;)
            pause();
    }
    if (needs_room)
        errno = ENOSPC;
    return needs_room;
}

static int is_file(int fd) {
    struct stat look;
    return syscall(SYS_fstat, fd, &look) == 0 && S_ISREG(look.st_mode);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                   \
    int name(const char *path, int flags, ...) {                                                     \
        mode_t mode = 0;                                                                             \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                         \
            va_list rest;                                                                            \
            va_start(rest, flags);                                                                   \
            mode = va_arg(rest, int);                                                                \
            va_end(rest);                                                                            \
            if ((flags & O_CREAT) && fails("create", 1))                                             \
                return -1;                                                                           \
        }                                                                                            \
        return REAL(name)(path, flags, mode);                                                        \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                 \
    int name(int at, const char *path, int flags, ...) {                                             \
        mode_t mode = 0;                                                                             \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                         \
            va_list rest;                                                                            \
            va_start(rest, flags);                                                                   \
            mode = va_arg(rest, int);                                                                \
            va_end(rest);                                                                            \
            if ((flags & O_CREAT) && fails("create", 1))                                             \
                return -1;                                                                           \
        }                                                                                            \
        return REAL(name)(at, path, flags, mode);                                                    \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_FILE(result, name, room, parameters, arguments)                                           \
    result name parameters {                                                                         \
        if (is_file(fd) && fails(#name, room))                                                       \
            return -1;                                                                               \
        return REAL(name) arguments;                                                                 \
    }
ON_FILE(ssize_t, write, 1, (int fd, const void *from, size_t size), (fd, from, size))
ON_FILE(ssize_t, writev, 1, (int fd, const struct iovec *from, int count), (fd, from, count))
ON_FILE(ssize_t, pwrite64, 1, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
ON_FILE(int, ftruncate64, 1, (int fd, off64_t size), (fd, size))
ON_FILE(int, fsync, 1, (int fd), (fd))
ON_FILE(int, fdatasync, 1, (int fd), (fd))
ON_FILE(int, fchmod, 0, (int fd, mode_t mode), (fd, mode))

#define ON_NAME(name, room, parameters, arguments)                                                   \
    int name parameters {                                                                            \
        if (fails(#name, room))                                                                      \
            return -1;                                                                               \
        return REAL(name) arguments;                                                                 \
    }
ON_NAME(mkdir, 1, (const char *path, mode_t mode), (path, mode))
ON_NAME(rename, 1, (const char *from, const char *to), (from, to))
ON_NAME(link, 1, (const char *from, const char *to), (from, to))
ON_NAME(linkat, 1, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
ON_NAME(symlink, 1, (const char *from, const char *to), (from, to))
ON_NAME(unlink, 0, (const char *path), (path))
ON_NAME(unlinkat, 0, (int at, const char *path, int flags), (at, path, flags))
ON_NAME(rmdir, 0, (const char *path), (path))
ON_NAME(chmod, 0, (const char *path, mode_t mode), (path, mode))
