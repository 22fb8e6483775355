/* A machine's disks, served by FUSE from image files, with a log of everything that reaches them.
 *
 *   recorder MOUNTPOINT LOG IMAGE...
 *
 * The mount shows one file for each image, named 0, 1 and so on, and a file `mark`. Each write to a disk and each flush
 * of it is appended to LOG in the order of arrival, and so is whatever is written to `mark`: one log for all disks, so
 * that one position in it is one moment for the whole machine. A filesystem is mounted from 0 through a loop device.
 *
 * A log entry is 16 bytes, little-endian, and then the bytes of a write or a mark:
 *   kind (1: W, F or M), disk (1), zero (2), length (4), offset on the disk (8)
 *
 * It is to be run with one thread, and ends with the process that started it.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_DISKS = 8, MARK = MAX_DISKS, NOTHING = -1 };

struct entry {
    uint8_t kind, disk;
    uint16_t zero;
    uint32_t length;
    uint64_t offset;
};

static int images[MAX_DISKS];
static off_t sizes[MAX_DISKS];
static int disks;
static int log_file;

/* What a path names: a disk, MARK or NOTHING. */
static int named(const char *path)
{
    if (strcmp(path, "/mark") == 0)
        return MARK;
    if (path[0] != '/' || path[1] < '0' || path[1] >= '0' + disks || path[2] != '\0')
        return NOTHING;
    return path[1] - '0';
}

/* A log with a hole would prove what is not so: better none at all. */
static void record(char kind, int disk, const char *bytes, size_t length, off_t offset)
{
    struct entry head = {(uint8_t)kind, (uint8_t)disk, 0, (uint32_t)length, (uint64_t)offset};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)bytes, length}};

    if (writev(log_file, parts, length > 0 ? 2 : 1) != (ssize_t)(sizeof head + length)) {
        perror("recorder: log");
        abort();
    }
}

static int get_attributes(const char *path, struct stat *status, struct fuse_file_info *file)
{
    int what = named(path);

    (void)file;
    memset(status, 0, sizeof *status);
    if (strcmp(path, "/") == 0) {
        status->st_mode = S_IFDIR | 0755;
        status->st_nlink = 2;
        return 0;
    }
    if (what == NOTHING)
        return -ENOENT;
    status->st_mode = S_IFREG | 0600;
    status->st_nlink = 1;
    status->st_size = what == MARK ? 0 : sizes[what];
    return 0;
}

static int list(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file,
                enum fuse_readdir_flags flags)
{
    char name[] = "0";

    (void)path, (void)offset, (void)file, (void)flags;
    for (int disk = 0; disk < disks; disk++) {
        name[0] = (char)('0' + disk);
        fill(buffer, name, NULL, 0, 0);
    }
    fill(buffer, "mark", NULL, 0, 0);
    return 0;
}

static int open_file(const char *path, struct fuse_file_info *file)
{
    int what = named(path);

    if (what == NOTHING)
        return -ENOENT;
    file->direct_io = what == MARK; /* it has no size, so nothing of it could be cached */
    return 0;
}

static int read_disk(const char *path, char *buffer, size_t length, off_t offset, struct fuse_file_info *file)
{
    int what = named(path);
    ssize_t count;

    (void)file;
    if (what == MARK)
        return 0;
    count = pread(images[what], buffer, length, offset);
    return count < 0 ? -errno : (int)count;
}

static int write_disk(const char *path, const char *bytes, size_t length, off_t offset, struct fuse_file_info *file)
{
    int what = named(path);

    (void)file;
    if (what == MARK) {
        record('M', 0, bytes, length, 0);
        return (int)length;
    }
    if (pwrite(images[what], bytes, length, offset) != (ssize_t)length)
        return -EIO;
    record('W', what, bytes, length, offset);
    return (int)length;
}

static int flush_disk(const char *path, int data_only, struct fuse_file_info *file)
{
    int what = named(path);

    (void)data_only, (void)file;
    if (what != MARK)
        record('F', what, NULL, 0, 0);
    return 0;
}

static int truncate_mark(const char *path, off_t size, struct fuse_file_info *file)
{
    (void)size, (void)file;
    return named(path) == MARK ? 0 : -EPERM; /* a disk keeps its size */
}

static void *begin(struct fuse_conn_info *connection, struct fuse_config *config)
{
    connection->max_write = 1 << 20;
    config->attr_timeout = config->entry_timeout = 3600; /* nothing here ever changes by itself */
    return NULL;
}

static const struct fuse_operations operations = {
    .init = begin,
    .getattr = get_attributes,
    .readdir = list,
    .open = open_file,
    .read = read_disk,
    .write = write_disk,
    .fsync = flush_disk,
    .truncate = truncate_mark,
};

int main(int count, char **words)
{
    char *arguments[] = {words[0], "-f", "-s", words[1], NULL};

    if (count < 4 || count > 3 + MAX_DISKS) {
        fprintf(stderr, "usage: recorder MOUNTPOINT LOG IMAGE...\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    log_file = open(words[2], O_WRONLY | O_CREAT | O_EXCL | O_APPEND, 0600);
    if (log_file < 0) {
        perror(words[2]);
        return 1;
    }
    for (disks = 0; disks < count - 3; disks++) {
        images[disks] = open(words[3 + disks], O_RDWR);
        if (images[disks] < 0 || (sizes[disks] = lseek(images[disks], 0, SEEK_END)) < 0) {
            perror(words[3 + disks]);
            return 1;
        }
    }
    return fuse_main(4, arguments, &operations, NULL);
}
