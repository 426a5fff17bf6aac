/* What the parts of the launcher share. */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

/* One file of the program. */
struct entry {
    const char *name; /* below the copy's folder, with slashes; NULL ends the list */
    unsigned mode;    /* permissions */
    size_t size;      /* bytes */
};

/* Files that one zstd frame of the payload holds, one after another. */
struct part {
    size_t start, packed;      /* bytes: the frame's place in the payload, and its length */
    const struct entry *first;
    size_t files;              /* how many, from `first` on */
};

/* Written by pack.py into payload.c. */
extern const struct entry entries[];
extern const struct part parts[PARTS]; /* pack.py has PARTS */
extern const unsigned char payload[], payload_end[];
extern const char digest[];  /* of the payload, in hex: the name of the copy's folder */
extern const time_t stamp;   /* the time every unpacked file bears */

/* Notes why a place will not do, for the one sentence said if none does.
 * Returns false. code: an errno, or 0 where `what` says it all. */
bool because(const char *where, const char *what, int code);

/* The unpacked program in `folder`, made if it is missing or not as it should be.
 * On success the path is in `copy` (PATH_MAX bytes), and this process holds a
 * lock that keeps others from removing it for as long as it lives. */
bool have_copy(const char *folder, char *copy);

/* Whether every file of the copy has the size, time, owner and permissions it was made with. */
bool is_whole(const char *copy);

/* Unpacks into `folder` under a name of its own, then renames it to `copy`. */
bool unpack(const char *folder, const char *copy);

/* Removes a folder and all that is in it, as far as that works. */
void remove_tree(const char *path);

#endif
