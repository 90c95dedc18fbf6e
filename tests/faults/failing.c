/* File operations that fail: preloaded into a process, it counts those that change something below a folder, and lets
 * one of them, or all from one on, fail with an error of choice. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t length;
static long moment; /* the operation that fails, from 1 */
static int error, lasting;
static atomic_long count;
static int report = -1;

/* Let operation `number` below `below` fail with `code`, and where `all` is true each one after it that needs space.
 * What fails is written to the file `said`, a line each. */
void failing_arm(const char *below, long number, int code, int all, const char *said) {
    report = open(said, O_WRONLY | O_CREAT | O_APPEND, 0600);
    snprintf(folder, sizeof folder, "%s", below);
    length = strlen(folder);
    moment = number, error = code, lasting = all;
    atomic_store(&count, 0);
}

/* Operations so far. */
long failing_count(void) { return atomic_load(&count); }

static int is_below(const char *path) { return length && !strncmp(path, folder, length); }

/* Whether an operation on a path is to fail; sets errno. */
static int fails(const char *name, const char *path, int needs_space) {
    if (!is_below(path) || (lasting && !needs_space)) return 0;
    long number = atomic_fetch_add(&count, 1) + 1;
    if (lasting ? number < moment : number != moment) return 0;
    dprintf(report, "%s %s\n", name, path);
    errno = error;
    return 1;
}

static const char *of_descriptor(int descriptor, char *buffer) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(name, buffer, PATH_MAX - 1);
    buffer[size < 0 ? 0 : size] = 0;
    return buffer;
}

/* The path that a name relative to a folder's descriptor means. */
static const char *whole(int at, const char *path, char *buffer) {
    if (path[0] == '/') return path;
    size_t size;
    if (at == AT_FDCWD) {
        if (!getcwd(buffer, PATH_MAX)) buffer[0] = 0;
    } else {
        of_descriptor(at, buffer);
    }
    size = strlen(buffer);
    snprintf(buffer + size, PATH_MAX - size, "/%s", path);
    return buffer;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MODE                                                      \
    mode_t mode = 0;                                              \
    if (flags & (O_CREAT | O_TMPFILE)) {                          \
        va_list more;                                             \
        va_start(more, flags), mode = va_arg(more, int), va_end(more); \
    }
#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & O_CREAT))

#define OPEN(name)                                                \
    int name(const char *path, int flags, ...) {                  \
        char buffer[PATH_MAX];                                    \
        MODE if (WRITES(flags) && fails("open", whole(AT_FDCWD, path, buffer), 1)) return -1; \
        return REAL(name)(path, flags, mode);                     \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                              \
    int name(int at, const char *path, int flags, ...) {          \
        char buffer[PATH_MAX];                                    \
        MODE if (WRITES(flags) && fails("open", whole(at, path, buffer), 1)) return -1; \
        return REAL(name)(at, path, flags, mode);                 \
    }
OPENAT(openat)
OPENAT(openat64)

#define BY_DESCRIPTOR(type, name, what, parameters, arguments)    \
    type name parameters {                                        \
        char buffer[PATH_MAX];                                    \
        if (length && fails(what, of_descriptor(fd, buffer), 1)) return -1; \
        return REAL(name) arguments;                              \
    }
BY_DESCRIPTOR(ssize_t, write, "write", (int fd, const void *data, size_t size), (fd, data, size))
BY_DESCRIPTOR(ssize_t, writev, "write", (int fd, const struct iovec *parts, int n), (fd, parts, n))
BY_DESCRIPTOR(ssize_t, pwrite64, "write", (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
BY_DESCRIPTOR(int, ftruncate64, "truncate", (int fd, off64_t size), (fd, size))
BY_DESCRIPTOR(int, fsync, "fsync", (int fd), (fd))
BY_DESCRIPTOR(int, fdatasync, "fsync", (int fd), (fd))

#define BY_PATH(name, what, needs, at, path, parameters, arguments) \
    int name parameters {                                         \
        char buffer[PATH_MAX];                                    \
        if (fails(what, whole(at, path, buffer), needs)) return -1; \
        return REAL(name) arguments;                              \
    }
BY_PATH(rename, "rename", 0, AT_FDCWD, from, (const char *from, const char *to), (from, to))
BY_PATH(renameat, "rename", 0, at, from, (int at, const char *from, int other, const char *to), (at, from, other, to))
BY_PATH(unlink, "unlink", 0, AT_FDCWD, path, (const char *path), (path))
BY_PATH(unlinkat, "unlink", 0, at, path, (int at, const char *path, int flags), (at, path, flags))
BY_PATH(rmdir, "rmdir", 0, AT_FDCWD, path, (const char *path), (path))
BY_PATH(mkdir, "mkdir", 1, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
BY_PATH(mkdirat, "mkdir", 1, at, path, (int at, const char *path, mode_t mode), (at, path, mode))
BY_PATH(symlink, "symlink", 1, AT_FDCWD, path, (const char *to, const char *path), (to, path))
BY_PATH(symlinkat, "symlink", 1, at, path, (const char *to, int at, const char *path), (to, at, path))
