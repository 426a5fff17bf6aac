/* From the payload to files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "launcher.h"

static bool write_all(int handle, const char *data, size_t size) {
    while (size) {
        ssize_t written = write(handle, data, size);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        data += written;
        size -= (size_t)written;
    }
    return true;
}

/* Makes the folders that lead to the file at `path`, below the first `given` letters of it. */
static void make_folders(char *path, size_t given) {
    for (char *slash = strchr(path + given, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* Writes one file; on failure errno says why. */
static bool write_one(const char *folder, const struct entry *entry, const char *data) {
    char path[2 * PATH_MAX];
    const struct timespec times[2] = {{.tv_sec = stamp}, {.tv_sec = stamp}};
    snprintf(path, sizeof path, "%s/%s", folder, entry->name);
    make_folders(path, strlen(folder) + 1);
    int handle = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (handle < 0) return false;
    bool done = write_all(handle, data, entry->size) && fchmod(handle, entry->mode) == 0 &&
                futimens(handle, times) == 0;
    int code = errno;
    if (close(handle) < 0 && done) return false; /* as quotas on network file systems show */
    errno = code;
    return done;
}

/* Writes all files; on failure errno says why, or is 0 if the payload is damaged. */
static bool write_files(const char *folder) {
    size_t size = 0;
    for (const struct entry *each = entries; each->name; each++) size += each->size;
    char *data = malloc(size);
    if (data == NULL) return false;
    size_t came = ZSTD_decompress(data, size, payload, (size_t)(payload_end - payload));
    bool done = came == size;
    const char *next = data;
    errno = 0;
    for (const struct entry *each = entries; done && each->name; each++) {
        done = write_one(folder, each, next);
        next += each->size;
    }
    int code = errno;
    free(data);
    errno = code;
    return done;
}

/* Has what was written reach the disk, before a name says that it is whole. */
static void sync_folder(const char *folder) {
    int handle = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (handle >= 0) {
        syncfs(handle);
        close(handle);
    }
}

bool unpack(const char *folder, const char *copy) {
    char fresh[PATH_MAX + 32], old[PATH_MAX + 32];
    unsigned long random = (unsigned long)getpid();
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) < 0) random ^= (unsigned long)time(NULL);
    snprintf(fresh, sizeof fresh, "%s/new-%016lx", folder, random);
    snprintf(old, sizeof old, "%s/old-%016lx", folder, random);
    if (mkdir(fresh, 0700) < 0) return because(folder, "", errno);
    if (!write_files(fresh)) {
        int code = errno;
        remove_tree(fresh);
        return because(folder, code ? "" : "this executable is damaged: get it again", code);
    }
    sync_folder(fresh);
    /* A copy that is not as it should be makes room; a whole one of another run stays. */
    if (!is_whole(copy) && rename(copy, old) == 0) remove_tree(old);
    int code = rename(fresh, copy) < 0 ? errno : 0;
    if (code) remove_tree(fresh);
    return is_whole(copy) || because(folder, "", code ? code : EIO);
}
