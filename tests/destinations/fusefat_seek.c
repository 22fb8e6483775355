/*
 * Preloaded into fusefat, so that a file can always be written at its end, as on any FAT.
 *
 * fusefat keeps a position for each open file. A write that begins elsewhere first moves it, and if that move ends at
 * the end of the file, in the cluster where the position is already, fusefat zeroes the 0 bytes in between, takes that
 * for a failure, and returns -1, which is EPERM. Two threads that write one file do this: one appends below, and as soon
 * as it is less than a cluster from the end, the other cannot write more zeros there.
 *
 * Such a write is repeated once with the file opened again: its position is then at the beginning. fusefat opens files by
 * their path and keeps its copy of the directory entry with the position, so the new one replaces the old one for good.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/types.h>

/* What libfuse 2.9 hands out, with which fusefat is linked. Its headers cannot be installed beside those of libfuse 3. */
struct info {
    int flags;
    unsigned long fh_old;
    int writepage;
    unsigned int bits;
    uint64_t fh;
    uint64_t lock_owner;
};

enum { OPEN = 14, READ, WRITE, STATFS, FLUSH, RELEASE };

typedef int (*open_call)(const char *, struct info *);
typedef int (*read_call)(const char *, char *, size_t, off_t, struct info *);
typedef int (*write_call)(const char *, const char *, size_t, off_t, struct info *);
typedef int (*statfs_call)(const char *, struct statvfs *);
typedef int (*main_call)(int, char **, void **, size_t, void *);

static void *fusefat[64];

/* Each open file of the kernel is a box with the open file of fusefat, which can be replaced. */
static uint64_t *box(const struct info *info) { return (uint64_t *)(uintptr_t)info->fh; }

static struct info inside(const struct info *info)
{
    struct info real = *info;
    real.fh = *box(info);
    return real;
}

static int opened(const char *path, struct info *info)
{
    uint64_t *made = malloc(sizeof *made);
    if (made == NULL)
        return -ENOMEM;
    int result = ((open_call)fusefat[OPEN])(path, info);
    if (result != 0) {
        free(made);
        return result;
    }
    *made = info->fh;
    info->fh = (uintptr_t)made;
    return 0;
}

static int released(const char *path, struct info *info)
{
    struct info real = inside(info);
    free(box(info));
    return ((open_call)fusefat[RELEASE])(path, &real);
}

static int read_from(const char *path, char *data, size_t size, off_t offset, struct info *info)
{
    struct info real = inside(info);
    return ((read_call)fusefat[READ])(path, data, size, offset, &real);
}

/* Bring a new position to `offset` by reading, if that lies in the first cluster, where no move to the end succeeds. */
static void read_up_to(const char *path, off_t offset, struct info *real)
{
    struct statvfs status;
    memset(&status, 0, sizeof status);
    if (((statfs_call)fusefat[STATFS])(path, &status) != 0 || offset == 0 || (uint64_t)offset >= status.f_bsize)
        return;
    char *data = malloc(offset);
    if (data != NULL)
        ((read_call)fusefat[READ])(path, data, offset, 0, real);
    free(data);
}

static int written(const char *path, const char *data, size_t size, off_t offset, struct info *info)
{
    struct info real = inside(info);
    int result = ((write_call)fusefat[WRITE])(path, data, size, offset, &real);
    if (result >= 0)
        return result;
    struct info again = real;
    if (((open_call)fusefat[OPEN])(path, &again) != 0)
        return result;
    read_up_to(path, offset, &again);
    result = ((write_call)fusefat[WRITE])(path, data, size, offset, &again);
    *box(info) = again.fh;
    ((open_call)fusefat[RELEASE])(path, &real);
    return result;
}

int fuse_main_real(int count, char **words, void **operations, size_t size, void *data)
{
    memcpy(fusefat, operations, size < sizeof fusefat ? size : sizeof fusefat);
    operations[OPEN] = opened;
    operations[READ] = read_from;
    operations[WRITE] = written;
    operations[RELEASE] = released;
    return ((main_call)dlsym(RTLD_NEXT, "fuse_main_real"))(count, words, operations, size, data);
}
