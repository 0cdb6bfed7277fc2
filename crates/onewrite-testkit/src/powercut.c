/* Stands between a program and the C library: remembers what of each file was synced.
 *
 * After each successful fsync or fdatasync of a regular file below ONEWRITE_POWERCUT, the file's bytes
 * are copied to FILE.synced. What is written later and never synced is what a power cut takes away.
 * The copy appears as a whole (a rename), so that a kill in between leaves the one before. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static int copy(int fd, const char *path) {
    char part[PATH_MAX + 16], whole[PATH_MAX + 16], bytes[65536];
    snprintf(part, sizeof part, "%s.synced-part", path);
    snprintf(whole, sizeof whole, "%s.synced", path);
    int out = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out < 0) return -1;
    off_t at = 0;
    ssize_t got;
    while ((got = pread(fd, bytes, sizeof bytes, at)) > 0) {
        for (ssize_t put = 0; put < got;) {
            ssize_t more = write(out, bytes + put, got - put);
            if (more < 0) { close(out); return -1; }
            put += more;
        }
        at += got;
    }
    close(out);
    return got < 0 ? -1 : rename(part, whole);
}

static void remember(int fd) {
    const char *folder = getenv("ONEWRITE_POWERCUT");
    struct stat found;
    char link[64], path[PATH_MAX + 1];
    if (!folder || fstat(fd, &found) != 0 || !S_ISREG(found.st_mode)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    if (length <= 0) return;
    path[length] = 0;
    if (strncmp(path, folder, strlen(folder)) != 0) return;
    /* Not opened again unless it must be: to close a file drops this process's locks on it (POSIX). */
    int write_only = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY;
    int in = write_only ? open(path, O_RDONLY | O_CLOEXEC) : fd;
    pthread_mutex_lock(&one_at_a_time);
    if (copy(in, path) != 0) {
        /* A test that goes on without this copy would prove nothing. */
        perror("powercut: a synced file cannot be copied");
        abort();
    }
    pthread_mutex_unlock(&one_at_a_time);
    if (write_only) close(in);
}

static int synced(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real ? real(fd) : -1;
    if (result == 0) remember(fd);
    return result;
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
