/* A library for LD_PRELOAD: a disk that fails. FAILING names a file with a line "OPERATIONS END": write, pread or sync
   (several as "write,sync") fail with EIO on each file whose path has that end. Without the file, nothing fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int told(char *line, size_t size)
{
    const char *control = getenv("FAILING");
    int file = control ? open(control, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    ssize_t got = read(file, line, size - 1);
    close(file);
    line[got > 0 ? got : 0] = 0;
    return got > 0;
}

static int strikes(const char *operation, int descriptor)
{
    char line[512], operations[64], end[256], link[64], path[4096];
    int before = errno, struck = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    if (told(line, sizeof line) && sscanf(line, "%63s %255s", operations, end) == 2 && strstr(operations, operation)) {
        ssize_t length = readlink(link, path, sizeof path - 1), wanted = (ssize_t)strlen(end);
        struck = length >= wanted && memcmp(path + length - wanted, end, (size_t)wanted) == 0;
    }
    errno = struck ? EIO : before;
    return struck;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t pwrite(int descriptor, const void *bytes, size_t length, off_t offset)
{
    REAL(pwrite);
    return strikes("write", descriptor) ? -1 : real(descriptor, bytes, length, offset);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off64_t offset)
{
    REAL(pwrite64);
    return strikes("write", descriptor) ? -1 : real(descriptor, bytes, length, offset);
}

ssize_t write(int descriptor, const void *bytes, size_t length)
{
    REAL(write);
    return strikes("write", descriptor) ? -1 : real(descriptor, bytes, length);
}

ssize_t pread(int descriptor, void *bytes, size_t length, off_t offset)
{
    REAL(pread);
    return strikes("pread", descriptor) ? -1 : real(descriptor, bytes, length, offset);
}

ssize_t pread64(int descriptor, void *bytes, size_t length, off64_t offset)
{
    REAL(pread64);
    return strikes("pread", descriptor) ? -1 : real(descriptor, bytes, length, offset);
}

int fsync(int descriptor)
{
    REAL(fsync);
    return strikes("sync", descriptor) ? -1 : real(descriptor);
}

int fdatasync(int descriptor)
{
    REAL(fdatasync);
    return strikes("sync", descriptor) ? -1 : real(descriptor);
}
