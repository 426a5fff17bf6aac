/* The executable's start: finds or makes an unpacked copy of the program, and becomes it.
 *
 * Unpacking at each start would cost more than most commands do, so the copy is
 * kept in the user's cache directory and shared by all runs. The program brings
 * its own libc and dynamic loader: nothing of the host's is needed but the kernel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "launcher.h"

/* PyInstaller's start takes a file of such a name for a loader, not for the program. */
#define LOADER "ld-tcgamirror.so.2"
#define PROGRAM "tcgamirror-program"

enum { USAGE_ERROR = 2, DISK_FULL = 6, INTERRUPTED = 130 }; /* as in tcgamirror/model/errors.py */

struct place {
    const char *variable; /* names a directory; NULL: `path` is one */
    const char *path;     /* what to add to the variable's value */
    bool shared;          /* other users write there, so our folder bears our number */
};

static const struct place named = {"TCGAMIRROR_CACHE", "", true};
static const struct place places[] = {
    {"XDG_CACHE_HOME", "", false}, {"HOME", "/.cache", false}, {"TMPDIR", "", true},
    {NULL, "/tmp", true},          {NULL, "/var/tmp", true},   {NULL, "/dev/shm", true},
};

static char reasons[4096];
static bool full;

bool because(const char *where, const char *what, int code) {
    size_t used = strlen(reasons);
    full = full || code == ENOSPC || code == EDQUOT || code == ENOMEM;
    snprintf(reasons + used, sizeof reasons - used, "%s%s: %s%s%s", used ? "; " : "", where, what,
             code && *what ? ": " : "", code ? strerror(code) : "");
    return false;
}

/* Whether `path` is a directory in which nobody else can put things in our things' place. */
static bool is_safe(const char *path, bool shared) {
    struct stat found;
    if (stat(path, &found) < 0) return because(path, "", errno);
    if (!S_ISDIR(found.st_mode)) return because(path, "", ENOTDIR);
    if (!shared && found.st_uid != geteuid()) return because(path, "belongs to another user", 0);
    if ((found.st_mode & S_IWOTH) && !(found.st_mode & S_ISVTX))
        return because(path, "other users can replace what is in it", 0);
    return true;
}

/* Whether our own folder is ours alone and programs may run from it. */
static bool is_ours(const char *folder) {
    struct stat found;
    struct statvfs system;
    if (mkdir(folder, 0700) < 0 && errno != EEXIST) return because(folder, "", errno);
    if (lstat(folder, &found) < 0) return because(folder, "", errno);
    if (!S_ISDIR(found.st_mode) || found.st_uid != geteuid())
        return because(folder, "is not ours", 0);
    if (found.st_mode & (S_IWGRP | S_IWOTH)) return because(folder, "others can write to it", 0);
    if (statvfs(folder, &system) == 0 && (system.f_flag & ST_NOEXEC))
        return because(folder, "no programs may run from it (noexec)", 0);
    return true;
}

/* The path of our folder in a place, in `folder` (PATH_MAX bytes); false if there is none. */
static bool folder_in(const struct place *place, char *folder) {
    const char *value = place->variable ? getenv(place->variable) : "";
    char base[PATH_MAX], number[24] = "";
    if (value == NULL || (place->variable && value[0] != '/')) {
        if (value && *value) because(place->variable, "is no absolute path", 0);
        return false;
    }
    if (snprintf(base, sizeof base, "%s%s", value, place->path) >= (int)sizeof base - 64)
        return because(place->variable, "", ENAMETOOLONG);
    /* A list of library paths has no way to quote these. */
    if (strpbrk(base, ":;$")) return because(base, "holds one of : ; $", 0);
    /* Who names one need not have made it. */
    if (place == &named && mkdir(value, 0700) < 0 && errno != EEXIST)
        return because(value, "", errno);
    if (place->variable && !is_safe(value, place->shared)) return false;
    if (!place->shared) mkdir(base, 0700);
    if (!is_safe(base, place->shared)) return false;
    if (place->shared) snprintf(number, sizeof number, "-%lu", (unsigned long)geteuid());
    snprintf(folder, PATH_MAX, "%.*s/tcgamirror%s", PATH_MAX - 64, base, number);
    return true;
}

/* Tells the program by which path it was started, links and all: it may have to write it down. */
static void tell_own_path(void) {
    const char *started = (const char *)getauxval(AT_EXECFN);
    char here[PATH_MAX], path[2 * PATH_MAX];
    if (started == NULL) return;
    if (started[0] != '/' && getcwd(here, sizeof here))
        snprintf(path, sizeof path, "%s/%s", here, started);
    else
        snprintf(path, sizeof path, "%s", started);
    setenv("_TCGAMIRROR_PATH", path, 1);
}

/* Has PyInstaller's start go on at once, as after it has started itself anew to set a library path.
 * The loader has that path as a word already. To start anew needs /proc, which some containers lack. */
static void skip_restart(const char *program) {
    unsetenv("PYINSTALLER_RESET_ENVIRONMENT");
    setenv("_PYI_ARCHIVE_FILE", program, 1);
    setenv("_PYI_PARENT_PROCESS_LEVEL", "-1", 1);
    setenv("_PYI_LINUX_PROCESS_NAME", "tcgamirror", 1); /* else `ps` shows the loader's */
}

static void leave(int number) {
    (void)number;
    _exit(INTERRUPTED);
}

static void hold_interrupts(int how) {
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(how, &interrupt, NULL);
}

/* Becomes the program; returns only if that fails. */
static bool become(const char *copy, int argc, char **argv) {
    char loader[PATH_MAX + 32], inside[PATH_MAX + 32], program[PATH_MAX];
    char **words = calloc((size_t)argc + 5, sizeof *words);
    if (words == NULL) return because(copy, "", ENOMEM);
    snprintf(loader, sizeof loader, "%s/" LOADER, copy);
    snprintf(inside, sizeof inside, "%s/" PROGRAM, copy);
    if (realpath(inside, program) == NULL) return because(copy, "", errno);
    words[0] = loader;
    words[1] = "--library-path";
    words[2] = (char *)copy;
    words[3] = program;
    for (int word = 1; word < argc; word++) words[word + 3] = argv[word];
    tell_own_path();
    skip_restart(program);
    /* Libraries made for the host's libc, which may need a newer one than is in here. */
    unsetenv("LD_PRELOAD");
    unsetenv("LD_AUDIT");
    /* Python's start would print a traceback: build/hook.py lets Ctrl-C through again. */
    hold_interrupts(SIG_BLOCK);
    execv(loader, words);
    int code = errno;
    hold_interrupts(SIG_UNBLOCK);
    free(words);
    return because(copy, "", code);
}

static void start_from(const struct place *place, int argc, char **argv) {
    char folder[PATH_MAX], copy[PATH_MAX];
    if (folder_in(place, folder) && is_ours(folder) && have_copy(folder, copy))
        become(copy, argc, argv);
}

int main(int argc, char **argv) {
    const char *chosen = getenv(named.variable);
    /* A shell has it ignored for what it starts in the background. */
    if (signal(SIGINT, leave) == SIG_IGN) signal(SIGINT, SIG_IGN);
    if (chosen && *chosen) {
        start_from(&named, argc, argv);
    } else {
        for (size_t each = 0; each < sizeof places / sizeof *places; each++)
            start_from(&places[each], argc, argv);
    }
    fprintf(stderr,
            "tcgamirror: no place to unpack to (%s): name by TCGAMIRROR_CACHE a directory with "
            "100 MB of room from which programs may run\n",
            reasons);
    return full ? DISK_FULL : USAGE_ERROR;
}
