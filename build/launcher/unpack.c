/* Unpacks the payload into files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "launcher.h"

enum {
    DAMAGED = -1,         /* a fault, besides errnos: the payload is not what was packed */
    AT_ONCE = 65536,      /* most bytes unpacked before they are written */
    LARGEST_PAGE = 65536, /* bytes: memory pages of no system are larger */
};

/* One part's unpacking. */
struct job {
    const char *folder;
    const struct part *part;
    ZSTD_DCtx *stream;
    ZSTD_inBuffer packed; /* the part's frame */
    size_t unfinished;    /* what zstd returned last: 0 at the frame's end */
    int fault;            /* 0, DAMAGED, or an errno */
    pthread_t thread;
    bool has_thread;
};

static bool write_all(int handle, const char *data, size_t size) {
    while (size) {
        ssize_t written = write(handle, data, size);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return false;
        data += written;
        size -= (size_t)written;
    }
    return true;
}

/* Makes the folders that lead to the file at `path`. The first `start` bytes of it exist. */
static void make_folders(char *path, size_t start) {
    for (char *slash = strchr(path + start, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* Writes the next `size` bytes of a part. Returns 0, DAMAGED, or an errno. */
static int write_content(struct job *job, int handle, size_t size) {
    char data[AT_ONCE];
    while (size) {
        ZSTD_outBuffer out = {data, size < sizeof data ? size : sizeof data, 0};
        job->unfinished = ZSTD_decompressStream(job->stream, &out, &job->packed);
        if (ZSTD_getErrorCode(job->unfinished) == ZSTD_error_memory_allocation) return ENOMEM;
        if (ZSTD_isError(job->unfinished) || out.pos == 0) return DAMAGED;
        if (!write_all(handle, data, out.pos)) return errno;
        size -= out.pos;
    }
    return 0;
}

/* Writes the next file of a part. Returns 0, DAMAGED, or an errno. */
static int write_one(struct job *job, const struct entry *entry) {
    char path[2 * PATH_MAX];
    const struct timespec times[2] = {{.tv_sec = stamp}, {.tv_sec = stamp}};
    snprintf(path, sizeof path, "%s/%s", job->folder, entry->name);
    make_folders(path, strlen(job->folder) + 1);
    int handle = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (handle < 0) return errno;
    int fault = write_content(job, handle, entry->size);
    if (!fault && (fchmod(handle, entry->mode) < 0 || futimens(handle, times) < 0)) fault = errno;
    if (close(handle) < 0 && !fault) fault = errno; /* network file systems tell of quotas here */
    return fault;
}

static void *unpack_part(void *given) {
    struct job *job = given;
    job->stream = ZSTD_createDCtx();
    if (job->stream == NULL) job->fault = ENOMEM;
    for (size_t file = 0; file < job->part->files && !job->fault; file++)
        job->fault = write_one(job, &job->part->first[file]);
    if (!job->fault && job->unfinished) job->fault = DAMAGED;
    ZSTD_freeDCtx(job->stream);
    return NULL;
}

/* Writes all files, each part in its own thread. Returns 0, DAMAGED, or an errno. */
static int write_files(const char *folder) {
    struct job jobs[PARTS] = {0};
    int fault = 0;
    /* All of the payload is needed at once, and may still be on the disk. */
    size_t before = (uintptr_t)payload % LARGEST_PAGE;
    madvise((void *)(payload - before), before + (size_t)(payload_end - payload), MADV_WILLNEED);
    /* Else each thread reserves 64 MB of address space, which some systems limit. */
    mallopt(M_ARENA_MAX, 1);
    for (size_t each = 0; each < PARTS; each++) {
        struct job *job = &jobs[each];
        job->folder = folder;
        job->part = &parts[each];
        job->packed = (ZSTD_inBuffer){payload + parts[each].start, parts[each].packed, 0};
        job->has_thread = pthread_create(&job->thread, NULL, unpack_part, job) == 0;
        /* A limit of processes may allow no more threads. */
        if (!job->has_thread) unpack_part(job);
    }
    for (size_t each = 0; each < PARTS; each++) {
        if (jobs[each].has_thread) pthread_join(jobs[each].thread, NULL);
        if (!fault) fault = jobs[each].fault;
    }
    return fault;
}

/* Flushes what was written to the disk, before the name of the folder says that it is whole. */
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
    int fault = write_files(fresh);
    if (fault) remove_tree(fresh);
    if (fault == DAMAGED) return because(folder, "this executable is damaged: get it again", 0);
    if (fault) return because(folder, "", fault);
    sync_folder(fresh);
    /* A copy that is not whole is removed; a whole one, which another run made, stays. */
    bool is_old = !is_whole(copy) && rename(copy, old) == 0;
    int code = rename(fresh, copy) < 0 ? errno : 0;
    /* Only now, because without locks it may be another run's, which has just begun to use it. */
    if (is_old) remove_tree(old);
    if (code) remove_tree(fresh);
    return is_whole(copy) || because(folder, "", code ? code : EIO);
}
