/* The unpacked copy: found, checked, made once, and removed when a newer one took its place.
 *
 * A copy is made under a name of its own and renamed, so that what bears the
 * digest's name was whole once; `is_whole` finds what a power cut or a cleaner
 * of temporary files left of it. One run unpacks at a time, where the file system
 * knows locks; where it does not, each unpacks and the first to rename wins.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

enum {
    LOCK_TRIES = 1200,           /* of 50 ms each, until another run is taken to hang */
    UNUSED = 30 * 24 * 3600,     /* seconds after which another version's copy is removed */
    TOUCH_EVERY = 24 * 3600,     /* seconds between two notes of a copy's use */
    OUT_OF_THE_WAY = 100,        /* a handle that no program takes for its own */
};

bool is_whole(const char *copy) {
    char path[2 * PATH_MAX];
    struct stat found;
    for (const struct entry *each = entries; each->name; each++) {
        snprintf(path, sizeof path, "%s/%s", copy, each->name);
        if (lstat(path, &found) < 0 || !S_ISREG(found.st_mode)) return false;
        if (found.st_uid != geteuid() || (found.st_mode & 07777) != each->mode) return false;
        if ((size_t)found.st_size != each->size || found.st_mtime != stamp) return false;
    }
    return true;
}

/* Holds the copy for as long as this process and the program it becomes live. */
static void hold(const char *copy) {
    struct stat found;
    int handle = open(copy, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (handle < 0) return;
    /* Kept over exec, but away from 0 to 2, which may be closed, and from 3, which some expect. */
    int kept = fcntl(handle, F_DUPFD, OUT_OF_THE_WAY);
    close(handle);
    if (kept < 0) return;
    flock(kept, LOCK_SH | LOCK_NB);
    if (fstat(kept, &found) == 0 && time(NULL) - found.st_mtime > TOUCH_EVERY)
        futimens(kept, NULL);
}

/* Waits until no other run unpacks. Returns the lock's handle; -1 where there are no locks. */
static int lock(const char *folder) {
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/lock", folder);
    int handle = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    for (int tried = 0; handle >= 0 && tried < LOCK_TRIES; tried++) {
        if (flock(handle, LOCK_EX | LOCK_NB) == 0) return handle;
        if (errno != EWOULDBLOCK && errno != EINTR) break;
        usleep(50000);
    }
    if (handle >= 0) close(handle);
    return -1;
}

static int remove_one(const char *path, const struct stat *found, int kind, struct FTW *place) {
    (void)found, (void)kind, (void)place;
    remove(path);
    return 0;
}

void remove_tree(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

/* Whether a copy of another version has not been used for long and is not in use. */
static bool is_stale(const char *path) {
    struct stat found;
    if (lstat(path, &found) < 0 || time(NULL) - found.st_mtime < UNUSED) return false;
    int handle = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (handle < 0) return false;
    bool free = flock(handle, LOCK_EX | LOCK_NB) == 0;
    close(handle);
    return free;
}

/* Removes what killed runs left, and stale copies. Only under the lock. */
static void tidy(const char *folder) {
    char path[2 * PATH_MAX];
    DIR *listing = opendir(folder);
    for (struct dirent *each; listing && (each = readdir(listing));) {
        const char *name = each->d_name;
        bool left = strncmp(name, "new-", 4) == 0 || strncmp(name, "old-", 4) == 0;
        bool other = strlen(name) == strlen(digest) && strcmp(name, digest) != 0;
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (left || (other && is_stale(path))) remove_tree(path);
    }
    if (listing) closedir(listing);
}

bool have_copy(const char *folder, char *copy) {
    if (snprintf(copy, PATH_MAX, "%s/%s", folder, digest) >= PATH_MAX)
        return because(folder, "", ENAMETOOLONG);
    hold(copy);
    if (is_whole(copy)) return true;
    int locked = lock(folder);
    bool whole = is_whole(copy);
    if (!whole) {
        if (locked >= 0) tidy(folder);
        whole = unpack(folder, copy);
    }
    if (whole) hold(copy);
    if (locked >= 0) close(locked);
    return whole;
}
